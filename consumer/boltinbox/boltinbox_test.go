package boltinbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/mlevent"
)

func open(t *testing.T, path string, events int, age time.Duration) *Inbox {
	t.Helper()
	i, err := Open(path, events, age)
	if err != nil {
		t.Fatal(err)
	}
	i.db.NoSync = true
	t.Cleanup(func() { _ = i.Close() })
	return i
}

func TestInbox(t *testing.T) {
	consumertest.TestInbox(t, func(t *testing.T) consumer.Inbox {
		return open(t, filepath.Join(t.TempDir(), "inbox"), 1000, time.Hour)
	})
}

// TestForgets holds what is remembered, and what lies in the file, against the bounds.
func TestForgets(t *testing.T) {
	i := open(t, filepath.Join(t.TempDir(), "inbox"), 50, time.Hour)
	now := time.Now()
	i.now = func() time.Time { return now }
	entry := func(n int) consumer.Entry {
		return consumer.Entry{Source: "s", ID: fmt.Sprint(n), Subject: fmt.Sprint("subject", n/2), Sequencer: fmt.Sprintf("%04d", n)}
	}
	judge := func(n int) consumer.Verdict {
		v, err := i.Begin(t.Context(), entry(n))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for n := range 200 {
		now = now.Add(time.Second)
		for range 2 { // as after a process that died in between
			now = now.Add(time.Nanosecond)
			if err := i.End(t.Context(), entry(n), true); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range 200 {
		want := consumer.Seen
		if n < 150 {
			want = consumer.Unseen
		}
		if v := judge(n); v != want {
			t.Errorf("event %d is %s", n, v)
		}
	}
	sizes := func() (sizes [3]int) {
		err := i.db.View(func(tx *bolt.Tx) error {
			for at, name := range [][]byte{byEvent, byObject, byTime} {
				sizes[at] = tx.Bucket(name).Stats().KeyN
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return sizes
	}
	if got := sizes(); got != [3]int{50, 25, 50} {
		t.Errorf("the file has %v events, objects, times", got)
	}
	now = now.Add(time.Hour)
	if v := judge(199); v != consumer.Unseen {
		t.Errorf("after an hour it is %s", v)
	}
	for n := range 5 { // each has some of the old ones forgotten
		if err := i.End(t.Context(), entry(1000+n), true); err != nil {
			t.Fatal(err)
		}
	}
	if got := sizes(); got != [3]int{5, 3, 5} {
		t.Errorf("an hour later the file has %v", got)
	}
}

// TestOutlives opens the file again, and by a second process not before it is closed.
func TestOutlives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox")
	source := consumertest.NewSource("/workspace")
	older, newer := source.Event(mlevent.ModelDeployed{ServiceName: "s"}), source.Event(mlevent.ModelDeployed{ServiceName: "s"})
	handled := 0
	handler := func(i *Inbox) *consumer.Handler {
		h, err := consumer.New(consumer.Topics("/workspace"), consumer.WithInbox(i), consumer.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
			consumer.On(func(context.Context, consumer.Event[mlevent.ModelDeployed]) error {
				handled++
				return nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := consumer.New(consumer.Topics("*"), consumer.WithInbox(i), consumer.On(func(context.Context, consumer.Event[mlevent.ModelDeployed]) error { return nil })); !errors.Is(err, consumer.ErrAttached) {
			t.Errorf("the inbox goes to two handlers: %v", err)
		}
		return h
	}
	deliver := func(h *consumer.Handler, e consumertest.Event) consumer.Stats {
		if a, err := (&consumertest.Sender{Handler: h}).Send(e); err != nil || a.Status != 200 {
			t.Errorf("%+v, %v", a, err)
		}
		return h.Stats()
	}
	i := open(t, path, 1000, time.Hour)
	deliver(handler(i), newer)
	if _, err := Open(path, 1, time.Hour); err == nil || !errors.Is(err, berrors.ErrTimeout) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second process opens the file: %v", err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	i = open(t, path, 1000, time.Hour)
	h := handler(i)
	if s := deliver(h, newer); s.Duplicate != 1 {
		t.Errorf("counted %+v", s)
	}
	if s := deliver(h, older); s.Stale != 1 || handled != 1 {
		t.Errorf("counted %+v, handled %d", s, handled)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if err := i.End(t.Context(), consumer.Entry{ID: "1"}, true); err == nil {
		t.Error("a closed inbox remembers")
	}
	if _, err := i.Begin(t.Context(), consumer.Entry{ID: "1"}); err == nil {
		t.Error("a closed inbox tells")
	}
}

// TestDamaged opens files that were cut or written over: an error each, and no end of the process.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox")
	i := open(t, path, 1000, time.Hour)
	for n := range 300 {
		if err := i.End(t.Context(), consumer.Entry{Source: "s", ID: fmt.Sprint(n), Subject: fmt.Sprint(n), Sequencer: "1"}, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.db.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	zeros := make([]byte, len(good)-2*page)
	for name, c := range map[string]struct {
		raw []byte
		ok  bool
	}{
		"whole":                {good, true},
		"text":                 {bytes.Repeat([]byte("x"), 40_000), false},
		"a word":               {[]byte("hello"), false},
		"half":                 {good[:len(good)/2], false},
		"the first pages":      {good[:2*page], false},
		"zeros after them":     {append(bytes.Clone(good[:2*page]), zeros...), false},
		"something after them": {append(bytes.Clone(good[:2*page]), bytes.Repeat([]byte{0xa5}, len(zeros))...), false},
	} {
		damaged := filepath.Join(t.TempDir(), "inbox")
		if err := os.WriteFile(damaged, c.raw, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := Open(damaged, 1000, time.Hour)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = i.Close()
		}
	}
}

// TestNumberAlone has no age.
func TestNumberAlone(t *testing.T) {
	i := open(t, filepath.Join(t.TempDir(), "inbox"), 2, 0)
	now := time.Now()
	i.now = func() time.Time { now = now.Add(1000 * time.Hour); return now }
	for n := range 3 {
		if err := i.End(t.Context(), consumer.Entry{Source: "s", ID: fmt.Sprint(n), Subject: "o", Sequencer: fmt.Sprint(n)}, true); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]consumer.Verdict{"0": consumer.Older, "1": consumer.Seen, "2": consumer.Seen} {
		if v, err := i.Begin(t.Context(), consumer.Entry{Source: "s", ID: id, Subject: "o", Sequencer: id}); v != want || err != nil {
			t.Errorf("%s is %s, %v", id, v, err)
		}
	}
}

// TestTogether has many events remembered at once.
func TestTogether(t *testing.T) {
	i := open(t, filepath.Join(t.TempDir(), "inbox"), 1000, time.Hour)
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() {
			if err := i.End(t.Context(), consumer.Entry{Source: "s", ID: fmt.Sprint(n)}, true); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for n := range 100 {
		if v, err := i.Begin(t.Context(), consumer.Entry{Source: "s", ID: fmt.Sprint(n)}); v != consumer.Seen || err != nil {
			t.Errorf("%d is %s, %v", n, v, err)
		}
	}
}
