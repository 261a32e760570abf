// Package faults breaks a whole server on purpose, again and again, while events are
// published, and holds what is left against what was promised: no acknowledged event
// is lost, by its id; memory stays bounded; handlers that are well are served in time.
//
// world.go is the load and the checks; every other file is one fault. The tests do
// nothing without a flag:
//
//	go test ./internal/servertest/faults -faults 75s            # each fault for its share
//	go test ./internal/servertest/faults -faults 25m -seed 7    # at length, one seed
//	go test ./internal/servertest/faults -run TestScale -scale  # a million waiting events
//
// docs/reliability.md tells what each of them shows and what none does.
package faults
