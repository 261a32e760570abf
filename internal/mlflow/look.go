package mlflow

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Object names what of an MLflow server can be looked at by itself. One field is set.
type Object struct {
	Run        string // id of a run
	Model      string // name of a registered model: its versions
	Experiment string // id of an experiment: its name
}

// String says what the object is, for logs.
func (o Object) String() string {
	switch {
	case o.Run != "":
		return "run " + cut(o.Run, 200)
	case o.Model != "":
		return "model " + cut(o.Model, 200)
	}
	return "experiment " + cut(o.Experiment, 200)
}

const (
	mostLooks = 4096             // objects that wait; what exceeds them is left to a round that reads everything
	looksWith = 4                // objects looked at at once
	lookLimit = 30 * time.Second // for one
	mostSaid  = 64               // answers that wait for one object; what exceeds them is asked for instead
	lookTries = 3                // when what was read was overtaken by what the ledger learned meanwhile
)

// looks are the objects of one server that wait to be looked at by themselves, in the
// order in which that was asked for. An object waits once, however often it is asked
// for, and what answers of the server said of it is submitted in their order. It is safe
// for concurrent use.
type looks struct {
	known *known
	ready chan struct{} // something waits

	mu      sync.Mutex
	waiting map[Object]*look
	order   []*look // those that nobody looks at
}

// look is an object that waits, or is looked at.
type look struct {
	object Object
	todo
	last *said // that somebody told of it
	busy bool
}

// todo is what is to be done with an object.
type todo struct {
	said []*said  // what is submitted, in this order
	ask  bool     // and then the server is asked
	done []func() // called at the end
}

func (t *todo) empty() bool { return len(t.said) == 0 && !t.ask && len(t.done) == 0 }

func newLooks(k *known) *looks {
	return &looks{known: k, ready: make(chan struct{}, 1), waiting: map[Object]*look{}}
}

func (q *looks) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// add has the server asked for an object. Done, which may be nil, is called when that is
// no longer needed: it was, or the next round reads everything.
func (q *looks) add(o Object, done func()) {
	t := todo{ask: true}
	if done != nil {
		t.done = []func(){done}
	}
	q.enqueue(o, t)
}

// tell has what an answer said of an object submitted.
func (q *looks) tell(o Object, what *said, done func()) {
	q.enqueue(o, todo{said: []*said{what}, done: []func(){done}})
}

// lastSaid returns what was told of an object and is not submitted yet, nil for nothing.
func (q *looks) lastSaid(o Object) *said {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.waiting[o]; l != nil {
		return l.last
	}
	return nil
}

func (q *looks) enqueue(o Object, t todo) {
	if !q.wait(o, t) {
		q.known.due.Store(true)
		for _, f := range t.done {
			f()
		}
	}
}

// wait reports whether there was room.
func (q *looks) wait(o Object, t todo) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.waiting[o]
	if l == nil {
		if len(q.waiting) >= mostLooks {
			return false
		}
		l = &look{object: o}
		q.waiting[o] = l
		q.order = append(q.order, l)
		q.signal()
	}
	l.ask = l.ask || t.ask
	l.done = append(l.done, t.done...)
	switch {
	case len(t.said) == 0:
	case len(l.said)+len(t.said) > mostSaid:
		l.ask = true
	default:
		l.said = append(l.said, t.said...)
		l.last = l.said[len(l.said)-1]
	}
	return true
}

// next takes the object that waits longest, nil for none.
func (q *looks) next() (*look, todo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return nil, todo{}
	}
	l := q.order[0]
	q.order = q.order[1:]
	t := l.todo
	l.busy, l.todo = true, todo{}
	return l, t
}

// put gives back an object that was looked at, with what could not be done.
func (q *looks) put(l *look, rest todo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.busy = false
	l.said, l.ask, l.done = append(rest.said, l.said...), rest.ask || l.ask, append(rest.done, l.done...)
	if l.empty() {
		delete(q.waiting, l.object)
		return
	}
	q.order = append(q.order, l)
	q.signal()
}

