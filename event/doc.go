// Package event holds the envelopes that events travel in: the Event Grid event
// schema and CloudEvents 1.0, and the mapping that gives JSON objects without an
// envelope, custom input, that of Event Grid. It decodes and validates what publishers send,
// gives every event one stored form, and writes deliveries from it.
//
// It hides the JSON text. An [Event] is one JSON object and the places of its
// attributes in it; data is never turned into Go values, so numbers, key order
// and spelling of a payload reach the handler byte for byte as they were
// published. One scanner ([Walk], [Check]) does all reading in one pass; filters
// use it too, to look into data without allocation.
//
// Rules:
//   - A stored event is valid JSON in UTF-8 with its attributes in canonical
//     spelling, each at most once, text attributes always strings.
//   - What a publisher sends twice in one envelope is refused: an event must not
//     mean different things to a filter and to a handler. Inside data nothing is
//     judged but the JSON grammar.
//   - A request is good or bad as a whole; the first problem is reported.
//   - A member whose value is null equals an absent one, except data, where null
//     is a payload.
//
// It does not know topics, subscriptions, credentials or HTTP answers, and it
// knows no event types; those of machine learning are in package mlevent.
package event
