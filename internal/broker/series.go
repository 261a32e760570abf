package broker

import (
	"cmp"
	"slices"
	"sync"
)

// begin makes every series of the closed label sets, so that a counter is there,
// at 0, before the first thing it counts: a rate over what begins with 1 sees
// nothing. It binds those that are counted event by event.
func (m *metrics) begin() {
	for o := range outcomeNames {
		switch Outcome(o) {
		case NotAttempted, Delivered, Probation, Canceled: // never the outcome of a failed attempt
		default:
			m.failedBy[o] = m.failed.WithLabelValues(Outcome(o).String())
		}
	}
	for _, r := range reasons {
		if r != reasonReplayed {
			m.deadLettered.WithLabelValues(string(r))
		}
	}
	m.dropped.WithLabelValues(dropUnreadable)
	for _, k := range []WarningKind{WarnDeadLettered, WarnDropped, WarnGone} {
		m.warnings.WithLabelValues(string(k))
	}
}

// attemptFailed counts an event whose attempt had an outcome.
func (m *metrics) attemptFailed(o Outcome) {
	if c := m.failedBy[o]; c != nil {
		c.Inc()
		return
	}
	m.failed.WithLabelValues(o.String()).Inc()
}

// chosen are the event subscriptions that have series of their own: at most so
// many, and the same at each scrape for as long as they are active. Ten thousand
// with eight series each would be more than a monitoring system wants.
type chosen struct {
	most int

	mu   sync.Mutex
	uids map[uint64]struct{}
}

// of picks from all active event subscriptions. A free place goes to the first by
// resource id.
func (c *chosen) of(all []*subscription) []*subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := make(map[uint64]struct{}, min(len(all), c.most))
	var picked, others []*subscription
	for _, s := range all {
		if _, was := c.uids[s.uid]; was {
			picked = append(picked, s)
			next[s.uid] = struct{}{}
		} else {
			others = append(others, s)
		}
	}
	if free := c.most - len(picked); free > 0 {
		slices.SortFunc(others, func(x, y *subscription) int { return cmp.Compare(x.cfg.Load().id, y.cfg.Load().id) })
		for _, s := range others[:min(free, len(others))] {
			picked = append(picked, s)
			next[s.uid] = struct{}{}
		}
	}
	c.uids = next
	return picked
}
