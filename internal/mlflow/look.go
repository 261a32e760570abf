package mlflow

import (
	"context"
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
	lookTries = 3                // when what was read was overtaken by what the ledger learned meanwhile
)

// looks are the objects of one server that wait to be looked at by themselves, in the
// order in which that was asked for. An object waits once, however often it is asked
// for. It is safe for concurrent use.
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
	again  bool     // asked for since the look that is under way began
	done   []func() // called once it was looked at
	busy   bool
}

func newLooks(k *known) *looks {
	return &looks{known: k, ready: make(chan struct{}, 1), waiting: map[Object]*look{}}
}

func (q *looks) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// add has an object looked at. Done, which may be nil, is called when that is no longer
// needed: it was, or the next round reads everything.
func (q *looks) add(o Object, done func()) {
	if !q.enqueue(o, done) && done != nil {
		done()
	}
}

// enqueue reports whether the object waits.
func (q *looks) enqueue(o Object, done func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.waiting[o]
	if l == nil {
		if len(q.waiting) >= mostLooks {
			q.known.due.Store(true)
			return false
		}
		l = &look{object: o}
		q.waiting[o] = l
		q.order = append(q.order, l)
		q.signal()
	}
	l.again = l.again || l.busy
	if done != nil {
		l.done = append(l.done, done)
	}
	return true
}

// next takes the object that waits longest, nil for none.
func (q *looks) next() (l *look, done []func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return nil, nil
	}
	l, q.order = q.order[0], q.order[1:]
	l.busy, l.again, done, l.done = true, false, l.done, nil
	return l, done
}

// put gives back an object that was looked at.
func (q *looks) put(l *look) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.busy = false; !l.again {
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
			l, done := q.next()
			if l == nil {
				break
			}
			group.Go(func() error {
				defer q.put(l)
				q.lookAt(ctx, o, m, l.object, done)
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

// lookAt looks at one object. One that cannot be read is left to the next round, which
// then reads everything.
func (q *looks) lookAt(ctx context.Context, o *observer, m *metrics, object Object, done []func()) {
	inner, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	events, err := o.lookAt(inner, object)
	m.events.Add(float64(events))
	switch {
	case ctx.Err() != nil: // we stop: it is looked at when we go on
		for _, f := range done {
			q.enqueue(object, f)
		}
		q.enqueue(object, nil)
		return
	case err != nil:
		q.known.due.Store(true)
		m.looks.WithLabelValues("failed").Inc()
		o.log.LogAttrs(ctx, slog.LevelWarn, "MLflow object not read, the next round reads everything", slog.String("what", object.String()), slog.String(telemetry.Error, shown(err).Error()))
	default:
		m.looks.WithLabelValues("ok").Inc()
	}
	for _, f := range done {
		f()
	}
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
		if err != nil {
			return 0, unlessAbsent(err)
		}
		out, err := o.observeRun(ctx, &r, mark, o.silent(int64(max(r.Info.StartTime, r.Info.EndTime))))
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
