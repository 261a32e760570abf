package manage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// token returns what the validation link of a handshake carries.
func token(t *testing.T, r ValidationRequest) string {
	t.Helper()
	u, err := url.Parse(r.ValidationURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("token")
}

func TestHandshakeRequest(t *testing.T) {
	f := newFixture(t)
	at := strings.ToLower(workspaceID) + extension + "es1"
	v := f.put(t, at, hook(hookURL))
	r := f.endpoint.last()
	if r.URL != hookURL || r.Name != "es1" || r.Schema != event.EventGridSchema || r.Rate != 0 || r.Origin != "eventgrid.azure.net" {
		t.Errorf("request %+v", r)
	}
	if want := local + "/providers/microsoft.machinelearningservices/workspaces/default"; r.TopicID != want {
		t.Errorf("topic %s, want %s", r.TopicID, want)
	}
	if !regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`).MatchString(r.Code) {
		t.Errorf("code %s is no upper-case GUID", r.Code)
	}
	link := regexp.MustCompile(`^https://localhost:7443/eventsubscriptions/` + v.Value.UID.String() + `/validate\?token=[A-Za-z0-9_-]{43}$`)
	if !link.MatchString(r.ValidationURL) {
		t.Errorf("link %s", r.ValidationURL)
	}
}

func TestRefusedHandshakeCreatesNothing(t *testing.T) {
	f := newFixture(t)
	f.endpoint.will(refusing)
	at := workspaceID + extension + "es1"
	_, err := f.PutEventSubscription(context.Background(), f.owner, id(at), hook(hookURL), Precondition{})
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Code != "Url validation" {
		t.Errorf("error %v", err)
	}
	if _, err := f.EventSubscription(context.Background(), f.owner, id(at)); !fault.Is(err, fault.NotFound) {
		t.Errorf("GET: %v", err)
	}
	if got := f.broker.took(); got != "" {
		t.Errorf("broker saw: %s", got)
	}
	if _, err := f.Consent(context.Background(), 1, token(t, f.endpoint.last()), ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("link of a refused handshake: %v", err)
	}
}

// A refused change shows on the event subscription, which goes on as it was.
func TestRefusedChangeGoesOnAsBefore(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.put(t, at, hook(hookURL))
	f.endpoint.will(silent) // a change that waits, and is given up by the next
	f.put(t, at, hook("https://h.example/waits"))
	link := f.endpoint.last()
	f.endpoint.will(refusing)
	f.broker.took()
	c := hook("https://h.example/other")
	c.Labels = &[]string{"new"}
	for _, change := range []func(context.Context, access.Caller, resource.ID, EventSubscriptionChange, Precondition) (EventSubscription, error){
		f.PutEventSubscription, f.PatchEventSubscription,
	} {
		if _, err := change(ctx, f.owner, id(at), c, Precondition{}); !fault.Is(err, fault.Invalid) {
			t.Fatalf("error %v", err)
		}
		es := f.get(t, at).Value
		if es.State != resource.Failed || !strings.HasPrefix(es.Failure, "Webhook validation handshake failed") || es.Pending != nil || es.Validation != nil {
			t.Errorf("state %s (%s), pending %v, validation %v", es.State, es.Failure, es.Pending, es.Validation)
		}
		if !es.Active || es.Destination.WebHook.BaseURL != "https://h.example/in" || es.Labels != nil {
			t.Errorf("active %t, delivers to %s, labels %v", es.Active, es.Destination.WebHook.BaseURL, es.Labels)
		}
	}
	if live := f.Live(); len(live) != 1 || f.broker.took() != "" {
		t.Errorf("%d live", len(live))
	}
	if _, err := f.Consent(ctx, f.get(t, at).Value.UID, token(t, link), ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("link of the change that was given up: %v", err)
	}
	f.endpoint.will(nil) // not Succeeded: the same settings are asked about again
	asked := f.endpoint.count()
	if _, err := f.PatchEventSubscription(ctx, f.owner, id(at), EventSubscriptionChange{}, Precondition{}); err != nil {
		t.Fatal(err)
	}
	if es := f.get(t, at).Value; es.State != resource.Succeeded || es.Failure != "" || f.endpoint.count() != asked+1 {
		t.Errorf("after it was repaired: state %s (%s), asked %d times", es.State, es.Failure, f.endpoint.count()-asked)
	}
}

// A request that ends for another reason than the endpoint's answer shows nowhere.
func TestInterruptedChangeChangesNothing(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	before := f.put(t, at, hook(hookURL))
	ctx, cancel := context.WithCancel(context.Background())
	f.endpoint.will(func(context.Context, ValidationRequest) (ValidationResult, error) {
		cancel()
		return ValidationResult{}, ctx.Err()
	})
	if _, err := f.PutEventSubscription(ctx, f.owner, id(at), hook(hookURL), Precondition{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if after := f.get(t, at); after.ETag() != before.ETag() || after.Value.State != resource.Succeeded {
		t.Errorf("etag %s (was %s), state %s", after.ETag(), before.ETag(), after.Value.State)
	}
}

// Source: spec/delivery.md section 1.7.
func TestPutAsksAgain(t *testing.T) {
	attribute := withAttributes(hookURL, static("x-a", "1", false))
	tls := hook(hookURL)
	tls.Destination.Extra = []byte(`{"minimumTlsVersionAllowed":"1.2"}`)
	schema := hook(hookURL)
	schema.DeliverySchema = text("CloudEventSchemaV1_0")
	filter := hook(hookURL)
	filter.Filter = []byte(`{"subjectBeginsWith":"runs/"}`)
	tests := []struct {
		name   string
		c      EventSubscriptionChange
		always bool // what the operator set: validate on every PUT
		asks   bool
	}{
		{"nothing changed, on every PUT", hook(hookURL), true, true},
		{"nothing changed", hook(hookURL), false, false},
		{"the filter changed", filter, false, false},
		{"the endpoint changed", hook(hookURL + "2"), false, true},
		{"the delivery schema changed", schema, false, true},
		{"the attributes changed", attribute, false, true},
		{"the TLS version changed", tls, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.ValidateOnChangeOnly = !tt.always
			at := workspaceID + extension + "es1"
			f.put(t, at, hook(hookURL))
			f.put(t, at, tt.c)
			if got := f.endpoint.count() == 2; got != tt.asks {
				t.Errorf("asked again: %t, want %t", got, tt.asks)
			}
		})
	}
	t.Run("not Succeeded", func(t *testing.T) {
		f := newFixture(t)
		f.ValidateOnChangeOnly = true
		f.endpoint.will(silent)
		at := workspaceID + extension + "es1"
		f.put(t, at, hook(hookURL))
		f.put(t, at, hook(hookURL))
		if n := f.endpoint.count(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestManualHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { _ = f.Run(ctx) }()
		f.endpoint.will(silent)
		at := workspaceID + extension + "es1"
		v := f.put(t, at, hook(hookURL))
		if v.Value.State != resource.AwaitingManualAction || v.Value.Active || v.Value.Validation.Message == "" {
			t.Fatalf("state %s, active %t, %+v", v.Value.State, v.Value.Active, v.Value.Validation)
		}
		if got := f.broker.took(); got != "" {
			t.Errorf("broker saw before consent: %s", got)
		}
		tok, uid := token(t, f.endpoint.last()), v.Value.UID
		for what, wrong := range map[string]struct {
			uid   resource.UID
			token string
		}{"token": {uid, tok[1:] + "A"}, "empty token": {uid, ""}, "uid": {uid + 1, tok}} {
			if _, err := f.Consent(ctx, wrong.uid, wrong.token, ""); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), tok) {
				t.Errorf("wrong %s: %v", what, err)
			}
		}
		time.Sleep(ManualWindow - time.Second)
		for range 2 { // the link may be opened twice
			if _, err := f.Consent(ctx, uid, tok, ""); err != nil {
				t.Fatalf("consent: %v", err)
			}
		}
		if es := f.get(t, at).Value; es.State != resource.Succeeded || !es.Active || es.FilterGeneration != 1 {
			t.Errorf("state %s, active %t, generation %d", es.State, es.Active, es.FilterGeneration)
		}
		if got := f.broker.took(); got != "activate es1" {
			t.Errorf("broker saw: %s", got)
		}
		time.Sleep(time.Hour)
		if es := f.get(t, at).Value; es.State != resource.Succeeded {
			t.Errorf("an hour later: %s", es.State)
		}
		if _, err := f.Consent(ctx, uid, tok, ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("an old link: %v", err)
		}
	})
}

func TestManualHandshakeLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { _ = f.Run(ctx) }()
		f.endpoint.will(silent)
		at := workspaceID + extension + "es1"
		v := f.put(t, at, hook(hookURL))
		time.Sleep(ManualWindow + time.Second)
		es := f.get(t, at).Value
		if es.State != resource.Failed || es.Active || es.Failure != "Nobody opened the validation link within 10m0s." {
			t.Errorf("state %s, active %t, %q", es.State, es.Active, es.Failure)
		}
		if _, err := f.Consent(ctx, v.Value.UID, token(t, f.endpoint.last()), ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("late consent: %v", err)
		}
		f.endpoint.will(nil)
		if again := f.put(t, at, hook(hookURL)).Value; again.State != resource.Succeeded || again.Failure != "" || !again.Active {
			t.Errorf("PUT after failure: state %s, %q", again.State, again.Failure)
		}
	})
}

func TestManualHandshakeLapsesAcrossRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.endpoint.will(silent)
		waits := f.put(t, workspaceID+extension+"waits", hook(hookURL))
		tok := token(t, f.endpoint.last())
		f.put(t, workspaceID+extension+"lapses", hook(hookURL))
		time.Sleep(ManualWindow / 2)
		f.start(t)
		if _, err := f.Consent(context.Background(), waits.Value.UID, tok, ""); err != nil {
			t.Errorf("consent after a restart: %v", err)
		}
		time.Sleep(ManualWindow)
		f.start(t)
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { _ = f.Run(ctx) }()
		synctest.Wait()
		if es := f.get(t, workspaceID+extension+"lapses").Value; es.State != resource.Failed {
			t.Errorf("state %s", es.State)
		}
		if err := f.Restore(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := f.broker.took(); got != "activate waits, activate waits" {
			t.Errorf("broker saw: %s", got)
		}
	})
}

// A changed endpoint gets nothing before it consented, and the old one misses
// nothing until then.
func TestChangeWaitsBesideTheLiveOne(t *testing.T) {
	for _, consent := range []bool{true, false} {
		t.Run(map[bool]string{true: "consent", false: "lapse"}[consent], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				ctx, stop := context.WithCancel(context.Background())
				defer stop()
				go func() { _ = f.Run(ctx) }()
				at := workspaceID + extension + "es1"
				f.put(t, at, hook(hookURL))
				f.broker.took()
				f.endpoint.will(silent)
				c := hook("https://h.example/other?code=t0p")
				c.Filter = []byte(`{"subjectBeginsWith":"runs/"}`)
				v := f.put(t, at, c)
				if v.Value.State != resource.AwaitingManualAction || !v.Value.Active {
					t.Fatalf("state %s, active %t", v.Value.State, v.Value.Active)
				}
				if got := v.Value.Wanted().Destination.WebHook.BaseURL; got != "https://h.example/other" {
					t.Errorf("shows %s", got)
				}
				if got := v.Value.Destination.WebHook.BaseURL; got != "https://h.example/in" || v.Value.Filter.SubjectBeginsWith != "" {
					t.Errorf("live: %s, %+v", got, v.Value.Filter)
				}
				if got := f.broker.took(); got != "" {
					t.Errorf("broker saw: %s", got)
				}
				if live := f.Live(); len(live) != 1 || live[0].Destination.WebHook.BaseURL != "https://h.example/in" {
					t.Errorf("live after a restart: %+v", live)
				}
				want, base, generation := resource.Failed, "https://h.example/in", uint64(1)
				if consent {
					if _, err := f.Consent(ctx, v.Value.UID, token(t, f.endpoint.last()), ""); err != nil {
						t.Fatal(err)
					}
					want, base, generation = resource.Succeeded, "https://h.example/other", 2
					if got := f.broker.took(); got != "activate es1" {
						t.Errorf("broker saw: %s", got)
					}
				}
				time.Sleep(ManualWindow + time.Second)
				es := f.get(t, at).Value
				if es.State != want || es.Destination.WebHook.BaseURL != base || es.FilterGeneration != generation || es.Pending != nil || !es.Active {
					t.Errorf("in the end: state %s, %s, generation %d, pending %v, active %t", es.State, es.Destination.WebHook.BaseURL, es.FilterGeneration, es.Pending, es.Active)
				}
				if full, err := f.FullURL(ctx, f.owner, id(at)); err != nil || !strings.HasPrefix(full, base+"?") {
					t.Errorf("full URL %s, %v", full, err)
				}
			})
		})
	}
}

