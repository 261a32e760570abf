package engine

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestFakeDay runs the engine in fake time, twice in one process, for nothing
// that belongs to one bubble may reach the next. TestMain keeps the server's
// access-time ticker out of the bubbles.
func TestFakeDay(t *testing.T) {
	for round := range 2 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				e, err := Open(t.Context(), Options{Dir: dir, SyncInterval: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				p := e.Partition()
				ctx, cancel := context.WithCancel(t.Context())
				changes := make(chan Change, 8)
				if err := e.KV().Watch(ctx, func(c Change) { changes <- c }); err != nil {
					t.Fatal(err)
				}
				a := mustAppend(t, p, eventRecord("a"), fact("k/1", "one"))
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				b := mustAppend(t, p, eventRecord("b"), fact("k/1", "two"))
				if d := b.Time.Sub(a.Time); d != 24*time.Hour {
					t.Errorf("times differ by %s", d)
				}
				if got := fmt.Sprint(events(t, p, 0)); got != "[a b]" {
					t.Errorf("events %s", got)
				}
				if f, ok, err := p.Fact(t.Context(), "k/1"); err != nil || !ok || string(f.Data) != "two" {
					t.Errorf("fact %+v %v %v", f, ok, err)
				}
				if _, err := e.KV().Create(t.Context(), "a", []byte("1")); err != nil {
					t.Fatal(err)
				}
				if c := <-changes; c.Key != "a" {
					t.Errorf("change %+v", c)
				}
				cancel()
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
