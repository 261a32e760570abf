package workspace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// fakeLog is Recorder and Facts in memory. Each Record is a frame of its own.
type fakeLog struct {
	mu     sync.Mutex
	seq    uint64
	facts  map[string]engine.Fact
	frames [][]engine.Record // with filled holes
	fail   error             // what Record returns, if set
	held   chan struct{}     // if set, Record waits until it is closed
}

var (
	_ Facts   = (*engine.Partition)(nil)
	_ Changes = (*engine.Partition)(nil)
)

const generation = 0x65

func newFakeLog() *fakeLog { return &fakeLog{facts: map[string]engine.Fact{}} }

func (l *fakeLog) Record(ctx context.Context, records []engine.Record) (engine.Receipt, error) {
	if l.held != nil {
		select {
		case <-l.held:
		case <-ctx.Done():
			return engine.Receipt{}, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return engine.Receipt{}, l.fail
	}
	l.seq++
	receipt := engine.Receipt{Seq: l.seq, Generation: generation, Time: time.Now()}
	frame := slices.Clone(records)
	for i := range frame {
		frame[i].Data = slices.Clone(frame[i].Data)
		for _, h := range frame[i].Holes {
			copy(frame[i].Data[h.Offset:h.Offset+engine.SequencerSize], receipt.Sequencer(h.Of))
		}
		if r := frame[i]; r.Kind == engine.KindFact {
			if len(r.Data) == 0 {
				delete(l.facts, r.Key)
			} else {
				l.facts[r.Key] = engine.Fact{Key: r.Key, Position: receipt.Position(i), Generation: generation, Time: receipt.Time, Data: r.Data}
			}
		}
	}
	l.frames = append(l.frames, frame)
	return receipt, nil
}

func (l *fakeLog) Fact(_ context.Context, key string) (engine.Fact, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.facts[key]
	return f, ok, nil
}

func (*fakeLog) Generation() uint64 { return generation }

// FactsAfter reads all facts and leaves out.
func (l *fakeLog) FactsAfter(_ context.Context, prefix string, since time.Time, after string, most int) ([]engine.Fact, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var facts []engine.Fact
	for key, f := range l.facts {
		_, rest, _ := strings.Cut(key, "/")
		if strings.HasPrefix(rest, strings.TrimPrefix(prefix, "*/")) && !f.Time.Before(since) && f.ETag() > after {
			facts = append(facts, f)
		}
	}
	slices.SortFunc(facts, func(a, b engine.Fact) int { return strings.Compare(a.ETag(), b.ETag()) })
	return facts[:min(most, len(facts))], len(facts) > most, nil
}

func (l *fakeLog) FactKeys(_ context.Context, prefix string) ([]string, error) {
	if !strings.HasSuffix(prefix, "/") {
		return nil, fmt.Errorf("prefix %q does not end at a segment", prefix)
	}
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

// since returns the records of the frames after the first n.
func (l *fakeLog) since(n int) (facts []string, events []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, frame := range l.frames[n:] {
		for _, r := range frame {
			if r.Kind == engine.KindFact {
				facts = append(facts, r.Key)
			} else {
				events = append(events, string(r.Data))
			}
		}
	}
	return facts, events
}

func (l *fakeLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.frames)
}

// fakeKV holds no more than a store of one process needs.
type fakeKV struct{ revision uint64 }

func (kv *fakeKV) Create(context.Context, string, []byte) (uint64, error) {
	kv.revision++
	return kv.revision, nil
}

func (kv *fakeKV) Update(context.Context, string, []byte, uint64) (uint64, error) {
	kv.revision++
	return kv.revision, nil
}
func (*fakeKV) Delete(context.Context, string, uint64) error     { return nil }
func (*fakeKV) Watch(context.Context, func(engine.Change)) error { return nil }

// bench is a Service over fakes, and one workspace.
type bench struct {
	*Service
	log   *fakeLog
	store *resource.Store
	ws    resource.Workspace
}

var workspaceID = resource.MustID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab/providers/Microsoft.MachineLearningServices/workspaces/bells")

func newBench(t testing.TB, change ...func(*resource.Workspace)) *bench {
	t.Helper()
	b := &bench{log: newFakeLog(), store: resource.NewStore(&fakeKV{}), ws: resource.Workspace{
		Meta: resource.Meta{ID: workspaceID}, UID: 0xaa, TopicUID: 0xbb, StatusEvents: []string{"Failed"},
		PayloadCasing: resource.PayloadCamelCase, DriftRaiseOn: resource.DriftOnCompleted,
	}}
	for _, f := range change {
		f(&b.ws)
	}
	if _, err := b.store.Workspaces.Create(t.Context(), b.ws.ID.Key(), b.ws); err != nil {
		t.Fatal(err)
	}
	b.Service = b.restart(nil)
	return b
}

// restart makes another Service over what is stored.
func (b *bench) restart(answer func(*http.Request) (*http.Response, error)) *Service {
	s := New(Config{Recorder: b.log, Facts: b.log, Changes: b.log, Workspaces: b.store.Workspaces, Client: &http.Client{Transport: roundTripper(answer)}})
	n := 0
	s.newID = func() string { n++; return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }
	return s
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if f == nil {
		return nil, errors.New("nobody answers")
	}
	return f(r)
}

var kim = Terms{By: resource.Stamp{By: "kim", Kind: "User"}}

func ptr[T any](v T) *T { return &v }

func status(s RunStatus) RunChange { return RunChange{Status: ptr(string(s))} }

// wantFault checks the kind of an error, the fields it names, in their order, and
// a part of its message.
func wantFault(t *testing.T, err error, kind fault.Kind, targets []string, part string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != kind {
		t.Fatalf("error is %v, want a fault of kind %v", err, kind)
	}
	var got []string
	for _, d := range f.Details {
		got = append(got, d.Target)
	}
	if len(f.Details) == 0 && f.Target != "" {
		got = []string{f.Target}
	}
	if !slices.Equal(got, targets) {
		t.Errorf("fault names the fields %q, want %q: %v", got, targets, err)
	}
	if !strings.Contains(f.Message, part) {
		t.Errorf("message %q does not hold %q", f.Message, part)
	}
}

func engineFact(data string) engine.Fact {
	return engine.Fact{Generation: generation, Data: []byte(data)}
}
