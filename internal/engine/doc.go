// Package engine is the durable floor of Carillon: an event log of frames, a
// delivery journal, a projection of facts, dead letters and a key-value store,
// all on NATS JetStream. NATS words stay inside this package.
//
// Promises:
//   - Append returns after its frame is stored at the configured durability, or
//     it returns an error; an error of kind Unavailable means nothing was stored.
//   - One Append is one frame or part of one frame: all of its records or none.
//   - Each frame is fenced by the sequence expected before it, so a writer that
//     lost the partition is refused and cannot store anything.
//   - A fact's newest state can be read as soon as its Append returned.
package engine