// An endpoint may open the link before it answered the handshake.
func TestConsentBeforeTheAnswer(t *testing.T) {
	f := newFixture(t)
	f.endpoint.will(func(ctx context.Context, r ValidationRequest) (ValidationResult, error) {
		u, err := url.Parse(r.ValidationURL)
		if err != nil {
			return ValidationResult{}, err
		}
		var uid resource.UID
		if err := uid.UnmarshalText([]byte(strings.Split(u.Path, "/")[2])); err != nil {
			return ValidationResult{}, err
		}
		if _, err := f.Consent(ctx, uid, u.Query().Get("token"), ""); err != nil {
			return ValidationResult{}, err
		}
		return silent(ctx, r)
	})
	if es := f.put(t, workspaceID+extension+"es1", hook(hookURL)).Value; es.State != resource.Succeeded || !es.Active {
		t.Errorf("state %s, active %t", es.State, es.Active)
	}
	if got := f.broker.took(); got != "activate es1" {
		t.Errorf("broker saw: %s", got)
	}
}

func TestHandshakeEndsWithTheRequest(t *testing.T) {
	f := newFixture(t)
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	f.endpoint.will(func(ctx context.Context, _ ValidationRequest) (ValidationResult, error) {
		cancel(gone)
		<-ctx.Done()
		return ValidationResult{}, ctx.Err()
	})
	_, err := f.PutEventSubscription(ctx, f.owner, id(workspaceID+extension+"es1"), hook(hookURL), Precondition{})
	if !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

// The source, or the event subscription itself, may change while a handshake runs.
func TestChangesWhileAHandshakeRuns(t *testing.T) {
	ctx := context.Background()
	at := topicsPrefix + "orders" + extension + "es1"
	tests := []struct {
		name  string
		there bool
		do    func(f *fixture) error
		want  fault.Kind
	}{
		{"the topic goes", true, func(f *fixture) error {
			_, err := f.DeleteTopic(ctx, f.owner, id(topicsPrefix+"orders"), Precondition{})
			return err
		}, fault.NotFound},
		{"the topic is another", true, func(f *fixture) error {
			if _, err := f.DeleteTopic(ctx, f.owner, id(topicsPrefix+"orders"), Precondition{}); err != nil {
				return err
			}
			_, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+"orders"), TopicChange{Tracked: Tracked{Location: "local"}}, Precondition{})
			return err
		}, fault.Conflict},
		{"it is deleted", true, func(f *fixture) error {
			_, err := f.DeleteEventSubscription(ctx, f.owner, id(at), Precondition{})
			return err
		}, fault.Conflict},
		{"it is paused", true, func(f *fixture) error {
			_, err := f.PauseEventSubscription(ctx, f.owner, id(at), Precondition{})
			return err
		}, fault.Conflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.topic(t, "orders", "")
			if tt.there {
				f.put(t, at, hook(hookURL))
			}
			f.endpoint.will(func(context.Context, ValidationRequest) (ValidationResult, error) {
				return ValidationResult{Validated: true}, tt.do(f)
			})
			_, err := f.PutEventSubscription(ctx, f.owner, id(at), hook(hookURL), Precondition{})
			if !fault.Is(err, tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// TestChangesQueue: changes of one event subscription come one after another, and none is
// refused for another; those that hold an etag are, and one whose caller has gone makes
// none.
func TestChangesQueue(t *testing.T) {
	at := topicsPrefix + "orders" + extension + "es1"
	for _, there := range []bool{false, true} {
		t.Run(fmt.Sprintf("there=%v", there), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.topic(t, "orders", "")
				etag := ""
				if there {
					f.put(t, at, hook(hookURL))
					etag = f.get(t, at).ETag()
				}
				f.endpoint.will(func(ctx context.Context, _ ValidationRequest) (ValidationResult, error) {
					time.Sleep(10 * time.Second)
					return ValidationResult{Validated: true}, ctx.Err()
				})
				before := f.endpoint.count()
				began := time.Now()
				answers := make([]error, 8)
				var all sync.WaitGroup
				for i := range answers {
					all.Go(func() {
						ctx, cancel := context.WithCancel(t.Context())
						pre := Precondition{}
						change := hook(hookURL)
						change.Labels = &[]string{fmt.Sprint(i)}
						switch i {
						case 5:
							pre.IfMatch = strconv.Quote(etag)
						case 6:
							time.AfterFunc(15*time.Second, cancel)
						}
						defer cancel()
						if i < 7 {
							_, answers[i] = f.PutEventSubscription(ctx, f.owner, id(at), change, pre)
						} else {
							_, answers[i] = f.PatchEventSubscription(ctx, f.owner, id(at), EventSubscriptionChange{Labels: change.Labels}, pre)
						}
					})
					synctest.Wait()
				}
				all.Wait()
				for i, err := range answers {
					switch {
					case i == 5 && !fault.Is(err, fault.PreconditionFailed), i == 6 && !errors.Is(err, context.Canceled), i != 5 && i != 6 && err != nil:
						t.Errorf("change %d: %v", i, err)
					}
				}
				if got := f.get(t, at).Value.Labels; !slices.Equal(got, []string{"7"}) {
					t.Errorf("labels %q, want those of the last change", got)
				}
				if took, n := time.Since(began), f.endpoint.count()-before; took != 50*time.Second || n != 5 {
					t.Errorf("%d handshakes in %s, want 5 one after another", n, took)
				}
				if len(f.changes.taken) != 0 {
					t.Errorf("%d turns are kept", len(f.changes.taken))
				}
			})
		})
	}
}

