package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

const (
	frameCap   = 256 << 10               // bytes of one frame, unless a single request is larger
	frameAlone = frameCap / 4            // bytes of one that waits for nobody
	maxRequest = maxPayload - (64 << 10) // bytes of one request
)

// Receipt says where the records of one Append are stored.
type Receipt struct {
	Seq        uint64    // frame
	First      int       // index of the first record in the frame
	Generation uint64    // generation of the owner that wrote it
	Time       time.Time // ingest time
}

// Position returns the position of record i of the request.
func (r Receipt) Position(i int) Position { return At(r.Seq, r.First+i) }

// Sequencer returns the sequencer of record i of the request.
func (r Receipt) Sequencer(i int) string { return Sequencer(r.Generation, r.Position(i)) }

// appendRequest is one waiting Append. Its channel holds one signal, so the
// committer never waits for a caller that has gone.
type appendRequest struct {
	records []Record
	size    int
	receipt Receipt
	err     error
	done    chan struct{}
}

// committer packs waiting requests into frames and stores them, one frame at a
// time. A frame takes what arrived while the one before it was being stored, so
// frames grow with load and a single request waits for nobody. Many at a time wait
// for each other a little, see awaitCompany.
type committer struct {
	p    *Partition
	pool sync.Pool // *appendRequest; per partition, for channels must not leave a test's bubble
	enc  frameEncoder
	now  int64 // ingest time of the last frame, Unix nanoseconds

	mu       sync.Mutex // taken before Partition.mu
	arrived  sync.Cond
	batch    []*appendRequest // of the frame being stored
	queue    []*appendRequest
	reserved int64 // bytes of requests not yet stored or refused
	closed   bool
	bytes    int           // of the queue
	began    time.Time     // when the last frame was made
	wanted   int           // requests that the next one waits for, 0 where it does not
	enough   chan struct{} // they are there
	patience *time.Timer
}

func newCommitter(p *Partition, last time.Time) *committer {
	c := &committer{p: p, now: last.UnixNano(), enough: make(chan struct{}, 1), patience: time.NewTimer(0)}
	c.arrived.L = &c.mu
	c.pool.New = func() any { return &appendRequest{done: make(chan struct{}, 1)} }
	return c
}

// Append stores records as one unit, all in one frame, and returns when the
// frame is durable: at level disk, on disk; at level process, handed to the
// operating system, which has it on disk within two seconds.
//
// An error of kind Unavailable means that nothing was stored and the call may be
// repeated. When ctx ends first its error is returned, and the records may or may
// not be stored. The records' Data must not change after the call.
func (p *Partition) Append(ctx context.Context, records []Record) (Receipt, error) {
	size, facts, err := checkRecords(records)
	if err != nil {
		return Receipt{}, err
	}
	if err := ctx.Err(); err != nil {
		return Receipt{}, err
	}
	if facts > 0 {
		if err := p.projection.room(ctx); err != nil {
			return Receipt{}, err
		}
	}
	r := p.committer.pool.Get().(*appendRequest)
	r.records, r.size, r.err = records, size, nil
	if err := p.committer.enqueue(r); err != nil {
		p.committer.release(r)
		return Receipt{}, err
	}
	if end := ctx.Done(); end == nil { // as it is for publishers, and costs less
		<-r.done
	} else {
		select {
		case <-r.done:
		case <-end: // r stays with the committer and is not used again
			return Receipt{}, ctx.Err()
		}
	}
	receipt, err := r.receipt, r.err
	p.committer.release(r)
	return receipt, err
}

// checkRecords returns the size of a request in a frame and its number of facts.
func checkRecords(records []Record) (size, facts int, err error) {
	if len(records) == 0 {
		return 0, 0, errors.New("append: no records")
	}
	size = encodedSize(records)
	if size > maxRequest || len(records) > maxRecords {
		return 0, 0, fault.New(fault.TooLarge, "RequestEntityTooLarge", "The request takes %d bytes in %d records in the event log; at most %d bytes and %d records fit. Split it.", size, len(records), maxRequest, maxRecords)
	}
	for i := range records {
		r := &records[i]
		if r.Kind == KindFact {
			facts++
			if _, err := escapeKey(r.Key); err != nil {
				return 0, 0, err
			}
		}
		for _, h := range r.Holes {
			if h.Offset < 0 || h.Offset+SequencerSize > len(r.Data) || h.Of < 0 || h.Of >= len(records) {
				return 0, 0, fmt.Errorf("append: record %d has a hole at %d of record %d that does not fit", i, h.Offset, h.Of)
			}
		}
	}
	return size, facts, nil
}

func (c *committer) release(r *appendRequest) {
	r.records, r.err = nil, nil
	c.pool.Put(r)
}

// enqueue hands a request to the committer, or refuses it.
func (c *committer) enqueue(r *appendRequest) error {
	if err := c.p.stopped.Load(); err != nil {
		return unavailable(*err)
	}
	if err := c.p.engine.disk.refusal(); err != nil {
		c.p.engine.metrics.refused.Inc()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return unavailable(errors.New("engine is closed"))
	}
	if err := c.p.fits(c.reserved + int64(r.size)); err != nil {
		c.p.engine.metrics.refused.Inc()
		return err
	}
	c.reserved += int64(r.size)
	c.add(r)
	return nil
}

