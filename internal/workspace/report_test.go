package workspace

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/mlevent"
)

// report reads "Running@3", what happened in second 3; "@3" says nothing of the status.
func report(t *testing.T, text string) RunReport {
	t.Helper()
	status, second, _ := strings.Cut(text, "@")
	n, err := strconv.Atoi(second)
	if err != nil {
		t.Fatal(err)
	}
	return RunReport{
		Source: SourceOpenLineage, ID: "r1", ExperimentID: "e1", Experiment: "team / churn", Status: RunStatus(status),
		At: time.Date(2026, 3, 2, 12, 0, n, 0, time.UTC), Properties: map[string]string{"last": text, "of " + text: "1"},
	}
}

// tell makes reports and returns the ids of the events that came of them.
func (b *bench) tell(t *testing.T, reports string) (ids []string) {
	t.Helper()
	for text := range strings.FieldsSeq(reports) {
		if _, err := b.ReportRun(t.Context(), b.ws, report(t, text), bridge); err != nil {
			t.Fatal(err)
		}
	}
	_, events := b.log.since(0)
	for _, e := range events {
		ids = append(ids, field(e, "id"))
	}
	return ids
}

// named returns the ids of events written as status/generation, and RunCompleted/generation.
func named(want string) (ids []string) {
	topic := workspaceID.String()
	for word := range strings.FieldsSeq(want) {
		status, generation, _ := strings.Cut(word, "/")
		n, _ := strconv.ParseInt(generation, 10, 64)
		if status == "RunCompleted" {
			ids = append(ids, mlevent.RunCompletedID(topic, "r1", n))
		} else {
			ids = append(ids, mlevent.RunStatusChangedID(topic, "r1", n, RunStatus(status), 1))
		}
	}
	return ids
}

// Source: spec/workspace.md sections 5.4 and 6.1.
func TestReportsOfRuns(t *testing.T) {
	for name, c := range map[string]struct{ reports, want, status string }{
		"begins and ends":              {"Running@1 Completed@2", "Running/1 Completed/1 RunCompleted/1", "Completed"},
		"fails":                        {"Running@1 Failed@2", "Running/1 Failed/1", "Failed"},
		"is aborted":                   {"Running@1 Canceled@2", "Running/1 Canceled/1", "Canceled"},
		"only its end is told":         {"Completed@2", "Completed/1 RunCompleted/1", "Completed"},
		"something else before":        {"@1 Running@2", "Running/1", "Running"},
		"nothing but something else":   {"@1 @2", "", "NotStarted"},
		"something else after":         {"Running@1 Completed@2 @3", "Running/1 Completed/1 RunCompleted/1", "Completed"},
		"each twice":                   {"Running@1 Running@1 Completed@2 Completed@2 Running@1", "Running/1 Completed/1 RunCompleted/1", "Completed"},
		"the beginning comes late":     {"Completed@2 Running@1", "Completed/1 RunCompleted/1", "Completed"},
		"late, of a clock that is off": {"Completed@2 Running@3 Running@3", "Completed/1 RunCompleted/1", "Completed"},
		"ends before it begins":        {"Running@3 Completed@2", "Running/1 Completed/1 RunCompleted/1", "Completed"},
		"goes on":                      {"Running@1 Failed@2 Running@3 Completed@4", "Running/1 Failed/1 Running/2 Completed/2 RunCompleted/2", "Completed"},
		"goes on, its end told again":  {"Running@1 Failed@2 Running@3 Failed@2", "Running/1 Failed/1 Running/2", "Running"},
		"another end is a correction":  {"Running@1 Completed@2 Failed@3", "Running/1 Completed/1 RunCompleted/1 Failed/2", "Failed"},
		"another end, overtaken":       {"Running@1 Failed@3 Completed@2", "Running/1 Failed/1", "Failed"},
		"another end of the same time": {"Running@1 Failed@2 Completed@2", "Running/1 Failed/1", "Failed"},
		"the same end later":           {"Running@1 Failed@2 Failed@3", "Running/1 Failed/1", "Failed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, allStatuses)
			if got := b.tell(t, c.reports); !slices.Equal(got, named(c.want)) {
				t.Errorf("events %q, want %q of %s", got, named(c.want), c.want)
			}
			r, err := b.GetRun(t.Context(), b.ws, "e1", "r1")
			if err != nil || string(r.Status) != c.status || r.RunType != "openlineage.run" || r.Experiment != "team / churn" {
				t.Errorf("run is %+v, error %v; want it %s", r, err, c.status)
			}
			if open, err := b.OpenMirrored(t.Context(), b.ws); err != nil || len(open) > 0 {
				t.Errorf("%d runs are to be asked after, error %v", len(open), err)
			}
		})
	}
}

// Whatever the order, and with each report told twice, a run ends once and what was said
// of it is the same.
func TestReportsInAnyOrder(t *testing.T) {
	reports := []string{"Running@1", "@2", "Completed@3", "@4"}
	var want map[string]string
	var all func(chosen []string)
	all = func(chosen []string) {
		if len(chosen) == 2*len(reports) {
			b := newBench(t, allStatuses)
			ids := b.tell(t, strings.Join(chosen, " "))
			completed := named("Completed/1 RunCompleted/1")
			if running := named("Running/1"); len(ids) == 3 && ids[0] == running[0] {
				ids = ids[1:]
			}
			if !slices.Equal(ids, completed) {
				t.Fatalf("%q raise %q, want %q at their end", chosen, ids, completed)
			}
			r, err := b.GetRun(t.Context(), b.ws, "e1", "r1")
			if want == nil {
				want = r.Properties
			}
			if err != nil || !maps.Equal(r.Properties, want) || r.StartTime == "" || r.EndTime == "" {
				t.Fatalf("%q leave %+v, error %v; want the properties %v", chosen, r, err, want)
			}
			return
		}
		for _, next := range reports {
			if len(chosen) < len(reports) && !slices.Contains(chosen, next) {
				all(append(slices.Clone(chosen), next))
			}
		}
		if len(chosen) == len(reports) { // all of them again, in the same order and backwards
			again := slices.Clone(chosen)
			all(append(slices.Clone(chosen), again...))
			slices.Reverse(again)
			all(append(slices.Clone(chosen), again...))
		}
	}
	all(nil)
	if want["last"] != "@4" {
		t.Errorf("the newest report does not count: %v", want)
	}
}

// What nobody changes here says so.
func TestReportedRunIsNotChanged(t *testing.T) {
	b := newBench(t)
	b.tell(t, "Running@1")
	_, err := b.PatchRun(t.Context(), b.ws, "e1", "r1", status(Completed), kim)
	if err == nil || !strings.Contains(err.Error(), "OpenLineage") {
		t.Errorf("error is %v", err)
	}
}

// Many reports with labels of their own do not outgrow an event.
func TestReportsAreBounded(t *testing.T) {
	b := newBench(t)
	for n := range 8 {
		o := report(t, "Running@1")
		o.Tags = map[string]string{fmt.Sprint("tag", n): strings.Repeat("x", 60<<10)}
		if _, err := b.ReportRun(t.Context(), b.ws, o, bridge); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.GetRun(t.Context(), b.ws, "e1", "r1")
	size := 0
	for _, m := range []map[string]string{r.Tags, r.Properties} {
		for k, v := range m {
			size += len(k) + len(v)
		}
	}
	if err != nil || size > MaxLabels || len(r.Tags) != 8 || r.Properties["carillon.truncated"] != "true" {
		t.Errorf("%d bytes of labels, %d tags, error %v", size, len(r.Tags), err)
	}
}
