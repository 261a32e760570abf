// Package mlevent holds the events of machine learning workspaces: their type
// names, subjects, payloads and ids, a writer for whoever raises them and readers
// for whoever handles them.
//
// It hides the three spellings in which these payloads have been published: what
// is written follows one of two casings, what is read may have any of them.
// Every payload also carries etag and sequencer; their values are known only when
// the event is stored, so [Encode] leaves room and says where.
//
// Rules:
//   - All properties are always written; maps are never null, runType is a string.
//   - An event id is made of what happened, never of when it was noticed: saying
//     the same thing twice gives the same id.
//   - Readers ignore members they do not know.
//
// It does not decide when an event is due; package workspace does.
package mlevent
