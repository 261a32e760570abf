// Package server puts the parts together: configuration, wiring, start and stop.
// It is the one place that knows every package, and it decides nothing that one of
// them could decide.
//
// Start: the data directory and its engine, the control plane's store, keys and
// certificates, the owner and the first resources, delivery, and last the
// listener's traffic; [Ready] is told once requests are answered. Stop is the
// reverse: the listener, the management plane and readiness probes, attempts in
// flight, the journal, the engine.
package server
