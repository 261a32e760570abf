// Package consumer is for programs that handle the events of Carillon, or of Azure Event
// Grid. A [Handler] is an http.Handler that does what the guides tell every handler to do,
// so that what is left to write is the handling:
//
//	h, err := consumer.New(
//		consumer.Topics(workspace),
//		consumer.Signed(os.Getenv("SIGNING_KEY")),
//		consumer.On(func(ctx context.Context, e consumer.Event[mlevent.RunCompleted]) error {
//			return register(ctx, e.Data.RunID)
//		}),
//	)
//
// The rules, all in force without a further word:
//
//  1. Check the topic. Several event subscriptions may lead to one endpoint, and anybody can
//     make one. Events of other topics than [Topics] are refused, for good.
//  2. Check the event type. Types that no function is for are skipped with 200: an event
//     subscription may send more types one day.
//  3. Expect disorder and repetition. Delivery is at least once and in no order. The [Inbox]
//     drops what was handled before, by source and id, and what is older than an event of
//     the same subject that was handled, by sequencer ([WithStale] passes it, marked). Two
//     events of one subject are never handled at once.
//  4. Ignore what you do not know: unknown members of an event and of its data are passed
//     over, and every spelling of the payloads is read.
//  5. Do not take silence for success. What failed or was cancelled raises no event but
//     RunStatusChanged, and an event can be in a queue or among the dead letters.
//     [Workspace.CatchUp] has the handler handle what came to pass meanwhile, told or not.
//
// What a function returns decides what the sender does: nil is 200, an error 500 and has the
// event come again, [RetryAfter] 503 after a while, [DeadLetter] 400 never. A batch is
// answered as a whole: if one of its events is to come again, all come again, and the inbox
// drops those that were handled. An event that is to be a dead letter waits for that: it is
// answered 400 when no other event of its batch wants to come again. Carillon then sends
// each event of the batch by itself; Azure makes dead letters of all, also of those that
// were handled.
//
// An event is remembered when its function has returned nil. If the process dies between the
// two, the event is handled again: a function has to bear that, however rare it is. A replay
// of a dead letter, which the sender marks (Delivery.Replay), is an event like any other: it
// is handled unless it was, and dropped if it is older than what was handled since.
//
// Both handshakes are answered: for topics that are expected, and for origins that may send
// CloudEvents. Packages boltinbox and natsinbox have inboxes that outlive the process,
// consumertest makes deliveries for tests.
package consumer
