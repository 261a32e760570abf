package workspace

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The frames of a story with each of the five events, byte for byte. The facts
// are what every later version has to read, the events what receivers get.
func TestFrames(t *testing.T) {
	for _, casing := range []string{resource.PayloadCamelCase, resource.PayloadDocumented} {
		t.Run(casing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(ws *resource.Workspace) {
					ws.PayloadCasing, ws.StatusEvents = casing, []string{"Failed", "Completed"}
				})
				tell(t, b)
				golden(t, "frames_"+casing+".golden", frames(b.log))
			})
		})
	}
}

// tell makes one of everything and moves it.
func tell(t *testing.T, b *bench) {
	t.Helper()
	ctx := t.Context()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := b.PutRun(ctx, b.ws, "churn", "churn_1", RunChange{Status: ptr("Running"), RunType: ptr("azureml.scriptrun"),
		Tags: Labels{"owner": ptr("kim \"k\" <é>")}, Properties: Labels{"iteration": ptr("5")}, StartTime: ptr("2026-03-02T09:14:07Z")}, kim)
	do(err)
	_, err = b.PatchRun(ctx, b.ws, "churn", "churn_1", status(Completed), kim)
	do(err)
	_, _, err = b.PutRun(ctx, b.ws, "churn", "churn 2", status(Failed), kim)
	do(err)
	do(b.DeleteRun(ctx, b.ws, "churn", "churn 2", kim))
	_, err = b.RegisterModel(ctx, b.ws, "churn", ModelChange{Tags: Labels{"stage": ptr("candidate")}, ModelURI: ptr("s3://m/1"), RunID: ptr("churn_1")}, kim)
	do(err)
	_, _, err = b.PutModelVersion(ctx, b.ws, "churn", "blue", ModelChange{}, kim)
	do(err)
	_, _, err = b.PutEndpoint(ctx, b.ws, "churn-svc", EndpointChange{ComputeType: ptr("AKS"), ModelIDs: ptr("churn:1,scaler:2"), Tags: Labels{"team": ptr("crm")},
		ScoringURI: ptr("https://svc.example/score"), Readiness: readiness(60, 5)}, kim)
	do(err)
	_, err = b.PatchEndpoint(ctx, b.ws, "churn-svc", state("Healthy"), kim)
	do(err)
	_, _, err = b.PutMonitor(ctx, b.ws, "weekly", MonitorChange{Target: &DatasetChange{URI: ptr("file:///t.csv"), Format: ptr("csv"), TimestampColumn: ptr("at")}, Features: []string{"age"}}, kim)
	do(err)
	_, _, err = b.PostDriftRun(ctx, b.ws, "weekly", window(0.6125), kim)
	do(err)
}

// frames writes each record of each frame on a line: position, what it is, bytes.
func frames(l *fakeLog) []byte {
	var out bytes.Buffer
	out.WriteString("# Source: spec/events.md sections 4.1 to 4.4, spec/workspace.md sections 2, 3 and 5.5; facts are Carillon's own.\n")
	for i, frame := range l.frames {
		for j, r := range frame {
			what := "fact " + r.Key
			if r.Kind == engine.KindEvent {
				what = fmt.Sprintf("event %s of topic %016x", event.Schema(r.Schema), r.Topic)
			}
			fmt.Fprintf(&out, "%s %s\n  %s\n", engine.At(uint64(i+1), j), what, r.Data)
		}
	}
	return out.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s", path, got)
	}
}