// drop forgets everything: the server is not attached any more.
func (q *looks) drop() {
	q.mu.Lock()
	dropped := q.order
	q.order = nil
	clear(q.waiting)
	q.mu.Unlock()
	for _, l := range dropped {
		for _, f := range l.done {
			f()
		}
	}
}

// run looks at what waits until ctx ends. What is under way then waits again.
func (q *looks) run(ctx context.Context, o *observer, m *metrics) {
	var group errgroup.Group
	group.SetLimit(looksWith)
	defer func() { _ = group.Wait() }()
	for {
		for ctx.Err() == nil {
			l, t := q.next()
			if l == nil {
				break
			}
			group.Go(func() error {
				q.put(l, q.lookAt(ctx, o, m, l.object, t))
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-q.ready:
		}
	}
}

// lookAt looks at one object and returns what is left to do when ctx ended meanwhile.
// One that cannot be read is left to the next round, which then reads everything.
func (q *looks) lookAt(ctx context.Context, o *observer, m *metrics, object Object, t todo) (rest todo) {
	inner, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	events := 0
	for i, what := range t.said {
		n, ask := o.submit(inner, what)
		if ctx.Err() != nil {
			return todo{said: t.said[i:], ask: true, done: t.done}
		}
		events, t.ask = events+n, t.ask || ask
	}
	var err error
	if t.ask {
		var n int
		n, err = o.lookAt(inner, object)
		events += n
	}
	m.events.Add(float64(events))
	switch {
	case ctx.Err() != nil: // we stop: it is looked at when we go on
		return todo{ask: true, done: t.done}
	case err != nil:
		q.known.due.Store(true)
		m.looks.WithLabelValues("failed").Inc()
		o.log.LogAttrs(ctx, slog.LevelWarn, "MLflow object not read, the next round reads everything", slog.String("what", object.String()), slog.String(telemetry.Error, shown(err).Error()))
	case t.ask:
		m.looks.WithLabelValues("ok").Inc()
	}
	for _, f := range t.done {
		f()
	}
	return todo{}
}

// lookAt asks the server for one object and submits what it says. An object that does not
// exist is none of ours: nothing is learned from its absence.
func (o *observer) lookAt(ctx context.Context, object Object) (events int, err error) {
	switch {
	case object.Run != "":
		return o.lookAtRun(ctx, object.Run)
	case object.Model != "":
		return o.lookAtModel(ctx, object.Model)
	}
	e, err := o.client.experiment(ctx, object.Experiment)
	if err == nil {
		err = o.observeExperiment(ctx, e)
	}
	return 0, unlessAbsent(err)
}

func (o *observer) lookAtModel(ctx context.Context, name string) (events int, err error) {
	if events, _, err = o.versionsOf(ctx, name); err != nil || !o.server.DeployOn.Any() {
		return events, err
	}
	mark := o.ledger.Mark()
	m, err := o.client.registeredModel(ctx, name)
	if err != nil {
		return events, unlessAbsent(err)
	}
	deployed, err := o.deploymentsOf(ctx, m, mark)
	return events + deployed, err
}

func (o *observer) lookAtRun(ctx context.Context, id string) (events int, err error) {
	for range lookTries {
		mark := o.ledger.Mark()
		r, err := o.client.run(ctx, id)
		if errors.Is(err, errTooLarge) {
			return 0, o.leaveOut(ctx, id, "")
		}
		if err != nil {
			return 0, unlessAbsent(err)
		}
		out, err := o.observeRun(ctx, &r, mark, o.asRead(&r))
		if err != nil || !out.Stale {
			return out.Events, err
		}
	}
	o.known.due.Store(true)
	return 0, nil
}

func unlessAbsent(err error) error {
	if absent(err) {
		return nil
	}
	return err
}

// Look has an object of an attached server looked at soon, beside the rounds, and what
// is news there raised. It returns at once, and may be called as often as one likes and
// whatever the server's state: an object waits once, until the server is read. Done,
// which may be nil, is called when the object was looked at, or left to the next
// round, which then reads everything: because too many wait, or since it could not be read.
// With a server that is no longer attached it is called at once.
func (s *Service) Look(server resource.UID, o Object, done func()) {
	if q := s.looksOf(server); q != nil {
		q.add(o, done)
	} else if done != nil {
		done()
	}
}
