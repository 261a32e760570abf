// Package broker takes an event from the publisher's request to every handler
// that subscribed to it. An event takes one walk of six verbs, one file each:
//
//	publish.go   an authorised request becomes records              nothing stored yet
//	log.go       its records become part of one frame of the log    the publisher gets its 200
//	match.go     the filter index names the event subscriptions     pure
//	dispatch.go  each delivery waits in its event subscription's    the watermark has not passed them
//	             bounded queue; a full one lags instead
//	deliver.go   Sender.Send makes one attempt, gives a Response    nothing
//	receive.go   or a receiver asks for events, and answers         nothing
//	settle.go    an open delivery is closed, given a new due time,  the delivery journal, flushed
//	             or dead-lettered                                   every 25 ms
//
// Beside the walk: catchup.go brings lagging event subscriptions up again, and
// throttle.go slows it while processors are short; journal.go writes and reads the
// delivery journal; policy.go, breaker.go and limit.go, which spaces requests, decide
// without touching clock, disk or socket; pause.go stops attempts, warning.go tells the
// operator, once.go leaves out duplicates; retain.go keeps history and purges it, park.go
// keeps deliveries that wait for long from holding it, clock.go keeps a wall clock that
// jumps from expiring anything; deadletter.go keeps and replays what could not be
// delivered, undertaker.go stores it, export.go writes it to the stores of event
// subscriptions that have one, again.go replays the log.
// history.go looks back into the log, explain.go tells what became of an event,
// from memory and from what past.go reads of the journal.
//
// # State
//
// Delivery state is one watermark W per partition (every frame up to W is matched
// and handed out) plus what differs from it: open deliveries at or below W, the
// position from which a lagging event subscription must still be read, filter
// generations and breakers. The journal holds exactly that. Nothing else is
// needed to start again, and the backlog itself is never copied; only the events of
// single deliveries that would hold the log for hours are.
//
// # Handover
//
// Nobody lets go before the next holder has stored it. A crash repeats a step and
// never loses one: a delivery is named by event subscription uid and position, so
// a repeat is recognisable, and an outcome counts once its flush is durable.
//
// # Goroutines and locks
//
// One dispatcher goroutine owns the matching of live frames and the filter
// generations. One flusher writes the journal. One elevator reads for everybody
// that lags. Workers, at most the event subscription's concurrency, exist only
// while it has something to send. Locks, in the order they may be taken:
// Broker.mu, subscription.mu, journal.mu; Broker.onceMu, knownIDs.mu; the dispatch queue's lock, the frame
// window's and the park's are leaves.
//
// The package does not know what a fact means, how a destination is spoken to, or
// who may do what.
package broker
