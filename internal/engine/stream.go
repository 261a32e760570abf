package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// errAbsent says that a message is not in the stream.
var errAbsent = errors.New("message is not there")

// requestLimit bounds what is asked of the store by a caller who set no deadline: a start on
// a slow disk, too, takes its time.
const requestLimit = 30 * time.Second

// stream is one stream of the store, by plain requests.
type stream struct {
	node *node
	name string
}

// message is a stored message.
type message struct {
	seq     uint64
	subject string
	time    time.Time
	data    []byte
}

// streamState is what a stream holds.
type streamState struct {
	first, last uint64
	messages    int
	subjects    int // that hold a message
	bytes       int64
}

// apiError is the error part of the server's answers.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("store: %s (%d)", e.Description, e.ErrCode) }

// ask sends a request to the server's API and reads its JSON answer.
func (s *stream) ask(ctx context.Context, verb string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	m, err := s.node.request(ctx, s.node.bulk, "$JS.API.STREAM."+verb+"."+s.name, body)
	if err != nil {
		return fmt.Errorf("%s of stream %s: %w", strings.ToLower(verb), s.name, err)
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("%s of stream %s: %w", strings.ToLower(verb), s.name, err)
	}
	if failed.Error != nil {
		return fmt.Errorf("%s of stream %s: %w", strings.ToLower(verb), s.name, failed.Error)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(m.Data, answer)
}

// streamInfo is the part of the server's answer that is used.
type streamInfo struct {
	Total int `json:"total"` // subjects that match the filter
	State struct {
		Messages int               `json:"messages"`
		Bytes    int64             `json:"bytes"`
		First    uint64            `json:"first_seq"`
		Last     uint64            `json:"last_seq"`
		Count    int               `json:"num_subjects"`
		Subjects map[string]uint64 `json:"subjects"` // one page of them, in order
	} `json:"state"`
}

// state reads what the stream holds.
func (s *stream) state(ctx context.Context) (streamState, error) {
	var i streamInfo
	if err := s.ask(ctx, "INFO", struct{}{}, &i); err != nil {
		return streamState{}, err
	}
	return streamState{i.State.First, i.State.Last, i.State.Messages, i.State.Count, i.State.Bytes}, nil
}

// subjects lists the subjects that match a filter and hold a message. The server
// gives sorted pages by offset; where subjects were removed between two pages the
// second would begin too late, so it must overlap the first, or is asked for
// again further back.
func (s *stream) subjects(ctx context.Context, filter string) (map[string]uint64, error) {
	all := map[string]uint64{}
	last := ""
	for offset := 0; ; {
		var i streamInfo
		if err := s.ask(ctx, "INFO", map[string]any{"subjects_filter": filter, "offset": offset}, &i); err != nil {
			return nil, err
		}
		page := slices.Sorted(maps.Keys(i.State.Subjects))
		if offset > 0 && (len(page) == 0 || page[0] > last) {
			offset = max(0, offset-1000)
			continue
		}
		maps.Copy(all, i.State.Subjects)
		if offset+len(page) >= i.Total {
			return all, nil
		}
		offset += len(page) - 1
		last = page[len(page)-1]
	}
}

// purge removes everything below a sequence.
func (s *stream) purge(ctx context.Context, below uint64) error {
	return s.ask(ctx, "PURGE", map[string]any{"seq": below}, nil)
}

// remove removes what is stored under one subject.
func (s *stream) remove(ctx context.Context, subject string) error {
	return s.ask(ctx, "PURGE", map[string]any{"filter": subject}, nil)
}

// drop removes one message; one that is not there is no error.
func (s *stream) drop(ctx context.Context, seq uint64) error {
	err := s.ask(ctx, "MSG.DELETE", map[string]any{"seq": seq, "no_erase": true}, nil)
	if err == nil {
		return nil
	}
	if _, gone := s.get(ctx, seq); errors.Is(gone, errAbsent) {
		return nil
	}
	return err
}

// get reads one message by its sequence. Direct reads are answered by this node,
// which is exact while it is the only one; in a cluster they may lag.
func (s *stream) get(ctx context.Context, seq uint64) (message, error) {
	return s.direct(ctx, fmt.Sprintf(`{"seq":%d}`, seq))
}

// newest reads the last message of a subject.
func (s *stream) newest(ctx context.Context, subject string) (message, error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return message{}, err
	}
	return s.direct(ctx, string(request))
}

