// Package access says who is calling and whether they may. It hides tokens and
// their keys, principals and their secrets, roles and how an action is matched
// against them.
//
// Rules:
//   - Everything fails closed: an unreadable token, an unknown role, a condition
//     that is not understood grant nothing.
//   - A deny assignment beats every role.
//   - Decisions are made on ids alone, before anything is looked up, so whoever
//     may not read a resource cannot learn whether it exists.
//   - A change of a role assignment or a principal holds for the next request.
//   - The management plane and the data plane are apart: the action "*" sends no
//     event, a data action changes no resource.
//   - An answer never says why a signature or a secret failed. The reason is in
//     the fault's cause, which is for the log.
//
// [Directory] holds principals, custom role definitions, role assignments and deny
// assignments, [Roles] the role definitions at one moment. [Authorizer] decides. [Tokens]
// issues and reads tokens, with the keys of a [KeyRing]; [Senders] lets publishers in who
// show one; [Providers] are the foreign issuers whose tokens are taken, as they are or in
// place of a client secret. [Local] signs from a data directory, beside the server.
//
// The HTTP endpoints that hand tokens out are package issuer's; which action an operation
// needs is known by its callers. Conditions of role assignments are not evaluated: an
// assignment that has one is refused, and would grant nothing.
//
// Locks: Directory.changes or Directory.sessionChanges, then Directory.mu, then those of
// the store.
package access