// add puts a request into the queue. c.mu is locked.
func (c *committer) add(r *appendRequest) {
	c.queue = append(c.queue, r)
	c.bytes += r.size
	if c.wanted > 0 && (len(c.queue) >= c.wanted || c.bytes >= frameAlone) {
		c.wanted = 0
		c.enough <- struct{}{}
	}
	c.arrived.Signal()
}

// fits reports whether bytes more may be appended. Only what someone still needs
// counts: history never causes a refusal.
func (p *Partition) fits(bytes int64) error {
	p.mu.Lock()
	used, quota := p.aboveFloor(), p.quota
	p.mu.Unlock()
	if used+bytes <= quota {
		return nil
	}
	return fault.New(fault.Unavailable, "ServiceUnavailable",
		"The event log holds %d bytes that are not delivered yet and its quota is %d bytes. Nothing was stored; try again when the backlog is smaller, or raise the quota.", used, quota).After(30 * time.Second)
}

// run stores requests until close; then it stores what is queued and returns.
// When ctx ends it gives up on the store.
func (c *committer) run(ctx context.Context) {
	for {
		batch, size := c.take()
		if batch == nil {
			return
		}
		err := c.commit(ctx, batch, size)
		c.mu.Lock()
		for _, r := range batch {
			c.reserved -= int64(r.size)
		}
		c.mu.Unlock()
		for _, r := range batch {
			r.err = err
			r.done <- struct{}{}
		}
	}
}

// Company: a frame waits for it until so long after the one before it was made, if that
// had so many requests.
const (
	companyTime = 4 * time.Millisecond
	companions  = 4
)

// awaitCompany lets a small frame wait for those whose requests were in the frame before,
// for they mostly ask again: publishers that wait for an answer would else go in two
// groups, one asking while the other is stored, with two syncs for what one can carry.
// Where a sync takes longer than companyTime, or requests come one by one, nobody waits.
// PostgreSQL does the like by commit_delay and commit_siblings. c.mu is locked.
func (c *committer) awaitCompany() {
	last, rest := len(c.batch), companyTime-time.Since(c.began)
	if last >= companions && c.bytes < frameAlone && rest > 0 {
		c.wanted = len(c.queue) + last - last/8
		c.patience.Reset(rest)
		c.mu.Unlock()
		select {
		case <-c.enough:
		case <-c.patience.C:
		}
		c.mu.Lock()
		c.wanted = 0
		select { // both may be
		case <-c.enough:
		default:
		}
	}
	c.began = time.Now()
}

// take waits for requests and takes as many as fit one frame, at least one. Nil
// means closed and empty.
func (c *committer) take() (batch []*appendRequest, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) == 0 {
		if c.closed {
			return nil, 0
		}
		c.arrived.Wait()
	}
	c.awaitCompany()
	n, records := 0, 0
	for n < len(c.queue) {
		r := c.queue[n]
		if n > 0 && (size+r.size > frameCap || records+len(r.records) > maxRecords) {
			break
		}
		size += r.size
		records += len(r.records)
		n++
	}
	c.bytes -= size
	c.batch = append(c.batch[:0], c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	return c.batch, size
}

// commit stores one frame and hands it on.
func (c *committer) commit(ctx context.Context, batch []*appendRequest, size int) error {
	p := c.p
	if err := p.stopped.Load(); err != nil {
		return unavailable(*err)
	}
	began := time.Now()
	c.now = max(c.now, began.UnixNano())
	at := time.Unix(0, c.now).UTC()
	seq := p.writer.last + 1
	c.enc.reset(seq, p.generation, rand.Uint64(), at, size)
	for _, r := range batch {
		r.receipt = Receipt{Seq: seq, First: c.enc.count, Generation: p.generation, Time: at}
		c.enc.add(r.records)
	}
	encoded := c.enc.finish()
	c.enc.buf = nil
	if err := p.writer.write(ctx, encoded); err != nil {
		return c.failed(err)
	}
	p.count(seq, len(encoded))
	m := p.engine.metrics
	m.commit.Observe(time.Since(began).Seconds())
	m.frames.Inc()
	m.records.Add(float64(c.enc.count))
	m.bytes.Add(float64(len(encoded)))
	f, err := parseFrame(seq, encoded)
	if err != nil {
		return fmt.Errorf("read back own frame: %w", err) // a defect in the encoder
	}
	p.projection.add(f)
	if p.onCommit != nil {
		p.onCommit(f)
	}
	return nil
}

// failed turns a failed write into what its callers are told.
func (c *committer) failed(err error) error {
	if errors.Is(err, errFenced) {
		c.p.stop(err)
		return unavailable(err)
	}
	if _, ok := errors.AsType[*apiError](err); ok {
		c.p.engine.opts.Logger.Error("store refused a frame", "error", err)
		return unavailable(err)
	}
	return err
}

// close refuses new requests; run ends when the queue is empty.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.arrived.Signal()
}
