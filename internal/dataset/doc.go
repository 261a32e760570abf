// Package dataset finds and reads the files of a dataset, wherever they lie:
// directories of this machine, web servers, S3-compatible stores and Azure Blob
// Storage. It hides addresses, credentials, lists, ranges and repeated requests.
//
// Its rules:
//
//   - A reference is one file, a directory or prefix (it ends in /), or a pattern of
//     dates; see [Reference]. Its files are read in the order of their names.
//   - What is open of a dataset takes bounded memory, however large its files are.
//     Where a file must be read out of order and its server cannot do that, it is kept
//     in a temporary file meanwhile.
//   - A file that changes while it is read is an error, not a mixture of both.
//   - Local files lie below the directories that the operator named, and no symbolic
//     link leads out of them. Every connection is dialled by egress.
//   - An error names the file without credentials, and what can be done about it.
//
// What the rows mean, and which are kept, is for drift.
package dataset
