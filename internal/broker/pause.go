package broker

import "time"

// setPaused stops attempts, or lets them go on.
//
// While it is paused an event subscription matches on: what is open stays open, and
// what comes after it waits in the log, for which the event subscription lags. So a
// pause costs no memory, and holds the log from the first event that waits in it.
// Attempts in flight end as they do. Nothing is given up meanwhile, though times to
// live go on: after the pause each delivery is attempted once more before its time
// counts again. Resuming also ends the rest of a destination that failed before.
// The caller holds s.mu, or is the only one who knows s, and pumps afterwards.
func (s *subscription) setPaused(paused bool) {
	was, now := s.paused, time.Now()
	s.paused = paused
	if paused {
		s.unlimited(now)
	}
	if paused || !was {
		return
	}
	s.limitedSince = now
	for d := range s.unsettled() {
		d.tried = false
	}
	if s.breaker.open() {
		s.breaker = breaker{}
		s.b.journal.breakerMoved(s)
	}
	if s.lag != 0 {
		s.b.elevator.call()
	}
}
