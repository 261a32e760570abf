package broker

import (
	"context"
	"fmt"

	"github.com/carillon-events/carillon/internal/engine"
)

// Record appends facts and events to the log as one unit and returns once they are
// stored. It is the only way into the log.
//
// What the return promises, and so what a publisher's 200 means, is the
// configured durability level (spec/engine.md section 8.5): at "process" the
// records survive the end of this process however it comes, and a power cut may
// lose the last two seconds; at "disk", the default, they are synced and survive
// a power cut too. From then on every event among them reaches every event
// subscription that matches it, or becomes a dead letter.
//
// A publisher is slowed here, and only here, while more than maxUnmatched bytes
// of frames are committed and not yet matched.
func (b *Broker) Record(ctx context.Context, records []engine.Record) (engine.Receipt, error) {
	if err := b.queue.wait(ctx); err != nil {
		return engine.Receipt{}, fmt.Errorf("wait for the dispatcher: %w", err)
	}
	receipt, err := b.cfg.Log.Append(ctx, records)
	if err != nil {
		return engine.Receipt{}, err
	}
	return receipt, nil
}

// committed takes every stored frame in order, from the committer.
func (b *Broker) committed(f *engine.Frame) {
	b.window.put(f)
	b.queue.pushFrame(f)
}
