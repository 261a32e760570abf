package destination

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
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
