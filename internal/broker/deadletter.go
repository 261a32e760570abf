package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
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

func (l *Letter) schema() event.Schema { return event.Schema(l.InputSchema) }

// letterID names the dead letter of a delivery; letterKey is where it is stored.
func (d *delivery) letterID() string { return d.id() }

// id names the delivery: event subscription and position.
func (d *delivery) id() string { return fmt.Sprintf("%016x-%016x", d.sub.uid, uint64(d.pos)) }

func letterKey(id string) string {
	uid, pos, _ := strings.Cut(id, "-")
	return uid + "/" + pos
}

// byPosition compares a delivery of an ordered list with a position.
func byPosition(d *delivery, pos engine.Position) int { return cmp.Compare(d.pos, pos) }

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

// undertaker stores dead letters, one at a time, behind everybody's back: a
// delivery stays open until its letter is durable, and a letter is forgotten only
// after the success of its replay is.
type undertaker struct {
	b *Broker

	mu    sync.Mutex
	queue []burial
	some  chan struct{}
}

// burial is a delivery to be dead-lettered, or a letter to be forgotten.
type burial struct {
	d      *delivery
	reason Reason
	forget string
}

func (u *undertaker) take(d *delivery, reason Reason) { u.push(burial{d: d, reason: reason}) }

func (u *undertaker) push(x burial) {
	u.mu.Lock()
	u.queue = append(u.queue, x)
	u.mu.Unlock()
	select {
	case u.some <- struct{}{}:
	default:
	}
}

func (u *undertaker) run(ctx context.Context) error {
	for {
		u.mu.Lock()
		batch := u.queue
		u.queue = nil
		u.mu.Unlock()
		var forget []string
		for _, x := range batch {
			if ctx.Err() != nil {
				return nil // what is left is open in the journal
			}
			if x.forget != "" {
				forget = append(forget, x.forget)
				continue
			}
			u.bury(ctx, x.d, x.reason)
		}
		if len(forget) > 0 && u.b.journal.sync(ctx) == nil {
			for _, id := range forget {
				if err := u.b.cfg.DeadLetters.Delete(ctx, letterKey(id)); err != nil {
					u.b.log.Error("replayed dead letter cannot be removed", telemetry.DeadLetterID, id, telemetry.Error, err)
				}
			}
		}
		select {
		case <-u.some:
		case <-ctx.Done():
			return nil
		}
	}
}

// bury stores one dead letter and then closes its delivery. A store that fails is
// asked again until it takes it.
func (u *undertaker) bury(ctx context.Context, d *delivery, reason Reason) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := u.store(ctx, d, reason)
		if err == nil {
			return
		}
		u.b.log.Error("dead letter cannot be stored", telemetry.DeliveryID, d.id(), telemetry.Error, err, telemetry.NextAttempt, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (u *undertaker) store(ctx context.Context, d *delivery, reason Reason) error {
	s := d.sub
	cfg := s.cfg.Load()
	s.mu.Lock()
	l := Letter{
		Version: 1, ID: d.letterID(), EventSubscription: cfg.id, Topic: cfg.topicID, DeadLetterReason: reason,
		DeliveryAttempts: int(d.attempts), LastDeliveryOutcome: d.outcome.String(), LastHTTPStatusCode: int(d.status),
		PublishTime: time.Unix(0, d.published).UTC(),
	}
	if d.attempts == 0 {
		l.LastDeliveryOutcome = Probation.String() // it waited for a destination that rested
	}
	if d.last != 0 {
		l.LastDeliveryAttemptTime = time.Unix(0, d.last).UTC()
	}
	gone := s.deleted
	s.mu.Unlock()
	if gone {
		return nil
	}
	var e event.Event
	sequencer, err := u.b.load(ctx, d, &e)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		u.b.log.Error("event dropped: it cannot be read any more", telemetry.DeliveryID, d.id(), telemetry.Error, err)
		s.dropped.Add(1)
		u.b.metrics.dropped.WithLabelValues("Unreadable").Inc()
		s.buried(d, reason)
		return nil
	}
	if d.replay { // what the first letter said of its publishing stays true
		if first, err := u.b.letter(ctx, l.ID); err == nil {
			l.PublishTime = first.PublishTime
		}
	}
	l.InputSchema, l.Event, l.Sequencer = uint8(e.Schema), e.Raw, sequencer
	raw, err := l.encode()
	if err != nil {
		return err
	}
	if err := u.b.cfg.DeadLetters.Put(ctx, letterKey(l.ID), raw); err != nil {
		return err
	}
	s.buried(d, reason)
	u.b.log.Info("event dead-lettered", telemetry.EventSubscription, cfg.id, telemetry.DeadLetterID, l.ID,
		telemetry.EventID, string(e.ID), telemetry.DeadLetterReason, string(reason), telemetry.Attempt, l.DeliveryAttempts,
		telemetry.Outcome, l.LastDeliveryOutcome, telemetry.Status, l.LastHTTPStatusCode)
	return nil
}

