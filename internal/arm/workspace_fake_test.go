package arm

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// factLog is the log under a workspace.Service, in memory.
type factLog struct {
	mu     sync.Mutex
	seq    uint64
	facts  map[string]engine.Fact
	events []string // stored events, holes filled
}

func (l *factLog) Record(_ context.Context, records []engine.Record) (engine.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	receipt := engine.Receipt{Seq: l.seq, Generation: 0x65, Time: time.Now()}
	for i, r := range records {
		data := slices.Clone(r.Data)
		for _, h := range r.Holes {
			copy(data[h.Offset:h.Offset+engine.SequencerSize], receipt.Sequencer(h.Of))
		}
		switch {
		case r.Kind == engine.KindEvent:
			l.events = append(l.events, string(data))
		case len(data) == 0:
			delete(l.facts, r.Key)
		default:
			l.facts[r.Key] = engine.Fact{Key: r.Key, Position: receipt.Position(i), Generation: receipt.Generation, Data: data}
		}
	}
	return receipt, nil
}

func (l *factLog) Fact(_ context.Context, key string) (engine.Fact, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.facts[key]
	return f, ok, nil
}

func (*factLog) Generation() uint64 { return 1 }

func (l *factLog) FactsAfter(_ context.Context, prefix string, since time.Time, after string, most int) ([]engine.Fact, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var facts []engine.Fact
	for key, f := range l.facts {
		if strings.Contains(key, strings.TrimPrefix(prefix, "*")) && !f.Time.Before(since) && f.ETag() > after {
			facts = append(facts, f)
		}
	}
	slices.SortFunc(facts, func(a, b engine.Fact) int { return strings.Compare(a.ETag(), b.ETag()) })
	return facts[:min(most, len(facts))], len(facts) > most, nil
}

func (l *factLog) FactKeys(_ context.Context, prefix string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []string
	for k := range l.facts {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// revisions is a key-value store that remembers nothing but its last revision.
type revisions struct{ last uint64 }

func (kv *revisions) next() (uint64, error) { kv.last++; return kv.last, nil }

func (kv *revisions) Create(context.Context, string, []byte) (uint64, error) { return kv.next() }

func (kv *revisions) Update(context.Context, string, []byte, uint64) (uint64, error) {
	return kv.next()
}

func (*revisions) Delete(context.Context, string, uint64) error { return nil }

func (*revisions) Watch(context.Context, func(engine.Change)) error { return nil }

const subWorkspace = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab/providers/Microsoft.MachineLearningServices/workspaces/bells"

// lab is a WorkspaceAPI with a workspace and callers of several roles.
type lab struct {
	api     *WorkspaceAPI
	log     *factLog
	ws      resource.Item[resource.Workspace]
	callers map[string]access.Caller // by name: owner, scientist, reader, nobody
}

func newLab(t testing.TB) *lab {
	t.Helper()
	ctx := t.Context()
	store := resource.NewStore(&revisions{})
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	directory := access.NewDirectory(store, roles)
	authorizer, err := access.NewAuthorizer(directory, "")
	if err != nil {
		t.Fatal(err)
	}
	id := resource.MustID(subWorkspace)
	l := &lab{log: &factLog{facts: map[string]engine.Fact{}}, callers: map[string]access.Caller{}}
	l.ws, err = store.Workspaces.Create(ctx, id.Key(), resource.Workspace{
		Meta: resource.Meta{ID: id}, UID: 0xaa, TopicUID: 0xbb, StatusEvents: []string{"Failed"},
		PayloadCasing: resource.PayloadCamelCase, DriftRaiseOn: resource.DriftOnCompleted,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"owner": "Owner", "scientist": "AzureML Data Scientist", "reader": "Reader", "nobody": ""} {
		c := access.Caller{ObjectID: uuid.NewString(), Name: name, Type: access.User}
		l.callers[name] = c
		if role == "" {
			continue
		}
		r, ok := roles.Named(role)
		if !ok {
			t.Fatalf("there is no role %q", role)
		}
		if _, _, err := directory.Assign(ctx, access.Assignment{
			Name: uuid.NewString(), Scope: id, RoleID: r.ID, PrincipalID: c.ObjectID, PrincipalType: access.User,
		}, access.Caller{}); err != nil {
			t.Fatal(err)
		}
	}
	l.api = &WorkspaceAPI{
		Service:    workspace.New(workspace.Config{Recorder: l.log, Facts: l.log, Changes: l.log, Workspaces: store.Workspaces}),
		Authorizer: authorizer,
	}
	return l
}
