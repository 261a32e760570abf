package arm

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
)

// fakeReplayer has one replay, half done.
type fakeReplayer struct{ job *broker.LogReplay }

func (r *fakeReplayer) ReplayLog(_ context.Context, job broker.LogReplay) (broker.LogReplay, error) {
	job.ID, job.State, job.Created = "r1", broker.ReplayRunning, time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	job.Begin, job.End, job.Next, job.Matched = 10, 20, uint64(engine.At(15, 0)), 4
	r.job = &job
	return job, nil
}

func (r *fakeReplayer) CountLog(_ context.Context, job broker.LogReplay) (broker.LogReplay, error) {
	job.Matched = 4
	return job, nil
}

func (r *fakeReplayer) LogReplays(resource.UID) []broker.LogReplay {
	if r.job == nil {
		return nil
	}
	return []broker.LogReplay{*r.job}
}

func (r *fakeReplayer) CancelLogReplay(_ context.Context, _ resource.UID, id string) (broker.LogReplay, bool, error) {
	if r.job == nil || r.job.ID != id {
		return broker.LogReplay{}, false, nil
	}
	r.job.State = broker.ReplayCanceled
	return *r.job, true, nil
}

// TestReplays goes once through the life of a replay.
func TestReplays(t *testing.T) {
	s := newStack(t)
	s.plane.Replayer = &fakeReplayer{}
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	es := grids + "/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	s.must("owner", "PUT", es+v, hookBody)
	const body = `{"from":"2026-03-01T08:00:00Z","to":"2026-03-02T00:00:00Z","filter":{"subjectBeginsWith":"a"},"rate":50`
	type replay struct {
		ID, Name, Type string
		Properties     struct {
			State         string
			Progress      float64
			Rate          float64
			DryRun        bool
			MatchedEvents int
			From, To      time.Time
			Filter        struct{ SubjectBeginsWith string }
		}
	}
	do := func(method, target, body string, want int) (r replay) {
		t.Helper()
		w := s.do("owner", method, target+v, body)
		if w.Code != want {
			t.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
		}
		if w.Body.Len() > 0 {
			if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	if r := do("POST", es+ReplaysPath, body+`,"dryRun":true}`, 200); r.ID != "" || !r.Properties.DryRun || r.Properties.MatchedEvents != 4 || r.Properties.State != "done" {
		t.Errorf("counted %+v", r)
	}
	do("GET", es+ReplaysPath+"/r1", "", 404)
	made := do("POST", es+ReplaysPath, body+"}", 201)
	if p := made.Properties; made.ID != es+ReplaysPath+"/r1" || p.State != "running" || p.Progress != 0.5 || p.Rate != 50 || p.Filter.SubjectBeginsWith != "a" || !p.From.Before(p.To) {
		t.Errorf("made %+v", made)
	}
	if r := do("GET", made.ID, "", 200); r != made {
		t.Errorf("shown %+v", r)
	}
	if r := do("GET", grids+"/topics/orders/eventSubscriptions/es1"+ReplaysPath+"/r1", "", 200); r.Properties != made.Properties {
		t.Errorf("below the topic %+v", r)
	}
	var list struct{ Value []replay }
	if err := json.Unmarshal(s.must("owner", "GET", es+ReplaysPath+v, "").Body.Bytes(), &list); err != nil || len(list.Value) != 1 || list.Value[0] != made {
		t.Errorf("list %+v %v", list, err)
	}
	do("DELETE", made.ID, "", 204)
	if r := do("GET", made.ID, "", 200); r.Properties.State != "canceled" {
		t.Errorf("after the cancel %+v", r)
	}
	for _, bad := range []string{`{}`, body + `,"dryRun":"yes"}`, body + `,"rate":"fast"}`, `{"from":"x"}`} {
		do("POST", es+ReplaysPath, bad, 400)
	}
	do("POST", es+"x"+ReplaysPath, body+"}", 404)
}
