// Package arm is the management API on the wire: the ARM bodies, paths, headers
// and status codes that Azure's own clients speak, and the client that the
// carillon command uses.
//
// It hides api-versions, the two paths an event subscription has, paging, and
// which success code each client of each operation insists on. What an operation
// does is not here: package manage authorises, validates, stores and activates;
// this package turns requests into its calls and resources into bodies.
//
// Rules:
//   - Paths compare ignoring case, forgive doubled and trailing slashes, and are
//     never answered with a redirect.
//   - Secrets leave only through the actions made for that: listKeys,
//     regenerateKey and getFullUrl.
//   - Every answer has an absolute nextLink or none, never an empty one.
package arm
