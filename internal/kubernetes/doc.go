// Package kubernetes follows Kubernetes clusters: KServe's InferenceServices, and
// Deployments that are labelled as model services, become online endpoints of a
// workspace, and a rollout that succeeds raises ModelDeployed.
//
// It hides Kubernetes' API and what its status documents mean. Each kind of object is
// listed and watched by client-go's reflector, and all that is seen goes to the
// workspace, which decides what is news (workspace/sighting.go). So a list may be
// repeated, a watch may break or have a gap, and a crash anywhere costs no more than
// another list.
//
// Rules:
//   - Nothing is kept in memory but what a list or a watch brings at the moment.
//   - Lists are read from the store of the cluster, not from a cache that may be older
//     than what was seen before, and once an hour.
//   - Where a list lacks what the ledger has, it is gone.
//   - What could not be stored is tried again; the watch waits for it.
//   - What was there before a cluster was attached is recorded without events, unless
//     asked for.
//   - What a cluster that is not attached any more kept is forgotten.
//
// Source: spec/workspace.md sections 6.2 and 6.3.
package kubernetes
