package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// parked is what the park holds, and the data of its events by their index.
func parked(t *testing.T, k *Park, frames ...uint64) (got []string) {
	t.Helper()
	for seq, err := range k.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		frame := frames[0]
		frames = frames[1:]
		f, err := k.Frame(t.Context(), seq, frame)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprint(seq, ":")
		for i, r := range f.Records {
			if r.Kind == KindEvent {
				line += fmt.Sprintf(" %d=%s", i, r.Data)
			}
		}
		got = append(got, line)
	}
	return got
}

func TestPark(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	p, k := e.Partition(), e.Partition().Park()
	first := mustAppend(t, p, eventRecord("a"), fact("k", "state"), eventRecord("b"), eventRecord("c"))
	second := mustAppend(t, p, eventRecord("d"))
	for _, c := range []struct {
		seq  uint64
		keep []int
	}{{first.Seq, []int{0, 2}}, {second.Seq, []int{0}}, {first.Seq, []int{3}}} {
		f, err := p.Frame(t.Context(), c.seq)
		if err != nil {
			t.Fatal(err)
		}
		seq, err := k.Put(t.Context(), f, c.keep)
		if err != nil {
			t.Fatal(err)
		}
		copied, err := k.Frame(t.Context(), seq, c.seq)
		if err != nil {
			t.Fatal(err)
		}
		if copied.Generation != f.Generation || !copied.Time.Equal(f.Time) || copied.Seq != f.Seq || copied.Size > f.Size {
			t.Errorf("copy %+v of %+v", copied, f)
		}
	}
	counted := k.Bytes()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, Options{Dir: dir})
	p, k = e.Partition(), e.Partition().Park()
	if k.Len() != 3 || counted < k.Bytes()-3*parkMessage || counted > k.Bytes()+3*parkMessage {
		t.Errorf("%d copies of %d bytes, counted %d", k.Len(), k.Bytes(), counted)
	}
	if got, want := fmt.Sprint(parked(t, k, first.Seq, second.Seq, first.Seq)), "[1: 0=a 2=b 2: 0=d 3: 3=c]"; got != want {
		t.Errorf("the park holds %s, want %s", got, want)
	}
	if _, err := k.Frame(t.Context(), 2, first.Seq); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a copy of another frame: %v", err)
	}
	for range 2 { // the second time they are not there
		if err := k.Remove(t.Context(), 1, 3); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Frame(t.Context(), 1, first.Seq); !errors.Is(err, ErrPurged) {
		t.Errorf("a removed copy: %v", err)
	}
	if got, want := fmt.Sprint(parked(t, k, second.Seq)), "[2: 0=d]"; got != want || k.Len() != 1 {
		t.Errorf("the park holds %s in %d copies, want %s", got, k.Len(), want)
	}
	if err := k.Remove(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if k.Len() != 0 || k.Bytes() != 0 {
		t.Errorf("an empty park has %d copies of %d bytes", k.Len(), k.Bytes())
	}
	f, err := p.Frame(t.Context(), second.Seq)
	if err != nil {
		t.Fatal(err)
	}
	if seq, err := k.Put(t.Context(), f, []int{0}); err != nil || seq != 4 {
		t.Errorf("the next copy has the name %d (%v), which must be a new one", seq, err)
	}
}

// TestParkBeforePurge: the log lets a frame go when its copy survives whatever the
// durability survives.
func TestParkBeforePurge(t *testing.T) {
	for _, tt := range []struct {
		level Durability
		first uint64 // at once
	}{{DurabilityDisk, 5}, {DurabilityProcess, 3}} {
		dir := t.TempDir()
		t.Run(string(tt.level), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, err := Open(t.Context(), Options{Dir: dir, Durability: tt.level})
				if err != nil {
					t.Fatal(err)
				}
				p := e.Partition()
				for i := range 5 {
					mustAppend(t, p, eventRecord(fmt.Sprint(i)))
				}
				for _, seq := range []uint64{3, 4} {
					f, err := p.Frame(t.Context(), seq)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := p.Park().Put(t.Context(), f, []int{0}); err != nil {
						t.Fatal(err)
					}
				}
				purge := func(want uint64) {
					t.Helper()
					if err := p.Purge(t.Context(), 5); err != nil {
						t.Fatal(err)
					}
					if first, _ := p.Bounds(); first != want {
						t.Errorf("the log begins at %d, want %d", first, want)
					}
				}
				purge(tt.first)
				time.Sleep(15 * time.Second)
				purge(5)
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestFormatIsRaised: a start states the present format in an older directory, in
// which everything can be read.
func TestFormatIsRaised(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, e.Partition(), eventRecord("old"))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "FORMAT")
	if err := os.WriteFile(path, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e = open(t, Options{Dir: dir})
	if raw, err := os.ReadFile(path); err != nil || string(raw) != fmt.Sprintln(formatVersion) {
		t.Errorf("format %q (%v)", raw, err)
	}
	if got := fmt.Sprint(events(t, e.Partition(), 0)); got != "[old]" {
		t.Errorf("events %s", got)
	}
}
