package resource

import (
	"context"
	"sync"
)

// Following is what keeps something running for each of some records.
type Following[T any] struct {
	// Records returns those that are to be followed now, by key.
	Records func() map[string]Item[T]
	// Changed says that Records may return others than before.
	Changed <-chan struct{}
	// Forget is called when followers of records that changed or went have ended and none
	// was started since: nothing is kept that a follower may still write.
	Forget func(ctx context.Context)
	// Follow follows one record until ctx ends, which is when the record changes or goes.
	Follow func(ctx context.Context, item Item[T])
}

// Run has one Follow running for each record, as it is now, until ctx ends: never two
// for one key. It returns after the last of them.
func (f Following[T]) Run(ctx context.Context) {
	type follower struct {
		revision uint64
		cancel   context.CancelFunc
		done     chan struct{}
	}
	running := map[string]*follower{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		records := f.Records()
		for key, one := range running {
			if item, ok := records[key]; !ok || item.Revision != one.revision {
				one.cancel()
				<-one.done
				delete(running, key)
			}
		}
		f.Forget(ctx)
		for key, item := range records {
			if running[key] != nil {
				continue
			}
			following, cancel := context.WithCancel(ctx)
			one := &follower{revision: item.Revision, cancel: cancel, done: make(chan struct{})}
			running[key] = one
			all.Go(func() {
				defer close(one.done)
				defer cancel()
				f.Follow(following, item)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-f.Changed:
		}
	}
}
