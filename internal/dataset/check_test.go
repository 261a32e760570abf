package dataset

import (
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/egress"
)

// What can never be read is told before anything is read.
func TestPlacesCheck(t *testing.T) {
	p := New(Config{Roots: []string{"/srv/data"}, Guard: &egress.Guard{}})
	for uri, want := range map[string]string{
		"/srv/data/a.csv":                        "",
		"/srv/data/{yyyy}/{MM}/{dd}.csv":         "",
		"file:///srv/data/a.csv":                 "",
		"s3://bucket/a.csv":                      "",
		"https://example.org/{yyyy}.csv":         "",
		"/srv/data/../secret.csv":                "--data-root",
		"/etc/passwd":                            "--data-root",
		"file:///etc/passwd":                     "--data-root",
		"file://host/srv/data/a.csv":             "no address of a file",
		"data/a.csv":                             "no absolute path",
		"/srv/data/{day}.csv":                    "no part of a date",
		"http://example.org/a.csv":               "http",
		"https://169.254.169.254/latest/{yyyy}/": "169.254.169.254",
	} {
		err := p.Check(uri)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
	if err := New(Config{Guard: &egress.Guard{}}).Check("/srv/data/a.csv"); err == nil || !strings.Contains(err.Error(), "lets no files") {
		t.Errorf("without roots: %v", err)
	}
}

func TestFiles(t *testing.T) {
	from := time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC)
	for uri, want := range map[string]string{
		"/data/live.csv":            "/data/live.csv",
		"/data/{yyyy}-{MM}-{dd}/":   "/data/2026-02-28/ to /data/2026-03-01/",
		"s3://b/{yyyy}.csv":         "s3://b/2026.csv",
		"/data/{day}.csv":           "/data/{day}.csv",
		"https://h/{yyyy}?sig=here": "https://h/2026",
	} {
		if got := (Reference{URI: uri, From: from, To: from.AddDate(0, 0, 2)}).Files(); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}
