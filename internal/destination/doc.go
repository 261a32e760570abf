// Package destination speaks to what event subscriptions deliver to: one file
// per kind of destination, and the handshakes by which a webhook shows that it
// wants events. It hides connections, wire formats and how an answer is read.
//
// Rules:
//   - One Send is one attempt. Nothing is retried here, but for two cases: a kept
//     connection that the receiver closed meanwhile is replaced by a new one, and a
//     kept bearer token that the receiver refuses by a fresh one.
//   - Every connection is dialled by egress, and redirects are answers like others.
//   - What is told of a failure is its class and the status: never a body, a
//     query, a header or user information.
//
// It does not decide whether or when an attempt is repeated: broker does.
package destination
