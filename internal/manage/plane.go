package manage

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Activator is how a stored event subscription becomes live. The broker
// satisfies it.
type Activator interface {
	// Activate takes a new event subscription or a change of one. A changed filter
	// holds from the next position of the log on, everything else from the next
	// attempt on. It returns once that is journaled. A fault of kind Conflict says
	// that nothing was taken.
	Activate(ctx context.Context, es *resource.EventSubscription) error
	// Deactivate forgets an event subscription; its open deliveries are discarded.
	Deactivate(ctx context.Context, uid resource.UID) error
	// Open returns how many deliveries of an event subscription are not settled.
	// One that lags in the log has at least one.
	Open(uid resource.UID) int
}

// Facts forgets what was recorded in a workspace that is gone. *workspace.Service
// satisfies it.
type Facts interface {
	DeleteAll(ctx context.Context, workspace resource.UID) error
}

// Config is what a Plane works with. Fields are needed unless they say otherwise.
type Config struct {
	Store      *resource.Store
	Access     *access.Authorizer
	Directory  *access.Directory // principals and role assignments
	TokenKeys  *access.KeyRing   // of the built-in issuer
	Sealer     *secret.Sealer
	Handshaker Handshaker
	Targets    Targets // of destinations that are no webhooks; nil in tests alone
	Activator  Activator
	EventLog   EventLog             // optional: without it no event is explained
	Replayer   Replayer             // optional: without it nothing of the log is replayed
	Facts      Facts                // optional
	CheckURL   func(*url.URL) error // what the operator lets destinations be; its error is shown to the caller
	// CheckToken tells why this server makes no bearer token of a tenant for an
	// application; its error is shown to the caller. Nil: it makes none at all.
	CheckToken func(tenant, application string) error
	// CheckDeadLetter tells why dead letters could not be written to a destination; its
	// error is shown to the caller. Nil: to none.
	CheckDeadLetter func(*resource.DeadLetterDestination) error
	// CheckConnection tells what may be shown of a connection string of an Azure resource,
	// or what is wrong with it, without showing any of it. Targets of its faults are names of
	// members. Nil takes any, in tests alone.
	CheckConnection func(target resource.ID, text secret.String) (host, keyName string, err error)
	PublicURL       string     // scheme, host and port under which the server is reached: begins validation links
	PublishURL      string     // the same of what takes webhooks; "" for PublicURL
	SubscriptionID  string     // the one subscription, a GUID; "" for FirstSubscription
	Location        string     // of what the first start makes; "" for FirstLocation
	Partition       func() int // home of a new topic in the log; nil for partition 0
	Log             *slog.Logger

	// ClockRests reports whether the wall clock jumped lately, so that no event
	// subscription expires; nil for never.
	ClockRests func() bool

	// ValidateOnChangeOnly leaves out the handshake of a PUT that changes nothing the
	// endpoint consented to. Azure validates on each PUT.
	ValidateOnChangeOnly bool
	Rules                broker.Rules // as the broker has them

	Audit *audit.Log // nil keeps no audit log; what the store is changed by, it is told of by the store

	MasterKeys MasterKeys // optional: without it the master key is never changed
	KeyFiles   []KeyFiles // what is sealed with it besides the records of the store

	MLflow     MLflow     // optional: without it no MLflow server is followed
	Kubernetes Kubernetes // optional: without it no Kubernetes cluster is followed

	Messenger Messenger // optional: without it nobody is told of deletions, and no test event is sent
}

// Plane is the management plane. It is safe for concurrent use.
type Plane struct {
	Config
	subscription resource.ID

	// structure is held for writing while something that others hang on is made or
	// removed, and for reading while something is hung on it.
	structure sync.RWMutex
	// stripes keep store and activation of one event subscription in step. They are
	// picked by key.
	stripes [64]sync.Mutex
	seed    maphash.Seed

	changes  turns // of event subscriptions and of what workspaces follow, by key
	inFlight handshakes
	watch    watchlist
	poke     chan struct{} // the sweep has a new deadline
	notices  chan resource.EventSubscription
	orphans  chan struct{} // a domain went and left the records of its topics

	rotating  sync.Mutex    // one change of the master key at a time
	retired   []string      // ids of the keys that are kept beside it; guarded by rotating
	resealing chan struct{} // there may be something to seal anew

	warned map[resource.UID]certificateWarning // by the sweep, which alone looks at it
}

// New makes a Plane. It starts nothing; see Run.
func New(c Config) *Plane {
	if c.SubscriptionID == "" {
		c.SubscriptionID = FirstSubscription
	}
	if c.Location == "" {
		c.Location = FirstLocation
	}
	p := &Plane{
		Config:       c,
		subscription: resource.MustID("/subscriptions/" + c.SubscriptionID),
		seed:         maphash.MakeSeed(),
		poke:         make(chan struct{}, 1),
		orphans:      make(chan struct{}, 1),
		notices:      make(chan resource.EventSubscription, maxNotices),
		resealing:    make(chan struct{}, 1),
	}
	if p.Partition == nil {
		p.Partition = func() int { return 0 }
	}
	p.Store.EventSubscriptions.OnChange(p.eventSubscriptionChanged)
	return p
}

func (p *Plane) stripe(key string) *sync.Mutex {
	return &p.stripes[maphash.String(p.seed, key)%uint64(len(p.stripes))]
}

// alter locks the structure for writing. What is begun is finished from there on,
// also when the caller goes: a record that is gone and an event subscription that
// still delivers must not be left behind.
func (p *Plane) alter(ctx context.Context) (finishing context.Context, unlock func()) {
	p.structure.Lock()
	return context.WithoutCancel(ctx), p.structure.Unlock
}

