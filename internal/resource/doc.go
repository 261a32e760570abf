// Package resource holds the control plane's nouns: topics, system topics,
// workspaces, resource groups and event subscriptions; their ids, defaults and
// validation; and the store that keeps them with their revisions.
//
// The types here are Carillon's own. Their ARM bodies belong to package arm; what
// is stored is the JSON of these types, so a field, once stored, keeps its name.
// Secrets are stored sealed and are opened only by who needs them.
package resource
