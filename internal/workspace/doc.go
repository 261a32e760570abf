// Package workspace records what happens to the objects of a machine learning
// workspace (experiments, runs, model versions, online endpoints, drift monitors
// and their runs) and raises the five Microsoft.MachineLearningServices events
// exactly when the facts say so, and those of our own that the workspace asks for.
//
// It hides the life cycles, the stored form of each object, and how a fact and
// its events become one write. An operation locks its object, reads the newest
// state, checks the caller's conditions and the life cycle, and appends one
// frame: the object's new state and every event that is due. So a crash leaves
// both or neither, and two changes of one object never overtake each other.
//
// Rules:
//   - A change that changes nothing writes nothing and raises nothing.
//   - An object's etag is the sequencer of its newest fact; an event carries the
//     etag its object has after the change, and its own sequencer.
//   - Event ids are functions of facts that outlive the object: an object that
//     was deleted and made again raises events with new ids.
//   - Names compare ignoring case and keep the spelling of their creation; those that
//     another system gave are exact.
//   - What another system keeps is observed, never changed here (mirror.go). Its fact
//     is the ledger of what was raised for it.
//   - What is stored is the JSON of the types here, in an envelope with a
//     version; a member, once stored, keeps its name.
//
// Locks are taken in this order: workspace, drift monitor, experiment, run; and
// workspace, model, model version; and workspace, online endpoint. A part of the index
// of open runs comes after the run. No lock is held while a readiness address is
// being asked.
//
// The package does not know who may do what, HTTP, or what becomes of an event
// after it is recorded.
package workspace