// nextOf reads the first message at or above a sequence whose subject matches a filter.
func (s *stream) nextOf(ctx context.Context, filter string, seq uint64) (message, error) {
	request, err := json.Marshal(map[string]any{"seq": seq, "next_by_subj": filter})
	if err != nil {
		return message{}, err
	}
	return s.direct(ctx, string(request))
}

func (s *stream) direct(ctx context.Context, request string) (message, error) {
	m, err := s.node.request(ctx, s.node.bulk, "$JS.API.DIRECT.GET."+s.name, []byte(request))
	if err != nil {
		return message{}, fmt.Errorf("read stream %s: %w", s.name, err)
	}
	return stored(m)
}

// stored reads the answer to a direct read.
func stored(m *nats.Msg) (message, error) {
	if status := m.Header.Get("Status"); status != "" {
		if status == "404" {
			return message{}, errAbsent
		}
		return message{}, fmt.Errorf("store answered %s %s", status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return message{}, fmt.Errorf("store answered without a sequence: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return message{}, fmt.Errorf("store answered without a time: %w", err)
	}
	return message{seq: seq, subject: m.Header.Get("Nats-Subject"), time: at, data: m.Data}, nil
}

const (
	batchBytes    = 4 << 20 // bytes in flight to one bulk reader, plus at most one message
	batchMessages = 4096
)

// errDamaged says that the store does not hold a message that it should, or not
// intact.
var errDamaged = errors.New("stored data is damaged")

// messages reads the messages from..through in order, in batches that bound what
// is in flight. What was purged is passed over. An error that wraps errDamaged stands
// for messages above that which are not there or cannot be read, and the next one
// follows; any other error ends the sequence.
func (s *stream) messages(ctx context.Context, from, through uint64) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		next := max(from, 1)
		missing := func(to uint64) (more bool) {
			st, err := s.state(ctx)
			if err != nil {
				yield(message{}, err)
				return false
			}
			next = max(next, st.first)
			if next > to {
				return next <= st.last // purged meanwhile
			}
			err = fmt.Errorf("%w: stream %s lacks messages %d to %d", errDamaged, s.name, next, to)
			next = to + 1
			return yield(message{}, err) && next <= st.last
		}
		for next <= through {
			for m, err := range s.messagesOf(ctx, "", next, through) {
				if err == nil && m.seq > next && !missing(m.seq-1) {
					return
				}
				if !yield(m, err) || err != nil {
					return
				}
				next = m.seq + 1
			}
			if next <= through && !missing(next) { // the store ends its answer at a message that it cannot read
				return
			}
		}
	}
}

// messagesOf is messages for the subjects that match a filter; "" is all. Sequences
// that are not stored are passed over, and it ends at a message that the store cannot
// read.
func (s *stream) messagesOf(ctx context.Context, filter string, from, through uint64) iter.Seq2[message, error] {
	return s.messagesIn(ctx, filter, from, through, batchMessages)
}

// messagesIn is messagesOf for who knows how many are wanted: no more than batch are in
// flight.
func (s *stream) messagesIn(ctx context.Context, filter string, from, through, batch uint64) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		if from == 0 {
			from = 1
		}
		if from > through {
			return
		}
		inbox := s.node.bulk.NewInbox()
		sub, err := s.node.bulk.SubscribeSync(inbox)
		if err != nil {
			yield(message{}, fmt.Errorf("read stream %s: %w", s.name, err))
			return
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := sub.SetPendingLimits(2*batchMessages, 4*maxPayload); err != nil {
			yield(message{}, fmt.Errorf("read stream %s: %w", s.name, err))
			return
		}
		leave := func() {}
		defer func() { leave() }()
		for from <= through {
			leave() // of the batch before
			l := s.node.life.Load()
			var within context.Context
			within, leave = l.within(ctx)
			request, err := json.Marshal(bulkRequest{from, min(batch, through-from+1), batchBytes, filter})
			if err != nil {
				yield(message{}, fmt.Errorf("read stream %s: %w", s.name, err))
				return
			}
			if err := s.node.bulk.PublishRequest("$JS.API.DIRECT.GET."+s.name, inbox, request); err != nil {
				yield(message{}, fmt.Errorf("read stream %s: %w", s.name, err))
				return
			}
			for more := true; more; {
				m, err := nextMessage(within, sub)
				if err != nil && ctx.Err() == nil && l.ctx.Err() != nil {
					break // the server was stopped and what was in flight is lost: ask for the rest
				}
				if err != nil {
					yield(message{}, fmt.Errorf("read stream %s: %w", s.name, err))
					return
				}
				switch m.Header.Get("Status") {
				case "204": // the batch is complete
					more = false
					continue
				case "404": // nothing at or above from
					return
				}
				got, err := stored(m)
				if err != nil {
					yield(message{}, fmt.Errorf("read stream %s: %w", s.name, err))
					return
				}
				if got.seq > through {
					return
				}
				from = got.seq + 1
				if !yield(got, nil) {
					return
				}
			}
		}
	}
}

