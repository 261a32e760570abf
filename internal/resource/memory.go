package resource

import (
	"context"
	"sync"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
)

// MemoryKV is a KV that forgets everything with the process. Tests of packages
// above use it in place of an engine.
type MemoryKV struct {
	mu       sync.Mutex
	last     uint64
	values   map[string]engine.Change
	watchers []func(engine.Change)
	fail     error
}

// NewMemoryKV makes an empty store.
func NewMemoryKV() *MemoryKV { return &MemoryKV{values: map[string]engine.Change{}} }

// Fail makes every write fail with err, until it is called with nil.
func (m *MemoryKV) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Dump returns what is stored, by key.
func (m *MemoryKV) Dump() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]string, len(m.values))
	for key, c := range m.values {
		out[key] = string(c.Value)
	}
	return out
}

// Create stores a key that is not there.
func (m *MemoryKV) Create(_ context.Context, key string, value []byte) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.values[key]; ok {
		return 0, fault.New(fault.Conflict, "Conflict", "There is a %s already.", key)
	}
	return m.put(engine.Change{Key: key, Value: value})
}

// Update replaces the value that has the given revision.
func (m *MemoryKV) Update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.values[key]; !ok || old.Revision != revision {
		return 0, fault.New(fault.PreconditionFailed, "PreconditionFailed", "%s has changed.", key)
	}
	return m.put(engine.Change{Key: key, Value: value})
}

// Delete removes the value that has the given revision, or whichever for 0.
func (m *MemoryKV) Delete(_ context.Context, key string, revision uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.values[key]
	if revision != 0 && (!ok || old.Revision != revision) {
		return fault.New(fault.PreconditionFailed, "PreconditionFailed", "%s has changed.", key)
	}
	if !ok {
		return nil
	}
	_, err := m.put(engine.Change{Key: key, Deleted: true})
	return err
}

// put stores a change and tells the watchers.
func (m *MemoryKV) put(c engine.Change) (uint64, error) {
	if m.fail != nil {
		return 0, m.fail
	}
	m.last++
	c.Revision = m.last
	if c.Deleted {
		delete(m.values, c.Key)
	} else {
		m.values[c.Key] = c
	}
	for _, f := range m.watchers {
		f(c)
	}
	return c.Revision, nil
}

// Watch calls f for everything that is there and from then on for each change.
func (m *MemoryKV) Watch(_ context.Context, f func(engine.Change)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.values {
		f(c)
	}
	m.watchers = append(m.watchers, f)
	return nil
}
