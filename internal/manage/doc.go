// Package manage holds each management operation once: authorise, validate,
// handshake, store, activate. The management API and the portal both call it, so
// a rule holds whichever door a request came through.
//
// It hides what keeps the stored resources, the live event subscriptions and the
// handshakes that wait for somebody in step with one another.
//
// Rules:
//   - Authorization comes before every look-up: who may not, hears 403, whether
//     or not the thing exists.
//   - Validation reports every problem of a request, in field order. What a
//     request sets and this server does not do is refused, never ignored.
//   - A change is stored before it is activated, and answered after that. A
//     change that was stored and not answered is activated at the next start.
//   - A changed endpoint delivers nothing before it consented; until then the old
//     one goes on.
//   - Secrets are opened only where an operation needs them, and no error, log
//     record or view holds one.
//
// It knows no HTTP, no ARM body and no role: arm, the destinations and package
// access do. What a delivery is, the broker knows; it is reached through
// [Activator].
//
// Locks: the turn of an event subscription, then Plane.structure, then one of Plane.stripes, then those of the store;
// handshakes.mu, turns.mu and watchlist.mu are leaves.
package manage