// alterOne locks one event subscription for writing, as alter does.
func (p *Plane) alterOne(ctx context.Context, key string) (finishing context.Context, unlock func()) {
	p.structure.RLock()
	lock := p.stripe(key)
	lock.Lock()
	return context.WithoutCancel(ctx), func() {
		lock.Unlock()
		p.structure.RUnlock()
	}
}

// authorize checks one action and notes it for the request's record.
func (p *Plane) authorize(ctx context.Context, caller access.Caller, action string, target resource.ID) error {
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Action, action), slog.String(telemetry.Resource, target.String()))
	return p.Access.Check(caller, action, target)
}

// changed logs a change. It is the one record of it beside the request's own.
func (p *Plane) changed(ctx context.Context, caller access.Caller, verb string, id resource.ID, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("change", verb),
		slog.String(telemetry.Resource, id.String()),
		slog.String(telemetry.Principal, caller.ObjectID),
	}, more...)
	p.Log.LogAttrs(ctx, slog.LevelInfo, "resource changed", attrs...)
}

func stamp(caller access.Caller) resource.Stamp {
	return caller.Stamp(time.Now().UTC().Truncate(time.Microsecond))
}

// checkSubscription refuses ids of a subscription that is not this server's.
func (p *Plane) checkSubscription(id resource.ID) error {
	if p.subscription.Contains(id) {
		return nil
	}
	if id.Subscription() == "" {
		return notFound("ResourceNotFound", "The resource '%s' was not found.", id)
	}
	return notFound("SubscriptionNotFound", "The subscription '%s' could not be found.", id.Subscription())
}

// group returns the resource group that id lies in.
func (p *Plane) group(id resource.ID) (resource.Item[resource.ResourceGroup], error) {
	if err := p.checkSubscription(id); err != nil {
		return resource.Item[resource.ResourceGroup]{}, err
	}
	key := p.subscription.Child("resourceGroups", id.ResourceGroup()).Key()
	g, ok := p.Store.ResourceGroups.Get(key)
	if !ok {
		return g, notFound("ResourceGroupNotFound", "Resource group '%s' could not be found.", id.ResourceGroup())
	}
	return g, nil
}

// settle returns the id that a new resource is stored under: the spelling of its
// group, the type as Azure spells it, and the name as the caller spells it.
func settle(group resource.ID, resourceType, name string) resource.ID {
	namespace, kind, _ := strings.Cut(resourceType, "/")
	return group.Extension(namespace, kind, name)
}

func notFound(code, format string, args ...any) *fault.Error {
	return fault.New(fault.NotFound, code, format, args...)
}

func resourceNotFound(id resource.ID) *fault.Error {
	if g := id.ResourceGroup(); g != "" {
		return notFound("ResourceNotFound", "The resource '%s/%s' under resource group '%s' was not found.", id.Type(), id.Name(), g)
	}
	return notFound("ResourceNotFound", "The resource '%s' was not found.", id)
}

// findOne returns a resource of a group.
func findOne[T any](p *Plane, c *resource.Collection[T], id resource.ID) (resource.Item[T], error) {
	if _, err := p.group(id); err != nil {
		return resource.Item[T]{}, err
	}
	item, ok := c.Get(id.Key())
	if !ok {
		return item, resourceNotFound(id)
	}
	return item, nil
}

// readOne is findOne for a caller who needs the action read.
func readOne[T any](ctx context.Context, p *Plane, caller access.Caller, actions string, c *resource.Collection[T], id resource.ID) (resource.Item[T], error) {
	if err := p.authorize(ctx, caller, actions+"read", id); err != nil {
		return resource.Item[T]{}, err
	}
	return findOne(p, c, id)
}

// readAll is inScope for a caller who needs the action read.
func readAll[T any](ctx context.Context, p *Plane, caller access.Caller, actions string, c *resource.Collection[T], scope resource.ID, id func(*T) resource.ID) ([]resource.Item[T], error) {
	if err := p.authorize(ctx, caller, actions+"read", scope); err != nil {
		return nil, err
	}
	return inScope(p, c, scope, id)
}

// inScope returns the records below a scope that may be a subscription or a
// group, checking that it exists.
func inScope[T any](p *Plane, c *resource.Collection[T], scope resource.ID, id func(*T) resource.ID) ([]resource.Item[T], error) {
	if err := p.checkScope(scope); err != nil {
		return nil, err
	}
	var out []resource.Item[T]
	for _, item := range c.List("") {
		if scope.Contains(id(&item.Value)) {
			out = append(out, item)
		}
	}
	return out, nil
}

// checkScope finds a subscription or a resource group that lists are asked of.
func (p *Plane) checkScope(scope resource.ID) error {
	if scope.ResourceGroup() == "" {
		return p.checkSubscription(scope)
	}
	_, err := p.group(scope)
	return err
}

// Part is what is wanted of a list that may be long: its zero value is all of it.
type Part struct {
	After string                 // the store key behind which it begins
	Most  int                    // entries; 0 = all
	Keep  func(name string) bool // nil = every name
}

// gather collects what a part wants of the records whose keys begin with a prefix, in
// key order, behind what is there already. visible may be nil.
func gather[T any](c *resource.Collection[T], prefix string, part Part, name func(*T) string, visible func(*T) bool, found []resource.Item[T]) []resource.Item[T] {
	c.Scan(prefix, part.After, func(item resource.Item[T]) bool {
		if part.Most > 0 && len(found) == part.Most {
			return false
		}
		if (part.Keep == nil || part.Keep(name(&item.Value))) && (visible == nil || visible(&item.Value)) {
			found = append(found, item)
		}
		return true
	})
	return found
}
