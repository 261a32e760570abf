// Package ingest is the publish API: it takes requests of publishers for custom
// topics, checks who sends them and what they hold, and hands the events on. Receivers
// ask for events and answer here as well (receive.go).
//
// It hides HTTP from the rest of the walk: routes, credentials, headers, bodies
// and answers of the data plane are known nowhere else.
//
// Rules:
//   - 200 is answered only after Publisher.Publish returned nil; what that
//     promises is said there.
//   - A request is checked in one order: network, credential, api-version, size,
//     content type, JSON, size of each event, rules of each event. The first problem
//     is the answer, and nothing of the request is stored.
//   - Nothing of a body is read before the credential holds.
//   - Bodies live in pooled buffers for the time of decoding only.
//
// It does not publish for workspaces: their topics have no address here, so nobody
// but the workspace can raise its events.
//
// Source: spec/events.md section 8, spec/delivery.md section 10.
package ingest
