package manage

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		at := workspaceID + extension + "es1"
		f.put(t, at, hook(hookURL))
		f.broker.took()
		paused, err := f.PauseEventSubscription(t.Context(), f.owner, id(at), Precondition{})
		if err != nil || !paused.Value.Paused.Equal(time.Now()) || paused.Value.State != resource.Succeeded {
			t.Fatalf("%+v, %v", paused.Value, err)
		}
		if got := f.broker.took(); got != "activate es1" || f.broker.live[paused.Value.UID].Paused.IsZero() {
			t.Errorf("broker saw %q", got)
		}
		time.Sleep(time.Minute)
		again, err := f.PauseEventSubscription(t.Context(), f.owner, id(systemTopic+"/eventSubscriptions/es1"), Precondition{})
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("at the system topic: %+v, %v", again, err)
		}
		again, err = f.PauseEventSubscription(t.Context(), f.owner, id(at), Precondition{})
		if err != nil || again.ETag() != paused.ETag() || f.broker.took() != "" {
			t.Errorf("paused again: %v", err)
		}

		// Neither PUT nor PATCH resumes it.
		if es := f.put(t, at, hook("https://h.example/other")).Value; es.Paused.IsZero() || f.broker.live[es.UID].Paused.IsZero() {
			t.Error("PUT resumed it")
		}
		if v, err := f.PatchEventSubscription(t.Context(), f.owner, id(at), EventSubscriptionChange{Labels: &[]string{"a"}}, Precondition{}); err != nil || v.Value.Paused.IsZero() {
			t.Errorf("PATCH: %v", err)
		}
		f.start(t)
		if live := f.Live(); len(live) != 1 || live[0].Paused.IsZero() {
			t.Error("a restart resumed it")
		}
		resumed, err := f.ResumeEventSubscription(t.Context(), f.owner, id(at), Precondition{})
		if err != nil || !resumed.Value.Paused.IsZero() || !f.broker.live[resumed.Value.UID].Paused.IsZero() {
			t.Errorf("resumed: %+v, %v", resumed.Value, err)
		}
	})
}

// A change that waits for consent goes on waiting; what is live is paused.
func TestPauseBesideAPendingChange(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.put(t, at, hook(hookURL))
	f.endpoint.will(silent)
	f.put(t, at, hook("https://h.example/other"))
	v, err := f.PauseEventSubscription(ctx, f.owner, id(at), Precondition{})
	if err != nil || v.Value.Pending == nil || v.Value.State != resource.AwaitingManualAction {
		t.Fatalf("%+v, %v", v.Value, err)
	}
	live := f.broker.live[v.Value.UID]
	if live.Paused.IsZero() || live.Destination.WebHook.BaseURL != "https://h.example/in" {
		t.Errorf("live: %+v", live)
	}
	if _, err := f.Consent(ctx, v.Value.UID, token(t, f.endpoint.last()), ""); err != nil {
		t.Fatal(err)
	}
	if live := f.broker.live[v.Value.UID]; live.Paused.IsZero() || live.Destination.WebHook.BaseURL != "https://h.example/other" {
		t.Errorf("after consent: %+v", live)
	}
}

func TestPauseRefusals(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	if _, err := f.PauseEventSubscription(ctx, f.owner, id(at), Precondition{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("not there: %v", err)
	}
	v := f.put(t, at, hook(hookURL))
	if _, err := f.PauseEventSubscription(ctx, f.user(t, access.RoleReader, local), id(at), Precondition{}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a reader: %v", err)
	}
	if _, err := f.PauseEventSubscription(ctx, f.owner, id(at), Precondition{IfMatch: `"other"`}); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("another etag: %v", err)
	}
	f.broker.refuse = errors.New("the broker stops")
	if _, err := f.PauseEventSubscription(ctx, f.owner, id(at), Precondition{}); !errors.Is(err, f.broker.refuse) {
		t.Errorf("error %v", err)
	}
	if f.get(t, at).ETag() == v.ETag() {
		t.Error("a pause that is stored takes effect at the next start")
	}
}
