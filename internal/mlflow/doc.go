// Package mlflow follows MLflow servers: what happens to their runs and model versions
// becomes facts and events of a workspace, with nothing changed at the server or its
// clients.
//
// It hides MLflow's REST API and how to read, over nothing but searches, everything
// that happened, also while nobody was looking. A poller asks each attached server in
// rounds and submits all that it sees to the workspace, which decides what is news
// (workspace/mirror.go). So a round may be repeated, cut short or overlap the one
// before, and a crash anywhere costs no more than a repeated round.
//
// Rules:
//   - No search pages by offset over rows that move: pages go on from the last value
//     of the attribute they are ordered by. Tokens are followed only within one
//     millisecond, and in lists that only repeat rows when they grow.
//   - The place up to which a server was read moves only after a whole round, never
//     past what was seen, and never past our own clock. The next round begins an
//     overlap before it, for clients' clocks are not ours.
//   - Whatever has not ended is asked for by its id until it has. An empty answer is
//     never a deletion.
//   - Who knows of a single object that changed, a webhook or the proxy (proxy.go), has
//     it looked at beside the rounds
//     (look.go): to be quick, for the rounds find it without.
//   - What a server says is bounded, in an answer, in a list and in a round (pages in
//     client.go): anybody may be attached, and lists of mistaken servers have no end.
//   - What was there before a server was attached is recorded without events, unless
//     asked for.
//
// Not here: the preview API of 1.x servers.
// Source: spec/workspace.md sections 4 and 5.
package mlflow
