package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// progress is a bar on a terminal's last line; elsewhere nothing is written, or a line
// now and then.
type progress struct {
	out   io.Writer // nil = none
	lines io.Writer // where there is no bar; nil = none
	what  string    // what is done, such as "Replaying"
	begin time.Time
	drawn time.Time
}

const (
	barWidth  = 30
	drawEvery = 100 * time.Millisecond
	lineEvery = 5 * time.Second
)

func (a *app) progress(what string) *progress {
	p := &progress{what: what, begin: time.Now()}
	if terminal(a.stderr) && a.getenv("TERM") != "dumb" {
		p.out = a.stderr
	}
	return p
}

// show draws how much is done; part is 0 to 1.
func (p *progress) show(part float64, done uint64) {
	now := time.Now()
	if p.out == nil || now.Sub(p.drawn) < drawEvery && part < 1 {
		return
	}
	p.drawn = now
	full := int(min(max(part, 0), 1) * barWidth)
	rate := float64(done) / max(now.Sub(p.begin).Seconds(), 0.001)
	fmt.Fprintf(p.out, "\r\x1b[K%s [%s%s] %3.0f%%  %d events, %.0f/s", p.what,
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), part*100, done, rate)
}

// say draws what is being done, where it is not known how much there is.
func (p *progress) say(what string) {
	if p.out != nil {
		p.drawn = time.Now()
		fmt.Fprintf(p.out, "\r\x1b[K%s", oneLine(what))
	}
}

// line writes how much is done where there is no bar.
func (p *progress) line(format string, args ...any) {
	if now := time.Now(); p.out == nil && p.lines != nil && now.Sub(laterTime(p.begin, p.drawn)) >= lineEvery {
		p.drawn = now
		fmt.Fprintf(p.lines, format+"\n", args...)
	}
}

// end removes the bar.
func (p *progress) end() {
	if p.out != nil && !p.drawn.IsZero() {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// rest waits, unless ctx ends before.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
