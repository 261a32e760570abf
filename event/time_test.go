package event

import (
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	tests := []struct {
		name, text, want string // want is empty for text that is no time
	}{
		{"RFC 3339", "2024-03-05T08:15:30Z", "2024-03-05T08:15:30Z"},
		{"seven digits, as the service stamps", "2024-03-05T08:15:30.1234567Z", "2024-03-05T08:15:30.1234567Z"},
		{"twelve digits", "2024-03-05T08:15:30.123456789999Z", "2024-03-05T08:15:30.123456789Z"},
		{"one digit", "2024-03-05T08:15:30.5Z", "2024-03-05T08:15:30.5Z"},
		{"captured offset", "2024-03-05T08:15:30.1234567+00:00", "2024-03-05T08:15:30.1234567Z"},
		{"east", "2024-03-05T08:15:30+05:30", "2024-03-05T02:45:30Z"},
		{"west, no colon", "2024-03-05T08:15:30-0800", "2024-03-05T16:15:30Z"},
		{"no zone", "2024-05-01T10:00:00", "2024-05-01T10:00:00Z"},
		{"no zone with fraction", "2024-05-01T10:00:00.25", "2024-05-01T10:00:00.25Z"},
		{"small letters", "2024-05-01t10:00:00z", "2024-05-01T10:00:00Z"},
		{"space", "2024-05-01 10:00:00", "2024-05-01T10:00:00Z"},
		{"no seconds", "2024-05-01T10:00Z", "2024-05-01T10:00:00Z"},
		{"date only", "2024-05-01", "2024-05-01T00:00:00Z"},
		{"leap day", "2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"},
		{"leap second", "2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"},
		{"no leap day", "2023-02-29T00:00:00Z", ""},
		{"month 13", "2024-13-01T00:00:00Z", ""},
		{"day 0", "2024-01-00T00:00:00Z", ""},
		{"hour 24", "2024-01-01T24:00:00Z", ""},
		{"minute 60", "2024-01-01T23:60:00Z", ""},
		{"offset hour 24", "2024-01-01T23:00:00+24:00", ""},
		{"dot without digits", "2024-01-01T23:00:00.Z", ""},
		{"half an offset", "2024-01-01T23:00:00+05", ""},
		{"word", "yesterday", ""},
		{"empty", "", ""},
		{"number", "1709626530", ""},
		{"more behind", "2024-01-01T23:00:00Z!", ""},
		{"two digit year", "24-01-01T23:00:00Z", ""},
		{"space before", " 2024-01-01T23:00:00Z", ""},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got, ok := ParseTime([]byte(c.text))
			if ok != (c.want != "") {
				t.Fatalf("ParseTime(%q) = %v, %v", c.text, got, ok)
			}
			if ok && got.Format(time.RFC3339Nano) != c.want {
				t.Errorf("ParseTime(%q) = %s, want %s", c.text, got.Format(time.RFC3339Nano), c.want)
			}
		})
	}
}

func TestFormatTime(t *testing.T) {
	at := time.Date(2026, 3, 1, 9, 5, 7, 120_000_099, time.FixedZone("", 3600))
	if got := FormatTime(at); got != "2026-03-01T08:05:07.1200000Z" {
		t.Errorf("got %s", got)
	}
}

// FuzzParseTime writes a time in each accepted way and reads it back; any other
// text must be refused or read without a crash.
func FuzzParseTime(f *testing.F) {
	f.Add("2024-05-01T10:00:00+0000", int64(1709626530), int32(123456700), int16(-480))
	f.Add("2024-05-01", int64(0), int32(0), int16(0))
	layouts := []string{time.RFC3339Nano, "2006-01-02T15:04:05.0000000Z07:00", "2006-01-02 15:04:05.999999999-0700", "2006-01-02t15:04:05.999999999Z07:00"}
	f.Fuzz(func(t *testing.T, text string, seconds int64, nanos int32, minutes int16) {
		ParseTime([]byte(text))
		zone := time.FixedZone("", int(minutes)%(24*60)*60)
		want := time.Unix(seconds%200_000_000_000, int64(nanos)).In(zone)
		if want.Year() < 0 || want.Year() > 9999 {
			return
		}
		for _, layout := range layouts {
			written := want.Format(layout)
			exact, err := time.Parse(layout, written)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := ParseTime([]byte(written)); !ok || !got.Equal(exact) {
				t.Fatalf("ParseTime(%q) = %v, %v, want %v", written, got, ok, exact)
			}
		}
	})
}
