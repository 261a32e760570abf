package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
)

// KV is the key-value store under a Store. engine.KV satisfies it.
type KV interface {
	Create(ctx context.Context, key string, value []byte) (revision uint64, err error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Watch(ctx context.Context, f func(engine.Change)) error
}

// Change is a change of one record that is about to be made.
type Change struct {
	Kind   string // of the collection
	Key    string
	Before []byte // the record as it is stored, nil for a new one
	After  []byte // nil for one that goes
}

// Verb says what a change does.
func (c Change) Verb() string {
	switch {
	case c.Before == nil:
		return "create"
	case c.After == nil:
		return "delete"
	}
	return "update"
}

// Witness is told of every change before it is made; an error keeps it from being
// made. settle is called once with what came of it, nil for done.
type Witness func(ctx context.Context, c Change) (settle func(error), err error)

// Store is the control plane's memory: every record of every collection, kept in
// step with the key-value store. Reads never leave the process.
type Store struct {
	kv          KV
	witness     Witness
	collections map[string]collection

	writing   sync.RWMutex // held for reading while a record is stored
	forbidden []string     // see Forbid; guarded by writing

	ResourceGroups     *Collection[ResourceGroup]
	Topics             *Collection[Topic]
	Domains            *Collection[Domain]
	DomainTopics       *Collection[DomainTopic]
	SystemTopics       *Collection[SystemTopic]
	Workspaces         *Collection[Workspace]
	EventSubscriptions *Collection[EventSubscription]
	MasterKeys         *Collection[MasterKey]
	MLflowServers      *Collection[MLflowServer] // by the key of their workspace
	LineageKeys        *Collection[LineageKeys]  // by the key of their workspace
	Clusters           *Collection[Cluster]
	Connections        *Collection[Connection]
}

// collection is a Collection of whichever type.
type collection interface {
	apply(change engine.Change) error
	eachSealed(f func(Place, string))
	reseal(ctx context.Context, key string, f func(sealed, associated string) (string, error)) error
	holding(texts []string) []Place
}

// NewStore makes a store with its own collections; other packages may add theirs
// with NewCollection before Load.
func NewStore(kv KV) *Store {
	s := &Store{kv: kv, collections: map[string]collection{}}
	s.ResourceGroups = NewCollection[ResourceGroup](s, "resourceGroup")
	s.Topics = NewCollection[Topic](s, "topic")
	s.Domains = NewCollection[Domain](s, "domain")
	s.DomainTopics = NewCollection[DomainTopic](s, "domainTopic")
	s.SystemTopics = NewCollection[SystemTopic](s, "systemTopic")
	s.Workspaces = NewCollection[Workspace](s, "workspace")
	s.EventSubscriptions = NewCollection[EventSubscription](s, "eventSubscription")
	s.MasterKeys = NewCollection[MasterKey](s, "masterKey")
	s.MLflowServers = NewCollection[MLflowServer](s, "mlflowServer")
	s.Clusters = NewCollection[Cluster](s, "cluster")
	s.Connections = NewCollection[Connection](s, "connection")
	s.LineageKeys = NewCollection[LineageKeys](s, "lineageKeys")
	return s
}

// CodeAmbiguousWorkspace is the code of the fault that a name is that of several workspaces.
const CodeAmbiguousWorkspace = "AmbiguousWorkspace"

// WorkspaceNamed returns the workspace of a name, for addresses that hold nothing more
// of its id. Names compare ignoring case; two resource groups may have one of the same
// name, and then GROUP~NAME tells them apart.
func (s *Store) WorkspaceNamed(name string) (found Item[Workspace], err error) {
	group, plain, grouped := strings.Cut(name, "~")
	if !grouped {
		plain = name
	}
	var names []string
	for _, item := range s.Workspaces.List("") {
		id := item.Value.ID
		if strings.EqualFold(id.Name(), plain) && (!grouped || strings.EqualFold(id.ResourceGroup(), group)) {
			found = item
			names = append(names, id.ResourceGroup()+"~"+id.Name())
		}
	}
	switch len(names) {
	case 0:
		return found, fault.New(fault.NotFound, "ResourceNotFound", "There is no workspace '%.80s'.", name)
	case 1:
		return found, nil
	}
	return found, fault.New(fault.NotFound, CodeAmbiguousWorkspace, "%d resource groups have a workspace '%.80s', and this address does not say which: write the group before the name, %s.",
		len(names), name, strings.Join(names, " or "))
}

// Observe sets who is told of changes. Call it before the first one.
func (s *Store) Observe(w Witness) { s.witness = w }

// Load reads everything and returns when the store is complete. It goes on
// following changes made elsewhere until ctx ends.
func (s *Store) Load(ctx context.Context) error {
	var first error
	var mu sync.Mutex
	err := s.kv.Watch(ctx, func(c engine.Change) {
		kind, _, _ := strings.Cut(c.Key, "/")
		into, ok := s.collections[kind]
		if !ok {
			return // a record of a newer version
		}
		if err := into.apply(c); err != nil {
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("load the control plane: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	return first
}

// Collection holds the records of one type by key, in memory and in the store.
// Keys compare as given but for one leading slash, which is left off: callers pass
// ID.Key or another lower-case text.
type Collection[T any] struct {
	kind  string
	store *Store

	mu      sync.RWMutex
	items   map[string]Item[T]
	order   []string          // the keys of items in order, once somebody asked for it; nil before
	deleted map[string]uint64 // revision of what was deleted here, until the store's own word of it arrives
	changed []func(key string)
}

// Item is one record and its revision.
type Item[T any] struct {
	Key      string
	Value    T
	Revision uint64
}

// ETag returns the revision as an entity tag, without quotes.
func (i Item[T]) ETag() string { return fmt.Sprintf("%016x", i.Revision) }

// NewCollection adds a collection to a store. The kind is part of every stored
// key and holds no slash; using one twice panics.
func NewCollection[T any](s *Store, kind string) *Collection[T] {
	if _, dup := s.collections[kind]; dup {
		panic("resource: collection " + kind + " is there already")
	}
	c := &Collection[T]{kind: kind, store: s, items: map[string]Item[T]{}, deleted: map[string]uint64{}}
	s.collections[kind] = c
	return c
}

// OnChange registers f, called after each change of a record with its key, from
// the goroutine that made or saw the change.
func (c *Collection[T]) OnChange(f func(key string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = append(c.changed, f)
}

// Get returns the record of a key. The value shares memory with the store: change
// a copy.
func (c *Collection[T]) Get(key string) (Item[T], bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	it, ok := c.items[bare(key)]
	return it, ok
}

// bare is a key without its leading slash.
func bare(key string) string { return strings.TrimPrefix(key, "/") }

// List returns the records whose key begins with prefix, in key order.
func (c *Collection[T]) List(prefix string) []Item[T] {
	var out []Item[T]
	c.Scan(prefix, "", func(it Item[T]) bool {
		out = append(out, it)
		return true
	})
	return out
}

// Scan calls f with the records whose key begins with prefix, in key order from behind
// the key after on, until f returns false. f must not change the collection.
func (c *Collection[T]) Scan(prefix, after string, f func(Item[T]) bool) {
	c.sort()
	c.mu.RLock()
	defer c.mu.RUnlock()
	prefix, after = bare(prefix), bare(after)
	at, found := slices.BinarySearch(c.order, max(prefix, after))
	if found && after >= prefix {
		at++
	}
	for ; at < len(c.order) && strings.HasPrefix(c.order[at], prefix); at++ {
		if !f(c.items[c.order[at]]) {
			return
		}
	}
}

// sort puts the keys in order, unless they are. Loading a store needs no order, and so
// pays nothing for it.
func (c *Collection[T]) sort() {
	c.mu.RLock()
	sorted := c.order != nil
	c.mu.RUnlock()
	if sorted {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = slices.AppendSeq(make([]string, 0, len(c.items)), maps.Keys(c.items))
	slices.Sort(c.order)
}

// Create stores a new record; one that exists is a Conflict.
func (c *Collection[T]) Create(ctx context.Context, key string, v T) (Item[T], error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Item[T]{}, fmt.Errorf("encode %s %s: %w", c.kind, key, err)
	}
	var revision uint64
	err = c.witnessed(ctx, key, nil, raw, func() (err error) {
		return c.store.write(raw, func() (err error) {
			revision, err = c.store.kv.Create(ctx, c.kind+"/"+bare(key), raw)
			return err
		})
	})
	if err != nil {
		return Item[T]{}, c.wrap("create", key, err)
	}
	return c.install(Item[T]{Key: bare(key), Value: v, Revision: revision}), nil
}

// Update replaces the record at the revision that was read; another revision is
// PreconditionFailed.
func (c *Collection[T]) Update(ctx context.Context, key string, v T, revision uint64) (Item[T], error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Item[T]{}, fmt.Errorf("encode %s %s: %w", c.kind, key, err)
	}
	var next uint64
	err = c.witnessed(ctx, key, c.stored(key), raw, func() (err error) {
		return c.store.write(raw, func() (err error) {
			next, err = c.store.kv.Update(ctx, c.kind+"/"+bare(key), raw, revision)
			return err
		})
	})
	if err != nil {
		return Item[T]{}, c.wrap("update", key, err)
	}
	return c.install(Item[T]{Key: bare(key), Value: v, Revision: next}), nil
}

// Delete removes the record at the revision that was read; 0 means whichever.
func (c *Collection[T]) Delete(ctx context.Context, key string, revision uint64) error {
	err := c.witnessed(ctx, key, c.stored(key), nil, func() error {
		return c.store.kv.Delete(ctx, c.kind+"/"+bare(key), revision)
	})
	if err != nil {
		return c.wrap("delete", key, err)
	}
	c.remove(bare(key), revision, true)
	return nil
}

// witnessed makes a change after the witness was told.
func (c *Collection[T]) witnessed(ctx context.Context, key string, before, after []byte, change func() error) error {
	if c.store.witness == nil || before == nil && after == nil {
		return change()
	}
	settle, err := c.store.witness(ctx, Change{Kind: c.kind, Key: bare(key), Before: before, After: after})
	if err != nil {
		return err
	}
	err = change()
	settle(err)
	return err
}

// stored is the record of a key as it is stored, nil for none; without a witness
// nobody asks.
func (c *Collection[T]) stored(key string) []byte {
	item, ok := c.Get(key)
	if c.store.witness == nil || !ok {
		return nil
	}
	raw, err := json.Marshal(item.Value)
	if err != nil {
		return []byte("{}") // it was encoded before
	}
	return raw
}

func (c *Collection[T]) wrap(doing, key string, err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return fmt.Errorf("%s %s %s: %w", doing, c.kind, key, err)
}

// install keeps the newer of what is there and it, and returns it.
func (c *Collection[T]) install(it Item[T]) Item[T] {
	c.mu.Lock()
	old, ok := c.items[it.Key]
	fresh := (!ok || old.Revision < it.Revision) && it.Revision > c.deleted[it.Key]
	if fresh {
		c.items[it.Key] = it
	}
	if fresh && !ok && c.order != nil {
		at, _ := slices.BinarySearch(c.order, it.Key)
		c.order = slices.Insert(c.order, at, it.Key)
	}
	notify := c.changed
	c.mu.Unlock()
	if fresh {
		for _, f := range notify {
			f(it.Key)
		}
	}
	return it
}

// remove drops the record unless a newer one than revision is there. A removal
// made here is remembered until the store's word of it arrives, so that the word
// of the record's creation, still on its way, does not bring it back.
func (c *Collection[T]) remove(key string, revision uint64, here bool) {
	c.mu.Lock()
	old, ok := c.items[key]
	gone := ok && (revision == 0 || old.Revision <= revision)
	if gone {
		delete(c.items, key)
		if at, found := slices.BinarySearch(c.order, key); found {
			c.order = slices.Delete(c.order, at, at+1)
		}
	}
	switch {
	case !here:
		delete(c.deleted, key)
	case gone:
		c.deleted[key] = old.Revision
	}
	notify := c.changed
	c.mu.Unlock()
	if gone {
		for _, f := range notify {
			f(key)
		}
	}
}

func (c *Collection[T]) apply(change engine.Change) error {
	_, key, _ := strings.Cut(change.Key, "/")
	if change.Deleted {
		c.remove(key, change.Revision, false)
		return nil
	}
	var v T
	if err := json.Unmarshal(change.Value, &v); err != nil {
		return fmt.Errorf("decode %s %s: %w", c.kind, key, err)
	}
	c.install(Item[T]{Key: key, Value: v, Revision: change.Revision})
	return nil
}
