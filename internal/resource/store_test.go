package resource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
)

func group(name string) ResourceGroup {
	return ResourceGroup{Meta{ID: MustID("/subscriptions/s/resourceGroups/" + name)}}
}

func loaded(t *testing.T, kv KV) *Store {
	t.Helper()
	s := NewStore(kv)
	if err := s.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCollection(t *testing.T) {
	ctx := context.Background()
	kv := NewMemoryKV()
	c := loaded(t, kv).ResourceGroups
	var seen []string
	c.OnChange(func(key string) { seen = append(seen, key) })

	a, err := c.Create(ctx, "/a", group("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(ctx, "a", group("a")); !fault.Is(err, fault.Conflict) {
		t.Errorf("created twice: %v", err)
	}
	changed := a.Value
	changed.Location = "here"
	b, err := c.Update(ctx, "/a", changed, a.Revision)
	if err != nil || b.ETag() == a.ETag() {
		t.Fatalf("update: %v, etag %s", err, b.ETag())
	}
	if _, err := c.Update(ctx, "a", changed, a.Revision); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("stale update: %v", err)
	}
	if _, err := c.Create(ctx, "b", group("b")); err != nil {
		t.Fatal(err)
	}
	if list := c.List("/"); len(list) != 2 || list[0].Key != "a" || list[0].Value.Location != "here" {
		t.Errorf("list %+v", list)
	}
	if list := c.List("b"); len(list) != 1 {
		t.Errorf("list by prefix %+v", list)
	}
	if err := c.Delete(ctx, "/a", a.Revision); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("stale delete: %v", err)
	}
	if err := c.Delete(ctx, "/a", b.Revision); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Get("a"); ok {
		t.Error("there after Delete")
	}
	if strings.Join(seen, " ") != "a a b a" {
		t.Errorf("changes %v", seen)
	}
	if again := loaded(t, kv).ResourceGroups.List(""); len(again) != 1 || again[0].Key != "b" {
		t.Errorf("after a restart %+v", again)
	}
}

// lateKV tells watchers of a change only when deliver is called, as a store across
// a network does.
type lateKV struct {
	*MemoryKV
	mu      sync.Mutex
	waiting []engine.Change
	f       func(engine.Change)
}

func (k *lateKV) Watch(ctx context.Context, f func(engine.Change)) error {
	k.f = f
	return k.MemoryKV.Watch(ctx, func(c engine.Change) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.waiting = append(k.waiting, c)
	})
}

func (k *lateKV) deliver() {
	k.mu.Lock()
	waiting := k.waiting
	k.waiting = nil
	k.mu.Unlock()
	for _, c := range waiting {
		k.f(c)
	}
}

