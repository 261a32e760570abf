package manage

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// fakeReplayer remembers what it was asked for.
type fakeReplayer struct {
	jobs     []broker.LogReplay
	counted  []broker.LogReplay
	canceled []string
}

func (r *fakeReplayer) ReplayLog(_ context.Context, job broker.LogReplay) (broker.LogReplay, error) {
	job.ID, job.State = "r1", broker.ReplayRunning
	r.jobs = append(r.jobs, job)
	return job, nil
}

func (r *fakeReplayer) CountLog(_ context.Context, job broker.LogReplay) (broker.LogReplay, error) {
	r.counted = append(r.counted, job)
	job.Matched = 3
	return job, nil
}

func (r *fakeReplayer) LogReplays(resource.UID) []broker.LogReplay { return r.jobs }

func (r *fakeReplayer) CancelLogReplay(_ context.Context, _ resource.UID, id string) (broker.LogReplay, bool, error) {
	r.canceled = append(r.canceled, id)
	return broker.LogReplay{}, id == "r1", nil
}

func rate(n float64) *float64 { return &n }

// TestReplayProblems: each names field, value and remedy, and nothing is begun.
func TestReplayProblems(t *testing.T) {
	const from = "2026-03-01T12:00:00Z"
	for _, tt := range []struct {
		name string
		c    ReplayChange
		want string
	}{
		{"no begin", ReplayChange{}, "from: A replay needs from, the time of logging from which on events are delivered again, like 2026-03-02T12:00:00Z."},
		{"no time", ReplayChange{From: "yesterday"}, "from: The value 'yesterday' of from is not a time: write it like 2026-03-02T12:00:00Z."},
		{"backwards", ReplayChange{From: from, To: "2026-03-01T12:00:00+01:00"}, "to: The range ends at 2026-03-01T11:00:00Z, before it begins at 2026-03-01T12:00:00Z."},
		{"no rate", ReplayChange{From: from, Rate: rate(0)}, "rate: The value 0 of rate is out of range: use more than 0 and at most 100000 events a second, or leave it out."},
		{"wrong on the wire", ReplayChange{From: from, Invalid: fault.Field("rate", "A number.")}, "rate: A number."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			r := &fakeReplayer{}
			f.Replayer = r
			f.put(t, workspaceID+extension+"es1", hook(hookURL))
			_, err := f.ReplayEvents(context.Background(), f.owner, id(workspaceID+extension+"es1"), tt.c)
			if got := problems(err); got != tt.want || len(r.jobs) != 0 {
				t.Errorf("got\n%s\nwant\n%s; %d begun", got, tt.want, len(r.jobs))
			}
		})
	}
}

// TestReplayEvents: what is asked of the broker, and who may.
func TestReplayEvents(t *testing.T) {
	f := newFixture(t)
	r := &fakeReplayer{}
	f.Replayer = r
	topic := f.topic(t, "orders", "")
	at := id(topicsPrefix + "orders" + extension + "es1")
	es := f.put(t, at.String(), hook(hookURL))
	c := ReplayChange{From: "2026-03-01T12:00:00+01:00", Filter: json.RawMessage(`{"subjectBeginsWith":"a"}`), Rate: rate(50)}
	contributor := f.user(t, access.RoleContributor, topicsPrefix+"orders")
	before := time.Now()
	if _, err := f.ReplayEvents(context.Background(), contributor, at, c); err != nil {
		t.Fatal(err)
	}
	job := r.jobs[0]
	if job.UID != es.Value.UID || job.Topic != topic.Value.UID || job.From.Format(time.RFC3339) != "2026-03-01T11:00:00Z" ||
		job.To.Before(before.Add(-time.Second)) || job.Filter.SubjectBeginsWith != "a" || job.Rate != 50 || job.By == "" {
		t.Errorf("asked for %+v", job)
	}
	c.DryRun = true
	if got, err := f.ReplayEvents(context.Background(), contributor, at, c); err != nil || got.Matched != 3 || len(r.jobs) != 1 || len(r.counted) != 1 {
		t.Errorf("counted %+v, %v", got, err)
	}
	if jobs, err := f.Replays(context.Background(), contributor, at); err != nil || len(jobs) != 1 {
		t.Errorf("%v %v", jobs, err)
	}
	if err := f.CancelReplay(context.Background(), contributor, at, "r1"); err != nil || len(r.canceled) != 1 {
		t.Errorf("%v %v", r.canceled, err)
	}

	reader := f.user(t, access.RoleReader, topicsPrefix+"orders")
	for name, err := range map[string]error{
		"count":  func() error { _, err := f.ReplayEvents(context.Background(), reader, at, c); return err }(),
		"replay": func() error { _, err := f.ReplayEvents(context.Background(), reader, at, ReplayChange{}); return err }(),
		"cancel": f.CancelReplay(context.Background(), reader, at, "r1"),
	} {
		if !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s by a reader: %v", name, err)
		}
	}
	if _, err := f.Replays(context.Background(), reader, at); err != nil {
		t.Errorf("a reader may list: %v", err)
	}
	if len(r.jobs) != 1 || len(r.canceled) != 1 {
		t.Errorf("a reader began or canceled one")
	}
}
