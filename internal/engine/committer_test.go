package engine

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestCompany holds for whom a frame waits, and how long.
func TestCompany(t *testing.T) {
	const sync = 300 * time.Microsecond // that the frame before took
	for _, tt := range []struct {
		name          string
		last, waiting int // requests of the frame before, and those that came meanwhile
		size          int // of each
		since         time.Duration
		later         int // requests that come 1 ms later
		want          int // in the frame
		after         time.Duration
	}{
		{name: "one publisher", last: 1, waiting: 1, size: 1024, since: sync, later: 1, want: 1},
		{name: "three", last: 3, waiting: 3, size: 1024, since: sync, later: 3, want: 3},
		{name: "those that were answered ask again", last: 8, waiting: 2, size: 1024, since: sync, later: 8, want: 10, after: time.Millisecond},
		{name: "most of them", last: 8, waiting: 2, size: 1024, since: sync, later: 7, want: 9, after: time.Millisecond},
		{name: "few of them", last: 8, waiting: 2, size: 1024, since: sync, later: 3, want: 5, after: companyTime - sync},
		{name: "nobody", last: 8, waiting: 2, size: 1024, since: sync, want: 2, after: companyTime - sync},
		{name: "a slow disk", last: 8, waiting: 2, size: 1024, since: companyTime, later: 8, want: 2},
		{name: "a large request", last: 8, waiting: 1, size: frameAlone, since: sync, later: 2, want: 1},
		{name: "large ones come", last: 8, waiting: 1, size: frameAlone / 2, since: sync, later: 2, want: 3, after: time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCommitter(nil, time.Now())
				arrive := func(n, size int) {
					c.mu.Lock()
					defer c.mu.Unlock()
					for range n {
						c.add(&appendRequest{size: size})
					}
				}
				time.Sleep(time.Hour)
				arrive(tt.last, 1024)
				if batch, _ := c.take(); len(batch) != tt.last {
					t.Fatalf("the frame before has %d requests", len(batch))
				}
				time.Sleep(tt.since)
				arrive(tt.waiting, tt.size)
				began := time.Now()
				go func() {
					time.Sleep(time.Millisecond)
					arrive(tt.later, tt.size)
				}()
				batch, _ := c.take()
				if after := time.Since(began); len(batch) != tt.want || after != tt.after {
					t.Errorf("%d requests after %s, want %d after %s", len(batch), after, tt.want, tt.after)
				}
				time.Sleep(time.Second)
				arrive(1, 1024) // what is over does not count for the next
				left := len(c.queue)
				if batch, _ = c.take(); len(batch) != left {
					t.Errorf("%d requests in the next frame, want %d", len(batch), left)
				}
			})
		})
	}
}
