package manage

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Replayer delivers ranges of the log once more. The broker satisfies it.
type Replayer interface {
	ReplayLog(ctx context.Context, job broker.LogReplay) (broker.LogReplay, error)
	// CountLog counts what ReplayLog would deliver.
	CountLog(ctx context.Context, job broker.LogReplay) (broker.LogReplay, error)
	LogReplays(uid resource.UID) []broker.LogReplay
	CancelLogReplay(ctx context.Context, uid resource.UID, id string) (broker.LogReplay, bool, error)
}

// ReplayChange is a replay as a request gives it.
type ReplayChange struct {
	Invalid  error           // what the wire form got wrong already
	From, To string          // RFC 3339; To "" is now
	Filter   json.RawMessage // in the management API's form; it narrows what the event subscription's own filter wants
	Rate     *float64        // events a second; nil for as fast as the handler takes them
	DryRun   bool            // count, and deliver nothing
}

const maxReplayRate = 100_000

// ReplayEvents delivers the events of a source that were logged in a range once more
// to one of its event subscriptions, or counts them. The caller needs to be allowed
// to read events there, as for an explanation, and for a delivery to change the
// event subscription.
func (p *Plane) ReplayEvents(ctx context.Context, caller access.Caller, id resource.ID, c ReplayChange) (broker.LogReplay, error) {
	if !c.DryRun {
		if err := p.authorizeWrite(ctx, caller, id, "write"); err != nil {
			return broker.LogReplay{}, err
		}
	}
	s, item, err := p.findForEvents(ctx, caller, id, c.Invalid)
	if err != nil {
		return broker.LogReplay{}, err
	}
	job := broker.LogReplay{UID: item.Value.UID, Topic: s.stream.Topic, By: caller.Label()}
	var v checker
	job.From, job.To = v.instant("from", c.From), time.Now().UTC()
	if c.To != "" {
		job.To = v.instant("to", c.To)
	}
	if c.From == "" {
		v.field("from", "A replay needs from, the time of logging from which on events are delivered again, like 2026-03-02T12:00:00Z.")
	} else if !job.From.IsZero() && !job.To.IsZero() && !job.From.Before(job.To) {
		v.field("to", "The range ends at %s, before it begins at %s.", job.To.Format(time.RFC3339), job.From.Format(time.RFC3339))
	}
	if c.Filter != nil {
		job.Filter = v.filter(c.Filter, s)
	}
	if c.Rate != nil {
		if job.Rate = *c.Rate; !(job.Rate > 0 && job.Rate <= maxReplayRate) {
			v.field("rate", "The value %v of rate is out of range: use more than 0 and at most %d events a second, or leave it out.", job.Rate, maxReplayRate)
		}
	}
	if err := fault.Join(v.problems...); err != nil {
		return job, err
	}
	if job.From.Before(s.since) {
		job.From = s.since
	}
	if c.DryRun {
		return p.Replayer.CountLog(ctx, job)
	}
	if job, err = p.Replayer.ReplayLog(ctx, job); err == nil {
		p.changed(ctx, caller, "replay", item.Value.ID(), slog.String("replay", job.ID))
	}
	return job, err
}

func (v *checker) instant(name, text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		v.field(name, "The value '%.60s' of %s is not a time: write it like 2026-03-02T12:00:00Z.", text, name)
	}
	return at.UTC()
}

// Replays returns the replays to an event subscription, the oldest first.
func (p *Plane) Replays(ctx context.Context, caller access.Caller, id resource.ID) ([]broker.LogReplay, error) {
	if err := p.authorize(ctx, caller, action(id, "read"), id); err != nil {
		return nil, err
	}
	_, item, err := p.find(id)
	if err != nil {
		return nil, err
	}
	return p.Replayer.LogReplays(item.Value.UID), nil
}

// CancelReplay ends a replay; what is on its way stays on its way.
func (p *Plane) CancelReplay(ctx context.Context, caller access.Caller, id resource.ID, replay string) error {
	if err := p.authorizeWrite(ctx, caller, id, "write"); err != nil {
		return err
	}
	_, item, err := p.find(id)
	if err != nil {
		return err
	}
	_, found, err := p.Replayer.CancelLogReplay(ctx, item.Value.UID, replay)
	if err == nil && found {
		p.changed(ctx, caller, "cancel replay", item.Value.ID(), slog.String("replay", replay))
	}
	return err
}
