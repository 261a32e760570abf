// Package cli is the carillon command: it turns a command line into requests to
// a server's management API, or into a server, and answers into tables or JSON.
//
// It hides flags, environment variables and layout. A command mirrors az where
// az has one, flags included; its -o json is the management API's own body.
//
// Rules:
//   - [Run] is the whole program as a function: it reads its arguments, never
//     os.Args, and writes to the writers it is given.
//   - Client commands know the server by its REST API only, so that they work
//     against a server on another machine as well as on this one.
//   - Exit codes: 0 done, 1 it failed, 2 the command line was wrong.
//   - Results go to standard output, everything else to standard error.
//
// It does not decide what is valid: the server does, and its words are shown.
package cli
