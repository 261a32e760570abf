// Package audit keeps the audit log: who changed what, from what to what, who was
// shown a secret, who was refused and who was given a token.
//
// It hides how records are chained, stored and masked. Records lie in a table of the
// engine, each as durable as a published event, and each holds the hash of the one
// before it, so that one that is altered or taken out shows ([Report]).
//
// Rules:
//   - The record of a change is stored before the change is made. A change whose
//     record cannot be stored is not made; one that fails afterwards is followed by a
//     record that says so. The same holds for showing a secret and giving out a token.
//   - A record holds no secret, sealed or not: a changed one is shown as changed.
//   - Nothing is removed but the oldest records when the log passes its size, and that
//     is a record as well.
//
// What it does not do: it does not decide who may read it (package manage does), and
// facts of a workspace are not in it, for they are events themselves. A chain proves
// nothing against somebody who can write the data directory and builds it anew; keep
// the head that "carillon audit verify" prints somewhere else.
package audit
