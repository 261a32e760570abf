// Package engine is the durable floor of Carillon: an event log of frames, a
// delivery journal, a park for events that wait for long, a projection of facts,
// dead letters and a key-value store, all on NATS JetStream. NATS words stay inside
// this package.
//
// Promises:
//   - Append returns after its frame is stored at the configured durability, or
//     it returns an error; an error of kind Unavailable means nothing was stored.
//   - One Append is one frame or part of one frame: all of its records or none.
//   - Each frame is fenced by the sequence expected before it, so a writer that
//     lost the partition is refused and cannot store anything.
//   - A fact's newest state can be read as soon as its Append returned.
//   - Ingest time never falls, and positions are never reused, within a log.
//   - Nothing is dropped by age or size: the log refuses writes over its quota and
//     shrinks only by Purge.
//   - A disk that fills up refuses events, facts and changes of keys while there is
//     room left for the journal, the park, dead letters and purging.
//   - A record that the disk damaged is taken out and told of; whole ones behind it
//     stay. Open refuses a directory whose control plane is damaged.
//   - A store that does not ack for five seconds is started anew under its users;
//     Partition.Err says so meanwhile.
//
// In reading order: engine.go (open and close), frame.go (the stored format),
// committer.go (Append: many requests, one frame, one write), fenced.go (a write
// whose ack may be lost), partition.go (take-over, reading, purging, quota),
// projection.go (facts), journal.go, park.go, table.go, kv.go, disk.go (free space
// and the reserve file), damage.go (what a disk changed), restart.go (a store that
// answers no more is started anew); below them stream.go and nats.go speak to the
// server, dir.go and host_*.go to the file system.
//
// A frame goes: request queue, frame, log stream, then in the committer's
// goroutine the counters, the projection's memory and OnCommit, then the waiting
// Appends. Locks are taken in this order: Partition.purging, committer.mu,
// Partition.mu; projection.mu and Park.mu are taken last. Engine.restarting comes before
// projection.writing.
//
// It does not know what an event, a fact or a journal entry means, and does not
// decide what may be purged. Two processes never share a data directory; a
// cluster of servers is not there yet, though its stored formats are.
package engine
