package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Letter is a dead letter as it is stored: the event, and why and when it was
// given up. Its ID is derived from the event subscription and the position, so
// storing it again after a crash overwrites it.
type Letter struct {
	Version                 int             `json:"version"` // 1
	ID                      string          `json:"id"`
	EventSubscription       string          `json:"eventSubscription"` // full resource id
	Topic                   string          `json:"topic"`             // full resource id of the source
	InputSchema             uint8           `json:"inputSchema"`       // event.Schema of Event
	Event                   json.RawMessage `json:"event"`             // the stored event, unchanged
	Sequencer               string          `json:"sequencer"`
	DeadLetterReason        Reason          `json:"deadLetterReason"`
	DeliveryAttempts        int             `json:"deliveryAttempts"`
	LastDeliveryOutcome     string          `json:"lastDeliveryOutcome"`
	LastHTTPStatusCode      int             `json:"lastHttpStatusCode,omitempty"`
	PublishTime             time.Time       `json:"publishTime"`
	LastDeliveryAttemptTime time.Time       `json:"lastDeliveryAttemptTime,omitzero"` // zero when no attempt was made
	DeadLetterTime          time.Time       `json:"deadLetterTime,omitzero"`          // when it was given up
	DeliverySchema          uint8           `json:"deliverySchema,omitempty"`         // event.Schema it was to be delivered in, and is written to a store in

	Place uint64 `json:"-"` // in the order of dead letters, set by a list
}

// encode is the stored form. The encoder would compact the event and escape some of
// its characters: its bytes are put in afterwards.
func (l *Letter) encode() ([]byte, error) {
	frame := *l
	frame.Event = nil
	raw, err := json.Marshal(frame)
	if err != nil {
		return nil, fmt.Errorf("encode dead letter %s: %w", l.ID, err)
	}
	before, behind, _ := bytes.Cut(raw, []byte(`"event":null`))
	return slices.Concat(before, []byte(`"event":`), l.Event, behind), nil
}

// GivenUp is when the event was dead-lettered.
func (l *Letter) GivenUp() time.Time {
	if l.DeadLetterTime.IsZero() { // stored before the time was kept
		return l.PublishTime
	}
	return l.DeadLetterTime
}

func (l *Letter) schema() event.Schema { return event.Schema(l.InputSchema) }

// letterID names the dead letter of a delivery; letterKey is where it is stored.
func (d *delivery) letterID() string { return d.id() }

// id names the delivery: event subscription and position.
func (d *delivery) id() string { return deliveryID(d.sub.uid, d.pos) }

func deliveryID(uid uint64, pos engine.Position) string {
	return fmt.Sprintf("%016x-%016x", uid, uint64(pos))
}

func letterKey(id string) string {
	uid, pos, _ := strings.Cut(id, "-")
	return uid + "/" + pos
}

func idOfKey(key string) string { return strings.Replace(key, "/", "-", 1) }

// parseLetterID takes a dead letter's id apart.
func parseLetterID(id string) (uid uint64, pos engine.Position, err error) {
	a, b, ok := strings.Cut(id, "-")
	if ok && len(a) == 16 && len(b) == 16 {
		u, err1 := strconv.ParseUint(a, 16, 64)
		p, err2 := strconv.ParseUint(b, 16, 64)
		if err1 == nil && err2 == nil {
			return u, engine.Position(p), nil
		}
	}
	return 0, 0, fault.New(fault.NotFound, "DeadLetterNotFound",
		"Dead letter %q was not found: an id looks like 0123456789abcdef-0123456789abcdef, as the list shows it.", id)
}

