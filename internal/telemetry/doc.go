// Package telemetry gives every part of Carillon the same words and the same
// records: attribute keys, the logger, and the HTTP middleware that numbers a
// request and writes its one wide record. It hides how a request's record is
// gathered and which level it is written at.
//
// Rules:
//   - One unit of work is one record. What a handler learns about its request
//     (the principal, the resource) it adds to the request's [Record].
//   - No payloads, no secrets, no query strings: the record has the path only.
//   - Attributes of closed sets use the constants here, never their own spelling.
//
// It does not keep metrics: each package owns its own.
package telemetry
