package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	if code, _, errs := runDrift(t.Context(), t.TempDir(), "--format", "csv"); code != exitUntold || !strings.Contains(errs, "is a directory") {
		t.Errorf("a directory: exit code %d, %s", code, errs)
	}
}
