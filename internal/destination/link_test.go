package destination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestLinkMadeAnew: a connection is used by all until what it is made by changes; who uses
// it then goes on, and it is ended once, after the last one.
func TestLinkMadeAnew(t *testing.T) {
	var mu sync.Mutex
	by, made := "a", 0
	ended := make(chan string, 8)
	l := &link[string]{
		dial: func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			made++
			return fmt.Sprintf("%s%d", by, made), nil
		},
		end: func(c string) { ended <- c },
		by: func() string {
			mu.Lock()
			defer mu.Unlock()
			return by
		},
	}
	change := func(to string) {
		mu.Lock()
		defer mu.Unlock()
		by = to
	}
	use := func(broken bool) (used string) {
		t.Helper()
		if err := l.use(t.Context(), func(c string) bool { used = c; return broken }); err != nil {
			t.Fatal(err)
		}
		return used
	}
	if got := []string{use(false), use(false)}; !slices.Equal(got, []string{"a1", "a1"}) {
		t.Errorf("used %q", got)
	}
	// Two use the first while it is replaced, and one of them finds it broken.
	var inner []string
	_ = l.use(t.Context(), func(string) bool {
		_ = l.use(t.Context(), func(c string) bool {
			change("b")
			inner = append(inner, c, use(false), use(false))
			return true
		})
		select {
		case c := <-ended:
			t.Errorf("%s is ended while it is used", c)
		default:
		}
		return false
	})
	if !slices.Equal(inner, []string{"a1", "b2", "b2"}) {
		t.Errorf("used %q", inner)
	}
	if c := <-ended; c != "a1" {
		t.Errorf("%s is ended first", c)
	}
	change("c") // nobody uses it: it is ended by who comes next
	if got := use(false); got != "c3" {
		t.Errorf("used %q", got)
	}
	if c := <-ended; c != "b2" {
		t.Errorf("%s is ended second", c)
	}
	use(true)
	if c := <-ended; c != "c3" {
		t.Errorf("%s is ended third", c)
	}
	use(false)
	l.Close()
	if c := <-ended; c != "c4" || len(ended) > 0 {
		t.Errorf("%s is ended last, of %d more", c, len(ended))
	}
}

// TestLinkTurns: who waits for a turn gets the connection that is good when it comes.
func TestLinkTurns(t *testing.T) {
	made := 0
	l := &link[int]{
		dial:  func(context.Context) (int, error) { made++; return made, nil },
		end:   func(int) {},
		turns: make(chan struct{}, 1),
	}
	defer l.Close()
	used := make(chan int)
	if err := l.inTurn(t.Context(), nil, func(c int) (broken bool) {
		go func() {
			_ = l.inTurn(context.Background(), nil, func(c int) bool { used <- c; return false })
		}()
		over := make(chan time.Time, 1)
		over <- time.Time{}
		if err := l.inTurn(t.Context(), over, func(int) bool { t.Error("two have a turn"); return false }); !errors.Is(err, errNoTurn) {
			t.Errorf("after its time: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.inTurn(ctx, nil, func(int) bool { t.Error("two have a turn"); return false }); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if c := <-used; c != 2 {
		t.Errorf("who waited while connection 1 broke has connection %d", c)
	}
}