func TestLateWordChangesNothing(t *testing.T) {
	ctx := context.Background()
	kv := &lateKV{MemoryKV: NewMemoryKV()}
	c := loaded(t, kv).ResourceGroups
	a, err := c.Create(ctx, "a", group("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, "a", a.Revision); err != nil {
		t.Fatal(err)
	}
	kv.waiting = kv.waiting[:1] // the word of the creation arrives, that of the deletion not yet
	kv.deliver()
	if _, ok := c.Get("a"); ok {
		t.Error("a record that was deleted here came back with the late word of its creation")
	}
	next, err := c.Create(ctx, "a", group("a"))
	if err != nil {
		t.Fatal(err)
	}
	kv.deliver()
	if got, ok := c.Get("a"); !ok || got.Revision != next.Revision {
		t.Errorf("created again: %+v, %t", got, ok)
	}
}

func TestLoadFailsOnDamage(t *testing.T) {
	kv := NewMemoryKV()
	if _, err := kv.Create(context.Background(), "topic/x", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(context.Background(), "later/x", []byte("{")); err != nil {
		t.Fatal(err)
	}
	err := NewStore(kv).Load(context.Background())
	if err == nil || !strings.Contains(err.Error(), "decode topic x") {
		t.Errorf("error %v", err)
	}
}

func TestStoreWrapsUnknownErrors(t *testing.T) {
	kv := NewMemoryKV()
	c := loaded(t, kv).ResourceGroups
	broken := errors.New("disk is gone")
	kv.Fail(broken)
	if _, err := c.Create(context.Background(), "a", group("a")); !errors.Is(err, broken) || !strings.Contains(err.Error(), "create resourceGroup a") {
		t.Errorf("error %v", err)
	}
}

// A change that the witness refuses is not made; one that fails is told of.
func TestStoreWitness(t *testing.T) {
	kv := NewMemoryKV()
	s := NewStore(kv)
	var seen []Change
	var outcomes []error
	var refuse error
	s.Observe(func(_ context.Context, c Change) (func(error), error) {
		if refuse != nil {
			return nil, refuse
		}
		seen = append(seen, c)
		return func(err error) { outcomes = append(outcomes, err) }, nil
	})
	ctx := t.Context()
	item, err := s.ResourceGroups.Create(ctx, "/a", ResourceGroup{Meta{Location: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	refuse = errors.New("no")
	if _, err := s.ResourceGroups.Update(ctx, "/a", ResourceGroup{Meta{Location: "y"}}, item.Revision); !errors.Is(err, refuse) {
		t.Errorf("update: %v", err)
	}
	if err := s.ResourceGroups.Delete(ctx, "/a", 0); !errors.Is(err, refuse) {
		t.Errorf("delete: %v", err)
	}
	if now, _ := s.ResourceGroups.Get("/a"); now.Value.Location != "x" || !strings.Contains(kv.Dump()["resourceGroup/a"], `"x"`) {
		t.Errorf("a refused change was made: %v", kv.Dump())
	}
	refuse = nil
	if _, err := s.ResourceGroups.Update(ctx, "/a", ResourceGroup{Meta{Location: "y"}}, item.Revision+7); err == nil {
		t.Error("an update of a wrong revision is no error")
	}
	if err := s.ResourceGroups.Delete(ctx, "/a", 0); err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, c := range seen {
		verbs = append(verbs, c.Verb()+" "+c.Kind+" "+c.Key)
	}
	if got := strings.Join(verbs, ", "); got != "create resourceGroup a, update resourceGroup a, delete resourceGroup a" {
		t.Errorf("seen %s", got)
	}
	if len(outcomes) != 3 || outcomes[0] != nil || outcomes[1] == nil || outcomes[2] != nil {
		t.Errorf("outcomes %v", outcomes)
	}
}

// TestDomainIsSealed: the keys of a domain are found where secrets are sealed anew.
func TestDomainIsSealed(t *testing.T) {
	d := Domain{Topic: Topic{SealedKeys: [2]string{"a", "b"}}}
	n := 0
	var s Sealing = &d
	s.EachSealed(func(sealed *string, _ string) { n++; *sealed += "x" })
	if n != 2 || d.SealedKeys != [2]string{"ax", "bx"} {
		t.Errorf("%d texts, then %q", n, d.SealedKeys)
	}
}

// TestScan: the order of the keys stays right, whatever changes, and pages of any size
// hold what one list holds.
func TestScan(t *testing.T) {
	ctx := t.Context()
	kv := NewMemoryKV()
	if _, err := loaded(t, kv).ResourceGroups.Create(ctx, "a/7", group("a7")); err != nil {
		t.Fatal(err)
	}
	c := loaded(t, kv).ResourceGroups
	present := map[string]bool{"a/7": true}
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		key := fmt.Sprintf("%c/%d", 'a'+rune(random.IntN(3)), random.IntN(20))
		switch {
		case random.IntN(8) == 0:
			var want, got []string
			for key := range present {
				if strings.HasPrefix(key, "b/") {
					want = append(want, key)
				}
			}
			slices.Sort(want)
			for after := ""; ; {
				last := after
				c.Scan("/b/", after, func(it Item[ResourceGroup]) bool {
					got, after = append(got, it.Key), it.Key
					return len(got)%3 != 0
				})
				if after == last {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("pages hold %q, want %q", got, want)
			}
			if n := len(c.List("")); n != len(present) {
				t.Fatalf("%d of %d listed", n, len(present))
			}
		case present[key]:
			if err := c.Delete(ctx, key, 0); err != nil {
				t.Fatal(err)
			}
			delete(present, key)
		default:
			if _, err := c.Create(ctx, key, group(key[:1])); err != nil {
				t.Fatal(err)
			}
			present[key] = true
		}
	}
}

func TestWorkspaceNamed(t *testing.T) {
	s := loaded(t, NewMemoryKV())
	for _, id := range []string{"a/providers/Microsoft.MachineLearningServices/workspaces/churn", "a/providers/Microsoft.MachineLearningServices/workspaces/twice", "b/providers/Microsoft.MachineLearningServices/workspaces/Twice"} {
		ws := Workspace{Meta: Meta{ID: MustID("/subscriptions/s/resourceGroups/" + id)}}
		if _, err := s.Workspaces.Create(t.Context(), ws.ID.Key(), ws); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := s.WorkspaceNamed("CHURN"); err != nil || found.Value.ID.Name() != "churn" {
		t.Errorf("found %+v, error %v", found, err)
	}
	if found, err := s.WorkspaceNamed("B~twice"); err != nil || found.Value.ID.ResourceGroup() != "b" {
		t.Errorf("found %+v, error %v", found, err)
	}
	if _, err := s.WorkspaceNamed("twice"); err == nil || !strings.Contains(err.Error(), "~") {
		t.Errorf("error %v, want one that tells how to write it", err)
	}
	for name, code := range map[string]string{"none": "ResourceNotFound", "": "ResourceNotFound", "twice": CodeAmbiguousWorkspace, "c~twice": "ResourceNotFound", "~churn": "ResourceNotFound"} {
		_, err := s.WorkspaceNamed(name)
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.NotFound || f.Code != code {
			t.Errorf("%q: %v, want %s", name, err, code)
		}
	}
}