// forgetLetter removes a dead letter whose replay succeeded, once that is durable.
func (b *Broker) forgetLetter(id string) { b.undertaker.push(burial{forget: id}) }

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
		return nil, fmt.Errorf("decode dead letter %s: %w", id, err)
	}
	return l, nil
}

// DeadLetter returns one dead letter.
func (b *Broker) DeadLetter(ctx context.Context, id string) (*Letter, error) {
	if _, _, err := parseLetterID(id); err != nil {
		return nil, err
	}
	return b.letter(ctx, id)
}

// DeadLetters returns the ids of the dead letters of one event subscription, or of
// all for uid 0, oldest event first.
func (b *Broker) DeadLetters(ctx context.Context, uid resource.UID) ([]string, error) {
	prefix := ""
	if uid != 0 {
		prefix = uid.String() + "/"
	}
	keys, err := b.cfg.DeadLetters.Keys(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	for i, k := range keys {
		keys[i] = strings.Replace(k, "/", "-", 1)
	}
	return keys, nil
}

// Replay delivers a dead letter once more, with the id, etag and sequencer it
// always had: a new delivery with attempts and a time to live of its own. It
// returns when the replay is durable. The letter goes when the replay succeeds.
func (b *Broker) Replay(ctx context.Context, id string) error {
	uid, pos, err := parseLetterID(id)
	if err != nil {
		return err
	}
	if _, err := b.letter(ctx, id); err != nil {
		return err
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
	for _, d := range s.replays {
		if d.pos == pos && d.state != closed {
			s.mu.Unlock()
			return nil // it is on its way already
		}
	}
	if i, open := slices.BinarySearchFunc(s.order, pos, byPosition); open && s.order[i].state < burying {
		s.mu.Unlock()
		return nil // a crash came between the letter and the close of its delivery, which is open again
	} else if open && s.order[i].state == burying || s.lag != 0 && pos >= s.lag || pos.Seq() > b.journal.watermark() {
		s.mu.Unlock()
		return fault.New(fault.Conflict, "DeadLetterInProgress",
			"Dead letter %s is just being stored, or was when the server stopped last time. Replay it in a moment.", id)
	}
	if s.openN >= maxOpen {
		s.mu.Unlock()
		return fault.New(fault.TooMany, "TooManyOpenDeliveries",
			"The event subscription has %d open deliveries, the most it may have. Replay again when it has caught up.", maxOpen).After(30 * time.Second)
	}
	d := &delivery{sub: s, pos: pos, published: time.Now().UnixNano(), replay: true}
	s.openN++
	b.open.Add(1)
	s.replays = append(s.replays, d)
	s.queue.push(d)
	b.journal.dirtied(d)
	s.pump(time.Now())
	s.mu.Unlock()
	return b.journal.sync(ctx)
}