// bulkRequest asks for several messages in order.
type bulkRequest struct {
	Seq      uint64 `json:"seq"`
	Batch    uint64 `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
	NextFor  string `json:"next_by_subj,omitempty"` // of subjects that match this filter only
}

func nextMessage(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// ack is the server's answer to a publish.
type ack struct {
	Seq   uint64    `json:"seq"`
	Error *apiError `json:"error"`
}

// store publishes one message and waits until it is stored. For streams where a
// repeat does no harm.
func (s *stream) store(ctx context.Context, subject string, data []byte) (uint64, error) {
	end := s.node.lateness.watch(s.name)
	m, err := s.node.request(ctx, s.node.write, subject, data)
	end(err)
	if err != nil {
		return 0, fmt.Errorf("store in stream %s: %w", s.name, err)
	}
	var a ack
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return 0, fmt.Errorf("store in stream %s: %w", s.name, err)
	}
	if a.Error != nil {
		return 0, fmt.Errorf("store in stream %s: %w", s.name, a.Error)
	}
	return a.Seq, nil
}

// publisher publishes over the write connection and gets the acks on an inbox of
// its own, without a subscription or goroutine per message. Not for concurrent
// use.
type publisher struct {
	node  *node
	conn  *nats.Conn
	inbox string
	acks  chan *nats.Msg
	token uint64
}

func newPublisher(n *node, window int) (*publisher, error) {
	p := &publisher{node: n, conn: n.write, inbox: n.write.NewInbox() + ".", acks: make(chan *nats.Msg, 4*window)}
	if _, err := n.write.ChanSubscribe(p.inbox+"*", p.acks); err != nil {
		return nil, fmt.Errorf("subscribe to acks: %w", err)
	}
	return p, nil
}

// next begins a message; all its sends share one token, so a late ack of an
// earlier message is told apart.
func (p *publisher) next() uint64 { p.token++; return p.token }

func (p *publisher) send(token uint64, subject string, header nats.Header, data []byte) error {
	return p.conn.PublishMsg(&nats.Msg{
		Subject: subject, Reply: p.inbox + strconv.FormatUint(token, 10), Header: header, Data: data,
	})
}

// errNoAck says that no ack came in time: the message may be stored or not.
var errNoAck = errors.New("no ack in time")

// wait returns the next ack of a token that lies at or above from. A server that
// is stopped meanwhile owes none.
func (p *publisher) wait(ctx context.Context, from uint64, limit *time.Timer) (uint64, ack, error) {
	lost := p.node.life.Load().ctx.Done()
	for {
		select {
		case m := <-p.acks:
			token, err := strconv.ParseUint(m.Subject[len(p.inbox):], 10, 64)
			if err != nil || token < from {
				continue
			}
			var a ack
			switch {
			case m.Header.Get("Status") != "": // nobody serves the stream
				a.Error = &apiError{Description: "no store answers for " + m.Subject}
				return token, a, nats.ErrNoResponders
			default:
				if err := json.Unmarshal(m.Data, &a); err != nil {
					return token, a, fmt.Errorf("read ack: %w", err)
				}
			}
			return token, a, nil
		case <-limit.C:
			return 0, ack{}, errNoAck
		case <-lost:
			return 0, ack{}, errNoAck
		case <-ctx.Done():
			return 0, ack{}, context.Cause(ctx)
		}
	}
}
