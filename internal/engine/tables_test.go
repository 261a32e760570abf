package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
)

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	j := e.Partition().Journal()
	owners := []uint64{e.Partition().generation}
	for i := range 5 {
		seq, err := j.Append(t.Context(), []byte(fmt.Sprint("entry ", i)))
		if err != nil || seq != uint64(i+2) { // message 1 is the take-over record
			t.Fatalf("entry %d: %d %v", i, seq, err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), []byte("late")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("append after close: %v", err)
	}
	e = open(t, Options{Dir: dir})
	j = e.Partition().Journal()
	if owners = append(owners, e.Partition().generation); owners[1] <= owners[0] {
		t.Errorf("generations %d", owners)
	}
	if _, err := j.Append(t.Context(), []byte("entry 5")); err != nil {
		t.Fatal(err)
	}
	read := func(from uint64) (got []string) {
		for entry, err := range j.Read(t.Context(), from) {
			if errors.Is(err, ErrCorrupt) {
				got = append(got, fmt.Sprint(entry.Seq, " corrupt"))
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(entry.Seq, " ", string(entry.Payload)))
			if by := owners[entry.Seq/8]; entry.Generation != by { // message 7 is the second one's take-over record
				t.Errorf("message %d is of generation %d, want %d", entry.Seq, entry.Generation, by)
			}
		}
		return got
	}
	if got, want := fmt.Sprintf("%q", read(5)), `["5 entry 3" "6 entry 4" "8 entry 5"]`; got != want {
		t.Errorf("from 5: %s, want %s", got, want)
	}
	before := j.Bytes()
	if err := j.Purge(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	if first, last := j.Bounds(); first != 6 || last != 8 || j.Bytes() >= before {
		t.Errorf("bounds %d %d, %d bytes of %d", first, last, j.Bytes(), before)
	}
	if err := j.Purge(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if first, last := j.Bounds(); first != 8 || last != 8 {
		t.Errorf("after purging all: bounds %d %d, want the newest message kept", first, last)
	}
	if err := j.writer.write(t.Context(), []byte("CJ? not a journal message")); err != nil {
		t.Fatal(err)
	}
	j.last.Store(9)
	if got, want := fmt.Sprintf("%q", read(0)), `["8 entry 5" "9 corrupt"]`; got != want {
		t.Errorf("all: %s, want %s", got, want)
	}
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	d := e.DeadLetters()
	for _, kv := range [][2]string{{"s1/00a", "1"}, {"s1/00b", "2"}, {"s2/00a", "3"}, {"s1/00a", "4"}, {"s2/00a", "5"}} {
		if err := d.Put(t.Context(), kv[0], []byte(kv[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Delete(t.Context(), "s2/00a"); err != nil {
		t.Fatal(err)
	}
	crashed := open(t, Options{Dir: copyDir(t, dir)}).DeadLetters()
	if keys, err := crashed.Keys(t.Context(), ""); err != nil || fmt.Sprint(keys) != "[s1/00a s1/00b]" {
		t.Errorf("keys after a crash: %v %v", keys, err)
	}
	if err := d.Delete(t.Context(), "never/there"); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, Options{Dir: dir}).DeadLetters()
	if v, ok, err := d.Get(t.Context(), "s1/00a"); err != nil || !ok || string(v) != "4" {
		t.Errorf("overwritten value: %s %v %v", v, ok, err)
	}
	if _, ok, err := d.Get(t.Context(), "s2/00a"); ok || err != nil {
		t.Errorf("deleted value: %v %v", ok, err)
	}
	for prefix, want := range map[string]string{"": "[s1/00a s1/00b]", "s1/": "[s1/00a s1/00b]", "s1/00b": "[s1/00b]", "s2/": "[]"} {
		if keys, err := d.Keys(t.Context(), prefix); err != nil || fmt.Sprint(keys) != want {
			t.Errorf("keys below %q: %v %v, want %s", prefix, keys, err, want)
		}
	}
	if d.Len() != 2 || d.Bytes() <= 0 {
		t.Errorf("%d values, %d bytes", d.Len(), d.Bytes())
	}
}

func TestKV(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	k := e.KV()
	const key = "/subscriptions/0/Topics/a b.c"
	if _, err := k.Get(t.Context(), key); !fault.Is(err, fault.NotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	one, err := k.Create(t.Context(), key, []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(t.Context(), key, []byte("x")); !fault.Is(err, fault.Conflict) {
		t.Errorf("create twice: %v", err)
	}
	two, err := k.Update(t.Context(), key, []byte("2"), one)
	if err != nil || two <= one {
		t.Fatalf("update: %d %v", two, err)
	}
	if _, err := k.Update(t.Context(), key, []byte("x"), one); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("update of a stale revision: %v", err)
	}
	if _, err := k.Update(t.Context(), "none", []byte("x"), 3); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("update of nothing: %v", err)
	}
	if err := k.Delete(t.Context(), key, one); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("delete of a stale revision: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	k = open(t, Options{Dir: dir}).KV()
	if got, err := k.Get(t.Context(), key); err != nil || got.Key != key || string(got.Value) != "2" || got.Revision != two {
		t.Errorf("after a restart: %+v %v", got, err)
	}
	if err := k.Delete(t.Context(), key, two); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := k.Get(t.Context(), key); !fault.Is(err, fault.NotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if err := k.Delete(t.Context(), "none", 0); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	if three, err := k.Create(t.Context(), key, []byte("3")); err != nil || three <= two {
		t.Errorf("create after delete: %d %v", three, err)
	}
}

func TestWatch(t *testing.T) {
	k := open(t, Options{}).KV()
	for i := range 300 {
		if _, err := k.Create(t.Context(), fmt.Sprint("k/", i), []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Delete(t.Context(), "k/7", 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan Change, 1000)
	if err := k.Watch(ctx, func(c Change) { changes <- c }); err != nil {
		t.Fatal(err)
	}
	if n := len(changes); n != 299 {
		t.Errorf("%d keys were reported before Watch returned, want 299", n)
	}
	for range len(changes) {
		if c := <-changes; c.Deleted || c.Key == "k/7" || fmt.Sprint("k/", int(c.Value[0])) != c.Key && c.Key < "k/256" {
			t.Errorf("loaded %+v", c)
		}
	}
	rev, err := k.Create(t.Context(), "k/7", []byte("back"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(t.Context(), "k/8", 0); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Key != "k/7" || string(c.Value) != "back" || c.Revision != rev || c.Deleted {
		t.Errorf("creation reported as %+v", c)
	}
	if c := <-changes; c.Key != "k/8" || !c.Deleted || c.Revision <= rev {
		t.Errorf("deletion reported as %+v", c)
	}
	empty := open(t, Options{}).KV()
	if err := empty.Watch(ctx, func(c Change) { t.Errorf("change of an empty store: %+v", c) }); err != nil {
		t.Fatal(err)
	}
}

func TestTableInOrder(t *testing.T) {
	e := open(t, Options{Dir: t.TempDir()})
	d := e.DeadLetters()
	read := func(prefix string, after uint64) (got []string) {
		t.Helper()
		for entry, err := range d.Since(t.Context(), prefix, after) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(entry.Seq, " ", entry.Key, " ", string(entry.Value)))
		}
		return got
	}
	if got := read("", 0); got != nil {
		t.Errorf("an empty table yields %q", got)
	}
	for i, key := range []string{"a/1", "b/1", "a/2", "b 2/é", "a/1"} {
		if err := d.Put(t.Context(), key, []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, prefix string
		after        uint64
		want         string
	}{
		{"all, a replaced value at its new place", "", 0, `["2 b/1 1" "3 a/2 2" "4 b 2/é 3" "5 a/1 4"]`},
		{"one prefix", "a/", 0, `["3 a/2 2" "5 a/1 4"]`},
		{"one prefix, behind a place", "a/", 3, `["5 a/1 4"]`},
		{"part of a segment", "b", 0, `["2 b/1 1" "4 b 2/é 3"]`},
		{"nothing behind the end", "a/", 5, `[]`},
		{"nothing of this prefix", "c/", 0, `[]`},
	} {
		if got := fmt.Sprintf("%q", read(tt.prefix, tt.after)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if last, err := d.Last(t.Context()); last != 5 || err != nil {
		t.Errorf("last %d %v", last, err)
	}
	if err := d.Purge(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%q", read("", 0)), `["4 b 2/é 3" "5 a/1 4"]`; got != want {
		t.Errorf("after a purge %s, want %s", got, want)
	}
}

// TestTableHoldsOneValuePerKey: a crash, or an error, between the two halves of a Put
// leaves the value that was replaced; a start and the next Put remove it.
func TestTableHoldsOneValuePerKey(t *testing.T) {
	dir := t.TempDir()
	e := open(t, Options{Dir: dir})
	holds := func(name string, d *Table, want string) {
		t.Helper()
		var got []string
		for entry, err := range d.Since(t.Context(), "", 0) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, entry.Key+" "+string(entry.Value))
		}
		if fmt.Sprint(got) != want || d.Len() != len(got) {
			t.Errorf("%s: %v, of %d in all, want %s", name, got, d.Len(), want)
		}
	}
	tables := map[string]*Table{"dead letters": e.DeadLetters(), "work": e.Work(), "audit log": e.Audit()}
	for name, d := range tables {
		for _, key := range []string{"a/1", "b é/2", "c/3"} {
			if err := d.Put(t.Context(), key, []byte("one")); err != nil {
				t.Fatal(err)
			}
		}
		for _, half := range []struct{ subject, value string }{{"a.1", "two"}, {"b=20=C3=A9.2", "two"}, {"a.1", "three"}} {
			if _, err := d.stream.store(t.Context(), d.root+half.subject, []byte(half.value)); err != nil {
				t.Fatal(err)
			}
		}
		if d.Len() != 6 {
			t.Fatalf("%s: %d values in the store, want those of the halves of Puts among them", name, d.Len())
		}
	}
	crashed := copyDir(t, dir)
	for range 2 { // also when it was done already
		started := open(t, Options{Dir: crashed})
		for name, d := range map[string]*Table{"dead letters": started.DeadLetters(), "work": started.Work(), "audit log": started.Audit()} {
			holds(name+" after a start", d, "[c/3 one b é/2 two a/1 three]")
		}
		if err := started.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d := e.DeadLetters()
	for _, key := range []string{"a/1", "b é/2"} {
		if err := d.Put(t.Context(), key, []byte("four")); err != nil {
			t.Fatal(err)
		}
	}
	holds("after another Put", d, "[c/3 one a/1 four b é/2 four]")
}
