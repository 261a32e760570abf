// Package driftjob computes the drift runs that the server is to compute: those that
// were asked for, and those that the schedules of drift monitors make due.
//
// It hides how jobs wait and are computed. What a job means, and what it may become, is
// the workspace's: there every step is stored, so that this package keeps nothing that
// a start cannot find again.
//
// Its rules:
//
//   - Few jobs are computed at a time, one of a monitor, in the order in which they came;
//     the others wait.
//   - Delivery goes first: jobs have half of the processors at most, and let others run
//     before each piece of a file that they read.
//   - A job that is cancelled, or whose monitor is deleted, ends at once. One that is cut
//     short by a shutdown stays open and is begun again.
//   - A window that became due while no process ran is computed at a start, of more than
//     30 the last ones.
package driftjob