// letter reads one dead letter.
func (b *Broker) letter(ctx context.Context, id string) (*Letter, error) {
	raw, found, err := b.cfg.DeadLetters.Get(ctx, letterKey(id))
	if err != nil {
		return nil, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	if !found {
		return nil, fault.New(fault.NotFound, "DeadLetterNotFound", "Dead letter %q was not found.", id)
	}
	l := &Letter{}
	if err := json.Unmarshal(raw, l); err != nil {
		return nil, fmt.Errorf("%w: dead letter %s: %w", engine.ErrCorrupt, id, err)
	}
	return l, nil
}

// hasLetter reports whether a dead letter of d's own event is stored. One that cannot be
// compared any more counts.
func (b *Broker) hasLetter(ctx context.Context, d *delivery) (bool, error) {
	l, err := b.letter(ctx, d.letterID())
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f, err := b.frameOf(ctx, d)
	switch {
	case err == nil:
		return l.Sequencer == f.Sequencer(d.pos.Index()), nil
	case lost(err):
		return true, nil
	default:
		return false, err
	}
}

// deleteLetter removes a letter, if it is there.
func deleteLetter(ctx context.Context, letters LetterTable, key string) error {
	_, there, err := letters.Get(ctx, key)
	if err == nil && there {
		err = letters.Delete(ctx, key)
	}
	return err
}

// DeadLetter returns one dead letter.
func (b *Broker) DeadLetter(ctx context.Context, id string) (*Letter, error) {
	if _, _, err := parseLetterID(id); err != nil {
		return nil, err
	}
	return b.letter(ctx, id)
}

// DeadLetters yields the dead letters of one event subscription, or of all for uid
// 0, in the order they were given up, from behind a place on.
func (b *Broker) DeadLetters(ctx context.Context, uid resource.UID, after uint64) iter.Seq2[*Letter, error] {
	prefix := ""
	if uid != 0 {
		prefix = uid.String() + "/"
	}
	return func(yield func(*Letter, error) bool) {
		for entry, err := range b.cfg.DeadLetters.Since(ctx, prefix, after) {
			if err != nil {
				yield(nil, fmt.Errorf("list dead letters: %w", err))
				return
			}
			l := &Letter{Place: entry.Seq}
			if err := json.Unmarshal(entry.Value, l); err != nil {
				yield(nil, fmt.Errorf("decode dead letter %s: %w", entry.Key, err))
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// RemoveDeadLetter removes a dead letter for good; one that is not there is
// NotFound. One that is being replayed goes when that succeeds. Of a removal and a
// replay at the same time one is refused: a replay that was accepted has its event.
func (b *Broker) RemoveDeadLetter(ctx context.Context, id string) error {
	uid, pos, err := parseLetterID(id)
	if err != nil {
		return err
	}
	if _, err := b.letter(ctx, id); err != nil {
		return err
	}
	if s := b.lookup(uid); s != nil { // else nobody can replay it
		if !s.beginRemoval(pos) {
			return fault.New(fault.Conflict, "DeadLetterInProgress", "Dead letter %s is being replayed, removed or just being stored. Remove it in a moment, if it is still there.", id)
		}
		defer s.endRemoval(pos)
	}
	if err := b.cfg.DeadLetters.Delete(ctx, letterKey(id)); err != nil {
		return fmt.Errorf("remove dead letter %s: %w", id, err)
	}
	b.log.Info("dead letter removed", telemetry.DeadLetterID, id)
	return nil
}

// beginRemoval lets nobody replay what was settled at a position until endRemoval; false
// when a delivery of it is open, or another removal under way.
func (s *subscription) beginRemoval(pos engine.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openAt(pos) != nil || slices.Contains(s.removing, pos) {
		return false
	}
	s.removing = append(s.removing, pos)
	return true
}

func (s *subscription) endRemoval(pos engine.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removing = slices.DeleteFunc(s.removing, func(p engine.Position) bool { return p == pos }); len(s.removing) == 0 {
		s.removing = nil
	}
}

// Replay delivers dead letters once more, with the id, etag and sequencer they
// always had: new deliveries with attempts and a time to live of their own. It
// returns what stands against each, nil for nothing, when the replays are durable;
// the error says that they are not. A letter goes when its replay succeeds.
func (b *Broker) Replay(ctx context.Context, ids ...string) (problems []error, err error) {
	problems = make([]error, len(ids))
	for i, id := range ids {
		problems[i] = b.replay(ctx, id)
	}
	return problems, b.journal.sync(ctx)
}

// lostEvent reports whether the log lost the event of a letter, as far as it can tell.
func (b *Broker) lostEvent(ctx context.Context, l *Letter, pos engine.Position) (bool, error) {
	if _, last := b.cfg.Log.Bounds(); pos.Seq() > last {
		return true, nil
	}
	f, err := b.window.frame(ctx, pos.Seq())
	switch {
	case err == nil:
		return pos.Index() >= len(f.Records) || f.Sequencer(pos.Index()) != l.Sequencer, nil
	case lost(err):
		return false, nil // history that is purged
	default:
		return false, fmt.Errorf("read the event of dead letter %s: %w", l.ID, err)
	}
}

// letterOfLost is why a letter is not replayed whose event the log lost: what happens at
// its place is told of the event that gets it.
func letterOfLost(id string) error {
	return fault.New(fault.Conflict, "DeadLetterEventLost",
		"Dead letter %s cannot be replayed: the log lost its end, and with it this event. Read the event with deadletter show and publish it again.", id)
}

func (b *Broker) replay(ctx context.Context, id string) error {
	uid, pos, err := parseLetterID(id)
	if err != nil {
		return err
	}
	l, err := b.letter(ctx, id)
	if err != nil {
		return err
	}
	if lost, err := b.lostEvent(ctx, l, pos); err != nil {
		return err
	} else if lost {
		return letterOfLost(id)
	}
	s := b.lookup(uid)
	if s == nil {
		return fault.New(fault.Conflict, "EventSubscriptionGone",
			"Dead letter %s cannot be replayed: its event subscription is not active any more. Read the event with deadletter show and publish it again.", id)
	}
	s.mu.Lock()
	if s.deleted {
		s.mu.Unlock()
		return fault.New(fault.Conflict, "EventSubscriptionGone", "Dead letter %s cannot be replayed: its event subscription was deleted.", id)
	}
	if d := s.openAt(pos); d != nil && (d.replay || d.state < burying) {
		s.mu.Unlock()
		if d.replay {
			return nil // it is on its way already
		}
		own, err := b.hasLetter(ctx, d)
		if err == nil && !own {
			err = letterOfLost(id)
		}
		return err // nil: a crash came between the letter and the close of its delivery
	} else if d != nil || s.lag != 0 && pos >= s.lag || pos.Seq() > b.journal.watermark() {
		s.mu.Unlock()
		return fault.New(fault.Conflict, "DeadLetterInProgress",
			"Dead letter %s is just being stored, or was when the server stopped last time. Replay it in a moment.", id)
	}
	if slices.Contains(s.removing, pos) {
		s.mu.Unlock()
		return fault.New(fault.Conflict, "DeadLetterInProgress", "Dead letter %s is just being removed: it cannot be replayed.", id)
	}
	if s.openN >= maxOpen {
		s.mu.Unlock()
		return fault.New(fault.TooMany, "TooManyOpenDeliveries",
			"The event subscription has %d open deliveries, the most it may have. Replay again when it has caught up.", maxOpen).After(30 * time.Second)
	}
	d := &delivery{sub: s, pos: pos, published: time.Now().UnixNano(), replay: true, state: inFlight}
	s.openN++
	b.open.Add(1)
	s.replays = append(s.replays, d)
	s.mu.Unlock()
	// An earlier replay that succeeded just now may have taken the letter with it. From here
	// on none does: this one is open.
	_, err = b.letter(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.deleted:
		return fault.New(fault.Conflict, "EventSubscriptionGone", "Dead letter %s cannot be replayed: its event subscription was deleted.", id)
	case err != nil:
		s.close(d)
		return err
	}
	s.line(d)
	b.journal.dirtied(d)
	s.pump(time.Now())
	return nil
}
