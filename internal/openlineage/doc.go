// Package openlineage takes the events that producers of OpenLineage send (Airflow,
// Spark, dbt, Flink, Dagster and others): their runs become runs of a workspace, which
// raise its events, with nothing changed at the producers but where they send to.
//
// It hides OpenLineage's wire format and its two requests. An event is translated into
// a report of a run, and the workspace decides what is news (workspace/report.go), so
// events may be late, repeated and out of order.
//
// Rules:
//   - A 2xx means stored, with the events that are due. What could not be stored is
//     answered with an error, for the whole request: sending it again does no harm.
//   - Facets that are not known, or not of the form that they should have, are passed
//     over; what the run, its job or the time is must be right.
//   - Who reports proves it with one of the workspace's two keys, for that is all that
//     clients can send, or with a token of a principal that may write runs.
//
// It keeps no lineage: of datasets it knows no more than what a run says it read and
// wrote.
//
// Source: spec/workspace.md section 6.1; OpenLineage/OpenLineage: spec/OpenLineage.json,
// spec/OpenLineage.yml, spec/facets.
package openlineage