func TestActivationThatIsRefusedLeavesTheOldState(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.broker.refuse = fault.New(fault.Conflict, "Conflict", "16 generations wait.")
	if _, err := f.PutEventSubscription(context.Background(), f.owner, id(at), hook(hookURL), Precondition{}); !fault.Is(err, fault.Conflict) {
		t.Fatalf("error %v", err)
	}
	if all := f.Store.EventSubscriptions.List(""); len(all) != 0 {
		t.Errorf("%d event subscriptions", len(all))
	}
	f.broker.refuse = nil
	f.put(t, at, hook(hookURL))
	f.broker.refuse = fault.New(fault.Conflict, "Conflict", "16 generations wait.")
	_, err := f.PatchEventSubscription(context.Background(), f.owner, id(at), EventSubscriptionChange{Filter: []byte(`{"subjectEndsWith":"x"}`)}, Precondition{})
	if !fault.Is(err, fault.Conflict) {
		t.Fatalf("error %v", err)
	}
	if es := f.get(t, at).Value; es.Filter.SubjectEndsWith != "" || es.FilterGeneration != 1 {
		t.Errorf("filter %+v, generation %d", es.Filter, es.FilterGeneration)
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { _ = f.Run(ctx) }()
		at := workspaceID + extension + "es1"
		c := hook(hookURL)
		c.Expiration = text(time.Now().Add(90 * time.Minute).Format(time.RFC3339))
		v := f.put(t, at, c)
		f.put(t, workspaceID+extension+"stays", hook(hookURL))
		f.broker.took()
		f.broker.holds(v.Value.UID, 3)
		time.Sleep(90*time.Minute + time.Second)
		if f.get(t, at).Value.UID != v.Value.UID {
			t.Error("gone with open deliveries")
		}
		f.broker.holds(v.Value.UID, 0)
		time.Sleep(sweepAgain + time.Second)
		if _, err := f.EventSubscription(ctx, f.owner, id(at)); !fault.Is(err, fault.NotFound) {
			t.Errorf("after expiry: %v", err)
		}
		if got := f.broker.took(); got != "deactivate es1" {
			t.Errorf("broker saw: %s", got)
		}
		f.get(t, workspaceID+extension+"stays")
	})
}

func TestExpiryRestsWithTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		var rests atomic.Bool
		rests.Store(true)
		f.ClockRests = rests.Load
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { _ = f.Run(ctx) }()
		at := workspaceID + extension + "es1"
		c := hook(hookURL)
		c.Expiration = text(time.Now().Add(time.Hour).Format(time.RFC3339))
		f.put(t, at, c)
		time.Sleep(time.Hour + 10*time.Minute)
		f.get(t, at)
		rests.Store(false)
		time.Sleep(sweepAgain + time.Second)
		if _, err := f.EventSubscription(ctx, f.owner, id(at)); !fault.Is(err, fault.NotFound) {
			t.Errorf("after the rest: %v", err)
		}
	})
}

// A client that goes in the middle leaves nothing half done.
func TestChangesAreFinishedWithoutTheClient(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	gone, cancel := context.WithCancel(context.Background())
	f.endpoint.will(func(context.Context, ValidationRequest) (ValidationResult, error) {
		cancel()
		return ValidationResult{Validated: true}, nil
	})
	if _, err := f.PutEventSubscription(gone, f.owner, id(at), hook(hookURL), Precondition{}); err != nil {
		t.Errorf("PUT: %v", err)
	}
	if existed, err := f.DeleteEventSubscription(gone, f.owner, id(at), Precondition{}); err != nil || !existed {
		t.Errorf("DELETE: existed %t, %v", existed, err)
	}
	if got := f.broker.took(); got != "activate es1, deactivate es1" {
		t.Errorf("broker saw: %s", got)
	}
	f.endpoint.will(nil)
	f.put(t, at, hook(hookURL))
	if existed, err := f.DeleteGroup(gone, f.owner, id(local), Precondition{}); err != nil || !existed || len(f.broker.live) != 0 {
		t.Errorf("group: existed %t, %v, %d live", existed, err, len(f.broker.live))
	}
}

// What has no end costs the sweep nothing.
func TestWatchlist(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.put(t, at, hook(hookURL))
	if keys := f.watch.keys(); len(keys) != 0 {
		t.Errorf("watched: %v", keys)
	}
	c := hook(hookURL)
	c.Expiration = text("2090-01-01T00:00:00Z")
	v := f.put(t, at, c)
	if key, ok := f.watch.key(v.Value.UID); !ok || key != v.Key {
		t.Errorf("with an expiration time: %q, %t", key, ok)
	}
	f.put(t, at, hook(hookURL))
	if keys := f.watch.keys(); len(keys) != 0 {
		t.Errorf("without it again: %v", keys)
	}
	f.put(t, at, c)
	if _, err := f.DeleteEventSubscription(context.Background(), f.owner, id(at), Precondition{}); err != nil || len(f.watch.keys()) != 0 {
		t.Errorf("deleted: %v, %v", f.watch.keys(), err)
	}
}
