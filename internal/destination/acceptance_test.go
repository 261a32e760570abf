package destination

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// The acceptance tests of spec/delivery.md section 11 that are about handshakes, on
// the whole management plane, in fake time.

// plane is a management plane whose handshakes reach one endpoint over net.Pipe.
type plane struct {
	*manage.Plane
	t     *testing.T
	owner access.Caller

	mu    sync.Mutex
	link  *url.URL // the last validation link
	asked []time.Time
}

// live is an Activator that only counts what is live.
type live struct {
	mu sync.Mutex
	n  map[resource.UID]bool
}

func (l *live) Activate(_ context.Context, es *resource.EventSubscription) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n[es.UID] = true
	return nil
}

func (l *live) Deactivate(context.Context, resource.UID) error { return nil }

func (l *live) Open(resource.UID) int { return 0 }

// newPlane must be called in a bubble. serve answers the n-th request; it is given the
// validation code, which travels in a header of its own here.
func newPlane(t *testing.T, serve func(n int, r *http.Request, code string, c net.Conn)) *plane {
	t.Helper()
	p := &plane{t: t, owner: access.Caller{ObjectID: uuid.NewString(), Name: "owner", Type: access.User}}
	handshaker := piped(t, func(n int, r *http.Request, c net.Conn) {
		p.mu.Lock()
		p.asked = append(p.asked, time.Now())
		p.mu.Unlock()
		serve(n, r, r.Header.Get("test-code"), c)
	})
	store := resource.NewStore(resource.NewMemoryKV())
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	directory := access.NewDirectory(store, roles)
	authorizer, err := access.NewAuthorizer(directory, access.Strict)
	if err != nil {
		t.Fatal(err)
	}
	p.Plane = manage.New(manage.Config{
		Store: store, Access: authorizer, Directory: directory, Sealer: secret.NewSealer(secret.Key{1}), Activator: &live{n: map[resource.UID]bool{}},
		Handshaker: manage.HandshakerFunc(func(ctx context.Context, r manage.ValidationRequest) (manage.ValidationResult, error) {
			link, err := url.Parse(r.ValidationURL)
			if err != nil {
				return manage.ValidationResult{}, err
			}
			p.mu.Lock()
			p.link = link
			p.mu.Unlock()
			r.Headers = append(r.Headers, manage.Header{Name: "test-code", Value: r.Code})
			return handshaker.Validate(ctx, r)
		}),
		CheckURL: func(*url.URL) error { return nil }, PublicURL: "https://localhost:7443", Log: slog.New(slog.DiscardHandler),
	})
	ctx := t.Context()
	if err := store.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := directory.Assign(ctx, access.Assignment{
		Name: uuid.NewString(), Scope: resource.Root, RoleID: access.RoleOwner, PrincipalID: p.owner.ObjectID, PrincipalType: access.User,
	}, p.owner); err != nil {
		t.Fatal(err)
	}
	if err := p.Bootstrap(ctx, p.owner); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Run(ctx) }()
	return p
}

var subscriptionID = resource.MustID("/subscriptions/" + manage.FirstSubscription + "/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default/providers/Microsoft.EventGrid/eventSubscriptions/es1")

// put creates the event subscription.
func (p *plane) put(schema string) error {
	endpoint := "http://hooks.example.org/in?code=s3cret"
	_, err := p.PutEventSubscription(p.t.Context(), p.owner, subscriptionID, manage.EventSubscriptionChange{
		Target: "properties.", DeliverySchema: &schema,
		Destination: &manage.DestinationChange{Type: "WebHook", EndpointURL: &endpoint},
	}, manage.Precondition{})
	return err
}

// times returns when the endpoint was asked.
func (p *plane) times() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// state returns the provisioning state, "" when there is no event subscription.
func (p *plane) state() resource.ProvisioningState {
	v, err := p.EventSubscription(p.t.Context(), p.owner, subscriptionID)
	if err != nil {
		return ""
	}
	return v.Value.State
}

// open follows the last validation link, as the management API does.
func (p *plane) open() error { return p.allow("") }

// allow follows it with a rate.
func (p *plane) allow(rate string) error {
	p.mu.Lock()
	link := p.link
	p.mu.Unlock()
	var uid resource.UID
	if err := uid.UnmarshalText([]byte(strings.Split(link.Path, "/")[2])); err != nil {
		return err
	}
	_, err := p.Consent(p.t.Context(), uid, link.Query().Get("token"), rate)
	return err
}

// respond writes an answer.
func respond(c net.Conn, status int, body string, headers ...string) {
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d x\r\nContent-Length: %d\r\n", status, len(body))
	for i := 0; i+1 < len(headers); i += 2 {
		_, _ = fmt.Fprintf(c, "%s: %s\r\n", headers[i], headers[i+1])
	}
	_, _ = io.WriteString(c, "\r\n"+body)
}

