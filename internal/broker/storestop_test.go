package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/filter"
)

// slowJournal stores nothing while it is shut, as a store that is started anew.
type slowJournal struct {
	Journal
	open chan struct{}
}

func (j slowJournal) Append(ctx context.Context, payload []byte) (uint64, error) {
	select {
	case <-j.open:
		return j.Journal.Append(ctx, payload)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// TestJournalWaitsForTheStore keeps the journal from its store for five minutes: the
// broker goes on delivering, and what it settled is written then. A stop waits half
// a minute.
func TestJournalWaitsForTheStore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		comes bool
	}{{"the store comes back", true}, {"the store does not come back before the stop", false}} {
		bubble(t, tt.name, func(t *testing.T) {
			disk := newStore()
			hold := disk.open(-1)
			gate := make(chan struct{})
			var shut slowJournal
			hold.tune = func(c *Config) {
				shut = slowJournal{c.Journal, make(chan struct{})}
				close(shut.open)
				c.Journal = &shut
			}
			h := &handler{t: t}
			es := testSubscription(0, filter.Filter{})
			p := startProcess(t, hold, map[string]Sender{"es0": h}, es)
			synctest.Wait()
			shut.open = gate
			publish(t, p.Broker, 0, 3, "a")
			time.Sleep(5 * time.Minute)
			if got := len(h.got()); got != 3 {
				t.Errorf("%d requests while the journal waits", got)
			}
			if !tt.comes {
				began := time.Now()
				if err := p.end(); err == nil || time.Since(began) != flushPatience {
					t.Errorf("the stop took %s and says %v", time.Since(began), err)
				}
				return
			}
			close(gate)
			finish(t, p)
			again := &handler{t: t}
			p = startProcess(t, disk.open(-1), map[string]Sender{"es0": again}, es)
			time.Sleep(time.Minute)
			if got := len(again.got()); got != 0 {
				t.Errorf("%d requests are repeated after what was settled", got)
			}
			finish(t, p)
		})
	}
}
