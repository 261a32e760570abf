package event

import "time"

// FormatTime writes a time as Event Grid does: UTC, with seven digits of a second.
// Source: spec/delivery.md section 2.2, spec/events.md section 4.1.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// ParseTime reads the time of an event: RFC 3339, and what publishers write
// instead of it. A time without zone is UTC, the offset may lack its colon, a
// space may stand for the T, seconds or the whole time of day may be missing, and
// the fraction may have any number of digits (those beyond nanoseconds are cut).
// Source: spec/events.md section 1, "Be liberal on id and eventTime".
func ParseTime(text []byte) (time.Time, bool) {
	p := timeParser{rest: text}
	year := p.digits(4, 0, 9999)
	p.one("-")
	month := p.digits(2, 1, 12)
	p.one("-")
	day := p.digits(2, 1, 31)
	var hour, minute, second, nanos, offset int
	if len(p.rest) > 0 {
		p.one("Tt ")
		hour = p.digits(2, 0, 23)
		p.one(":")
		minute = p.digits(2, 0, 59)
		if p.next(":") {
			second = p.digits(2, 0, 60) // 60 is a leap second: the first of the next minute
			if p.next(".") {
				nanos = p.fraction()
			}
		}
		offset = p.zone()
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	if p.bad || len(p.rest) > 0 || day > daysIn(year, month) {
		return time.Time{}, false
	}
	return t.Add(-time.Duration(offset) * time.Minute), true
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// timeParser reads a time from the left; bad tells that something did not fit.
type timeParser struct {
	rest []byte
	bad  bool
}

// next takes one byte of set, if it is there.
func (p *timeParser) next(set string) bool {
	for i := range len(set) {
		if len(p.rest) > 0 && p.rest[0] == set[i] {
			p.rest = p.rest[1:]
			return true
		}
	}
	return false
}

// one takes one byte of set, which must be there.
func (p *timeParser) one(set string) {
	if !p.next(set) {
		p.bad = true
	}
}

// digits takes a number of n digits between low and high.
func (p *timeParser) digits(n, low, high int) (v int) {
	if len(p.rest) < n {
		p.bad = true
		return low
	}
	for _, c := range p.rest[:n] {
		if c < '0' || c > '9' {
			p.bad = true
			return low
		}
		v = v*10 + int(c-'0')
	}
	p.rest = p.rest[n:]
	if v < low || v > high {
		p.bad = true
		return low
	}
	return v
}

// fraction takes at least one digit and returns nanoseconds.
func (p *timeParser) fraction() (nanos int) {
	n := 0
	for len(p.rest) > 0 && p.rest[0]-'0' <= 9 {
		if n < 9 {
			nanos = nanos*10 + int(p.rest[0]-'0')
		}
		n++
		p.rest = p.rest[1:]
	}
	p.bad = p.bad || n == 0
	for ; n < 9; n++ {
		nanos *= 10
	}
	return nanos
}

// zone takes what is left of a time and returns the offset from UTC in minutes.
func (p *timeParser) zone() int {
	sign := 1
	switch {
	case len(p.rest) == 0 || p.next("Zz"):
		return 0
	case p.next("-"):
		sign = -1
	default:
		p.one("+")
	}
	hours := p.digits(2, 0, 23)
	p.next(":")
	return sign * (hours*60 + p.digits(2, 0, 59))
}