// 200 and the code: Succeeded. 200 without it: AwaitingManualAction, and then GET
// within 10 minutes: Succeeded, or Failed. 202 never succeeds by itself. A hang of
// 30 s is followed by a second try after 5 s.
func TestAcceptance10Validation(t *testing.T) {
	code := func(code string) string { return `{"validationResponse":"` + code + `"}` }
	tests := []struct {
		name  string
		serve func(n int, code string, c net.Conn)
		took  time.Duration // until the PUT was answered
		want  resource.ProvisioningState
		open  time.Duration // when the link is followed after that; 0 = never
		end   resource.ProvisioningState
	}{
		{"200 and the code", func(_ int, v string, c net.Conn) { respond(c, 200, code(v)) }, 0, "Succeeded", 0, "Succeeded"},
		{"200 without it, then GET", func(_ int, _ string, c net.Conn) { respond(c, 200, "") }, 0, "AwaitingManualAction", 9*time.Minute + 59*time.Second, "Succeeded"},
		{"200 without it, and too late", func(_ int, _ string, c net.Conn) { respond(c, 200, "") }, 0, "AwaitingManualAction", 10*time.Minute + time.Second, "Failed"},
		{"200 without it, and nothing", func(_ int, _ string, c net.Conn) { respond(c, 200, "") }, 0, "AwaitingManualAction", 0, "Failed"},
		{"202 with the code", func(_ int, v string, c net.Conn) { respond(c, 202, code(v)) }, 0, "AwaitingManualAction", 0, "Failed"},
		{"a hang, then the code", func(n int, v string, c net.Conn) {
			if n == 1 {
				hang(c)
				return
			}
			respond(c, 200, code(v))
		}, 35 * time.Second, "Succeeded", 0, "Succeeded"},
		{"hangs", func(_ int, _ string, c net.Conn) { hang(c) }, 100 * time.Second, "", 0, ""},
		{"refused", func(_ int, _ string, c net.Conn) { respond(c, 404, "") }, 0, "", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlane(t, func(n int, _ *http.Request, v string, c net.Conn) { tt.serve(n, v, c) })
				began := time.Now()
				err := p.put("EventGridSchema")
				if took := time.Since(began); took != tt.took || fault.Is(err, fault.Invalid) != (tt.want == "") {
					t.Errorf("PUT took %v (want %v): %v", took, tt.took, err)
				}
				if asked := p.times(); tt.took > 30*time.Second && asked[1].Sub(asked[0]) != 35*time.Second {
					t.Errorf("the second try came %v after the first", asked[1].Sub(asked[0]))
				}
				if got := p.state(); got != tt.want {
					t.Errorf("after the PUT: %q, want %q", got, tt.want)
				}
				if tt.open > 0 {
					time.Sleep(tt.open)
					if err := p.open(); (err == nil) != (tt.end == "Succeeded") {
						t.Errorf("link: %v", err)
					}
				}
				time.Sleep(11 * time.Minute)
				if got := p.state(); got != tt.end {
					t.Errorf("in the end: %q, want %q", got, tt.end)
				}
			})
		})
	}
}

// "*" and the exact origin are accepted, others refused; a rate need not be allowed;
// consent may come by the callback, also while the OPTIONS request is still open. That
// the callback is taken by GET and by POST is shown on a real server by servertest.
func TestAcceptance11CloudEventsConsent(t *testing.T) {
	const allowed, rate = "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"
	tests := []struct {
		name      string
		headers   []string
		early     bool   // the callback comes before the answer
		allows    string // by the callback
		want      resource.ProvisioningState
		perMinute int // in the end, 0 = any number
	}{
		{"any origin", []string{allowed, "*", rate, "120"}, false, "", "Succeeded", 120},
		{"the exact origin", []string{allowed, "eventgrid.azure.net", rate, "60"}, false, "", "Succeeded", 60},
		{"any rate", []string{allowed, "eventgrid.azure.net", rate, "*"}, false, "", "Succeeded", 0},
		{"more than was asked for", []string{allowed, "eventgrid.azure.net", rate, "1000"}, false, "", "Succeeded", 1000},
		{"no rate", []string{allowed, "eventgrid.azure.net"}, false, "", "Succeeded", 0},
		{"no number", []string{allowed, "eventgrid.azure.net", rate, "often"}, false, "", "Succeeded", 120},
		{"not even one", []string{allowed, "eventgrid.azure.net", rate, "0"}, false, "", "Succeeded", 120},
		{"another origin", []string{allowed, "events.example.org"}, false, "", "", 0},
		{"no origin, a callback", nil, false, "", "AwaitingManualAction", 120},
		{"no origin, a callback with a rate", nil, false, "30", "AwaitingManualAction", 30},
		{"no origin, a callback with any rate", []string{rate, "30"}, false, "*", "AwaitingManualAction", 0},
		{"the callback before the answer", nil, true, "", "Succeeded", 120},
		{"the callback before the answer, with a rate", nil, true, "10", "Succeeded", 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p *plane
				p = newPlane(t, func(_ int, r *http.Request, _ string, c net.Conn) {
					if r.Method != http.MethodOptions || r.Header.Get("WebHook-Request-Origin") != "eventgrid.azure.net" || r.Header.Get("WebHook-Request-Rate") != "120" || r.Header.Get("WebHook-Request-Callback") == "" {
						t.Errorf("request %s %v", r.Method, r.Header)
					}
					if tt.early {
						if err := p.allow(tt.allows); err != nil {
							t.Error(err)
						}
					}
					respond(c, 200, "", tt.headers...)
				})
				if err := p.put("CloudEventSchemaV1_0"); fault.Is(err, fault.Invalid) != (tt.want == "") {
					t.Errorf("PUT: %v", err)
				}
				if got := p.state(); got != tt.want {
					t.Fatalf("state %q, want %q", got, tt.want)
				}
				if tt.want == "AwaitingManualAction" {
					if err := p.allow(tt.allows); err != nil || p.state() != resource.Succeeded {
						t.Errorf("callback: %v, state %s", err, p.state())
					}
				}
				if v, err := p.EventSubscription(t.Context(), p.owner, subscriptionID); err == nil && v.Value.Destination.WebHook.AllowedRate != tt.perMinute {
					t.Errorf("allowed %d requests a minute, want %d", v.Value.Destination.WebHook.AllowedRate, tt.perMinute)
				}
			})
		})
	}
}
