package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// lateness knows which streams owe an ack. A stream of the store that met a full
// disk or a broken write answers nothing any more, and nobody's writes to it
// either, until the store is started anew.
type lateness struct {
	mu   sync.Mutex
	owed map[string]error
}

// of returns what the fenced writer of a stream reports to: an error while an ack
// is overdue, nil when writing goes on.
func (l *lateness) of(stream string) func(error) {
	return func(err error) { l.set(stream, err) }
}

func (l *lateness) set(stream string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.owed, stream)
		return
	}
	if l.owed == nil {
		l.owed = map[string]error{}
	}
	l.owed[stream] = err
}

// single marks the debts of writes that nobody repeats by himself.
const single = " (single write)"

// watch reports a write that is not repeated by itself when it takes too long; the
// caller tells what it returns how the write ended. Such a debt ends with the next
// write that succeeds, or with the restart.
func (l *lateness) watch(stream string) (end func(error)) {
	late := func() { l.set(stream+single, fmt.Errorf("stream %s: %w", stream, errNoAck)) }
	began, t := time.Now(), time.AfterFunc(ackLimit, late)
	return func(err error) {
		t.Stop()
		switch {
		case err == nil:
			l.set(stream+single, nil)
		case time.Since(began) >= ackLimit, errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
			late()
		}
	}
}

// forgive ends the debts of writes that nobody repeats.
func (l *lateness) forgive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.owed, func(stream string, _ error) bool { return strings.HasSuffix(stream, single) })
}

// err tells what is owed, nil for nothing.
func (l *lateness) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.owed) == 0 {
		return nil
	}
	var all []error
	for _, stream := range slices.Sorted(maps.Keys(l.owed)) {
		all = append(all, l.owed[stream])
	}
	return fmt.Errorf("the store does not ack what is written and is started anew: %w", errors.Join(all...))
}

// restartRest is the least time between two restarts of the store: writers find
// out within ackLimit whether one helped.
const restartRest = 3 * ackLimit

// keep watches the disk and the store until ctx ends.
func (e *Engine) keep(ctx context.Context) {
	tick := time.NewTicker(e.opts.SyncInterval / looksPerSync)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if e.disk.look() {
			e.spaceCameBack()
		}
		e.partition.projection.hold(e.disk.space() == SpaceOut)
		if err := e.lateness.err(); err != nil && e.rested() {
			e.restart(ctx, err)
		}
	}
}

// rested reports whether the last restart was long enough ago.
func (e *Engine) rested() bool {
	e.restarting.Lock()
	defer e.restarting.Unlock()
	return time.Since(e.restarted) >= restartRest
}

// spaceCameBack lets a quota that follows the disk follow it.
func (e *Engine) spaceCameBack() {
	if !e.quotaUnset {
		return
	}
	quota, err := e.defaultQuota()
	if err != nil {
		e.opts.Logger.Error("space of the log cannot be measured", "error", err)
		return
	}
	p := e.partition
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quota = max(p.quota, quota)
}

// restart starts the store anew under everybody who uses it. Connections and
// subscriptions go on by themselves; a fenced writer finds out whether its message
// was stored and sends it again if not; other writes and reads fail and are
// repeated by whoever made them. The projection alone acknowledges what is not yet
// written, so it is written again from where it is safe. Nothing else that was
// acknowledged is in the old server's memory only.
func (e *Engine) restart(ctx context.Context, why error) {
	e.restarting.Lock()
	defer e.restarting.Unlock()
	e.opts.Logger.Error("store is started anew", "error", why)
	began := time.Now()
	facts := e.partition.projection
	resume := facts.suspend()
	defer resume()
	e.node.down()
	for warned := false; ; warned = true {
		err := e.dir.mend(e.opts.Logger, false)
		if err == nil {
			err = e.node.boot()
		}
		if err == nil {
			e.node.reconnect(ctx)
			err = facts.rewind(ctx, e.partition)
		}
		if err == nil {
			break
		}
		e.node.down()
		if !warned {
			e.opts.Logger.Error("store does not start; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		e.disk.look()
	}
	e.restarted = time.Now()
	e.lateness.forgive()
	e.metrics.restarts.Inc()
	e.opts.Logger.Info("store runs again", "duration", time.Since(began))
}
