package manage

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	local        = "/subscriptions/" + FirstSubscription + "/resourceGroups/local"
	workspaceID  = local + "/providers/Microsoft.MachineLearningServices/workspaces/default"
	systemTopic  = local + "/providers/Microsoft.EventGrid/systemTopics/default"
	extension    = "/providers/Microsoft.EventGrid/eventSubscriptions/"
	topicsPrefix = local + "/providers/Microsoft.EventGrid/topics/"
)

// fakeBroker is an Activator that remembers.
type fakeBroker struct {
	mu     sync.Mutex
	live   map[resource.UID]resource.EventSubscription
	calls  []string
	open   map[resource.UID]int
	refuse error
}

func (b *fakeBroker) Activate(ctx context.Context, es *resource.EventSubscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if b.refuse != nil {
		return b.refuse
	}
	b.live[es.UID] = *es
	b.calls = append(b.calls, "activate "+es.Name)
	return nil
}

func (b *fakeBroker) Deactivate(ctx context.Context, uid resource.UID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	b.calls = append(b.calls, "deactivate "+b.live[uid].Name)
	delete(b.live, uid)
	return nil
}

func (b *fakeBroker) Open(uid resource.UID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open[uid]
}

func (b *fakeBroker) holds(uid resource.UID, open int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[uid] = open
}

// took returns the calls since the last time it was asked.
func (b *fakeBroker) took() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := strings.Join(b.calls, ", ")
	b.calls = nil
	return calls
}

// endpoint is a Handshaker whose answers are set by tests.
type endpoint struct {
	mu     sync.Mutex
	asked  []ValidationRequest
	answer func(ctx context.Context, r ValidationRequest) (ValidationResult, error)
}

func (e *endpoint) Validate(ctx context.Context, r ValidationRequest) (ValidationResult, error) {
	e.mu.Lock()
	e.asked = append(e.asked, r)
	answer := e.answer
	e.mu.Unlock()
	if answer == nil {
		return ValidationResult{Validated: true}, nil
	}
	return answer(ctx, r)
}

func (e *endpoint) will(answer func(ctx context.Context, r ValidationRequest) (ValidationResult, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

// last returns the last handshake.
func (e *endpoint) last() ValidationRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.asked) == 0 {
		return ValidationRequest{}
	}
	return e.asked[len(e.asked)-1]
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

func silent(context.Context, ValidationRequest) (ValidationResult, error) {
	return ValidationResult{Message: "It answered 200 without the code."}, nil
}

func refusing(context.Context, ValidationRequest) (ValidationResult, error) {
	return ValidationResult{}, fault.New(fault.Invalid, URLValidation, "Webhook validation handshake failed for https://h.example/in.")
}

type fixture struct {
	*Plane
	kv       *resource.MemoryKV
	broker   *fakeBroker
	endpoint *endpoint
	owner    access.Caller

	through func(resource.KV) resource.KV // what the store writes through; nil for nothing
	keys    MasterKeys                    // nil: one key, for good

	keyFiles []KeyFiles
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		kv: resource.NewMemoryKV(), endpoint: &endpoint{},
		broker: &fakeBroker{live: map[resource.UID]resource.EventSubscription{}, open: map[resource.UID]int{}},
		owner:  access.Caller{ObjectID: uuid.NewString(), Name: "owner", Type: access.User},
	}
	f.start(t)
	ctx := context.Background()
	f.assign(t, f.owner, access.RoleOwner, "/")
	if err := f.Bootstrap(ctx, f.owner); err != nil {
		t.Fatal(err)
	}
	return f
}

// start makes a Plane over what is stored, as a process does.
func (f *fixture) start(t *testing.T) {
	t.Helper()
	kv := resource.KV(f.kv)
	if f.through != nil {
		kv = f.through(kv)
	}
	store := resource.NewStore(kv)
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	directory := access.NewDirectory(store, roles)
	authorizer, err := access.NewAuthorizer(directory, access.Strict)
	if err != nil {
		t.Fatal(err)
	}
	keys := []secret.Key{{1}}
	if f.keys != nil {
		if keys, err = f.keys.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.Plane = New(Config{
		Store: store, Access: authorizer, Directory: directory, Sealer: secret.NewSealer(keys[0], keys[1:]...), MasterKeys: f.keys, KeyFiles: f.keyFiles, Handshaker: f.endpoint, Activator: f.broker,
		CheckURL: func(u *url.URL) error {
			if u.Scheme != "https" {
				return fmt.Errorf("the URL must start with https://")
			}
			return nil
		},
		PublicURL: "https://localhost:7443", Log: slog.New(slog.DiscardHandler),
	})
	if err := store.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	if f.keys != nil {
		if err := f.CheckSecrets(keys); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) assign(t *testing.T, to access.Caller, role, scope string) {
	t.Helper()
	_, _, err := f.Directory.Assign(context.Background(), access.Assignment{
		Name: uuid.NewString(), Scope: resource.MustID(scope), RoleID: role, PrincipalID: to.ObjectID, PrincipalType: access.User,
	}, f.owner)
	if err != nil {
		t.Fatal(err)
	}
}

// user returns a caller with one role.
func (f *fixture) user(t *testing.T, role, scope string) access.Caller {
	t.Helper()
	c := access.Caller{ObjectID: uuid.NewString(), Name: "user", Type: access.User}
	if role != "" {
		f.assign(t, c, role, scope)
	}
	return c
}

func text(s string) *string { return &s }

// hook is a change that sets a webhook.
func hook(endpoint string) EventSubscriptionChange {
	return EventSubscriptionChange{Target: "properties.", Destination: &DestinationChange{Type: "webhook", EndpointURL: text(endpoint)}}
}

const hookURL = "https://h.example/in?code=s3cret"

func id(text string) resource.ID { return resource.MustID(text) }

func (f *fixture) put(t *testing.T, at string, c EventSubscriptionChange) EventSubscription {
	t.Helper()
	v, err := f.PutEventSubscription(context.Background(), f.owner, id(at), c, Precondition{})
	if err != nil {
		t.Fatalf("PUT %s: %v", at, err)
	}
	return v
}

func (f *fixture) get(t *testing.T, at string) EventSubscription {
	t.Helper()
	v, err := f.EventSubscription(context.Background(), f.owner, id(at))
	if err != nil {
		t.Fatalf("GET %s: %v", at, err)
	}
	return v
}

func (f *fixture) topic(t *testing.T, name, schema string) resource.Item[resource.Topic] {
	t.Helper()
	item, err := f.PutTopic(context.Background(), f.owner, id(topicsPrefix+name), TopicChange{Tracked: Tracked{Location: "local"}, InputSchema: schema}, Precondition{})
	if err != nil {
		t.Fatal(err)
	}
	return item
}

// problems writes a fault as one line for each problem: target, message.
func problems(err error) string {
	f, ok := err.(*fault.Error) //nolint:errorlint // operations return the fault itself
	if !ok {
		return fmt.Sprint(err)
	}
	all := f.Details
	if len(all) == 0 {
		all = []*fault.Error{f}
	}
	lines := make([]string, len(all))
	for i, p := range all {
		lines[i] = p.Target + ": " + p.Message
	}
	return strings.Join(lines, "\n")
}
