package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/dataset"
)

// runDrift compares the training data with a file and returns the exit code.
func runDrift(ctx context.Context, target string, more ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	args := append([]string{"drift", "run", "--baseline", "testdata/drift/train.csv", "--target", target}, more...)
	code = Run(ctx, args, strings.NewReader(""), &out, &errs, func(string) string { return "" })
	return code, out.String(), errs.String()
}

// The report is a file, and no server is needed for it.
func TestDriftReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drift.html")
	code, out, errs := runDrift(t.Context(), "testdata/drift/shifted.csv", "--report", path)
	page, err := os.ReadFile(path)
	if code != exitFailed || err != nil || !strings.Contains(out, "Report       "+path) {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, errs)
	}
	for _, part := range []string{"<title>Drift of shifted.csv</title>", `<p class="verdict">Drift</p>`, "amount", "<svg"} {
		if !bytes.Contains(page, []byte(part)) {
			t.Errorf("the page has no %s", part)
		}
	}
	code, _, errs = runDrift(t.Context(), "testdata/drift/shifted.csv", "--report", filepath.Join(path, "below"))
	if code != exitUntold || !strings.Contains(errs, "not a directory") {
		t.Errorf("a report that cannot be written: exit code %d, %s", code, errs)
	}
}

// Who interrupts gets no verdict.
func TestDriftInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if code, out, errs := runDrift(ctx, "testdata/drift/shifted.csv"); code != exitUntold || out != "" || !strings.Contains(errs, "interrupted") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}

// Formats may differ, and the name need not tell.
func TestDriftFormats(t *testing.T) {
	raw, err := os.ReadFile("testdata/drift/train.csv")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "live.data")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := runDrift(t.Context(), path, "--format", "csv"); code != exitDone || !strings.Contains(out, "Coefficient  0 (classifier)") {
		t.Errorf("a file against itself: exit code %d\n%s%s", code, out, errs)
	}
	if code, _, errs := runDrift(t.Context(), t.TempDir(), "--format", "csv"); code != exitUntold || !strings.Contains(errs, "it has no files") {
		t.Errorf("an empty directory: exit code %d, %s", code, errs)
	}
}

// Datasets may be several files: all of a directory, or those of some days.
func TestDriftFiles(t *testing.T) {
	raw, err := os.ReadFile("testdata/drift/train.csv")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	header, rows, _ := strings.Cut(string(raw), "\n")
	lines := strings.SplitAfter(rows, "\n")
	for i, name := range []string{"2026-02-27.csv", "2026-02-28.csv", "2026-03-01.csv"} {
		text := header + "\n" + strings.Join(lines[i*80:(i+1)*80], "")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dates := filepath.Join(dir, "{yyyy}-{MM}-{dd}.csv")
	for _, tt := range []struct {
		target string
		more   []string
		code   int
		want   string
	}{
		{dir, nil, exitDone, ": 240 rows, 240 compared"},
		{dates, []string{"--start", "2026-02-27", "--end", "2026-03-02"}, exitDone, ": 240 rows, 240 compared"},
		{dates, []string{"--start", "2026-02-28", "--end", "2026-03-01"}, exitUntold, ": 80 rows, 80 compared"},
		{dates, []string{"--start", "2025-02-28", "--end", "2025-03-01"}, exitUntold, "{yyyy}-{MM}-{dd}.csv: it has no files"},
		{dates, nil, exitUsage, "--start is needed"},
		{filepath.Join(dir, "{YYYY}.csv"), []string{"--start", "2025-02-28", "--end", "2025-03-01"}, exitUntold, "{YYYY} is no part of a date"},
		{"https://u:s3cret@127.0.0.1:1/x.csv?sig=s3cret", nil, exitUntold, "https://127.0.0.1:1/x.csv: "},
	} {
		code, out, errs := runDrift(t.Context(), tt.target, tt.more...)
		if code != tt.code || !strings.Contains(out+errs, tt.want) || strings.Contains(out+errs, "s3cret") {
			t.Errorf("%s %v: exit code %d, %s%s", tt.target, tt.more, code, out, errs)
		}
	}
	if code, _, errs := runDrift(t.Context(), "testdata/drift/same.csv", "--baseline", dates); code != exitUsage || !strings.Contains(errs, "--baseline has dates in it") {
		t.Errorf("a baseline of dates: exit code %d, %s", code, errs)
	}
}

// Credentials stand where the stores' own tools look for them.
func TestDriftCredentials(t *testing.T) {
	env := map[string]string{}
	e := environs{func(name string) string { return env[name] }}
	if got := e.StorageAccounts(); got != nil {
		t.Errorf("without any: %q", got)
	}
	if b := e.Buckets()[0]; !b.SharedFile || b.Check() != nil {
		t.Errorf("without any: %v", b)
	}
	env = map[string]string{
		"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_SESSION_TOKEN": "token", "AWS_DEFAULT_REGION": "r", "AWS_ENDPOINT_URL": "https://s3.example",
		"AZURE_STORAGE_ACCOUNT": "dl", "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=x",
	}
	if got, want := e.Buckets()[0], (dataset.Bucket{Name: "*", Endpoint: "https://s3.example", Region: "r", AccessKeyID: "id", SecretAccessKey: "key", SessionToken: "token"}); got != want {
		t.Errorf("bucket %+v", got)
	}
	for name, want := range map[string]string{
		"":                                "BlobEndpoint=https://dl.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x",
		"AZURE_STORAGE_KEY":               "AccountName=dl;AccountKey=given",
		"AZURE_STORAGE_CONNECTION_STRING": "given",
	} {
		if env[name] = "given"; len(e.StorageAccounts()) != 1 || e.StorageAccounts()[0] != want {
			t.Errorf("with %s: %q, want %q", name, e.StorageAccounts(), want)
		}
		delete(env, name)
	}
}
