// Package drift tells whether a dataset has moved away from another. It reads both
// ([Read]) into samples of bounded size and compares these ([Compare]), column by
// column and as a whole; the outcome is a document that can be printed as a page
// ([Result.WriteHTML]).
//
// Its rules:
//
//   - It knows nobody: rows in, numbers out. What a file may be read, when, and who
//     is told, is for others to decide.
//   - Equal input, options and seed give an equal result, however many processors there are.
//   - A sample is drawn by rows, so that what belongs together stays together: the
//     coefficient is about the joint distribution, not about columns alone. Counts,
//     rates, least, greatest and mean are of all rows.
//   - A verdict needs two things: a coefficient above the threshold, and a probability
//     below 1 in 1,000 that chance did it. Where the rows are too few to tell, the
//     result says so and is no alarm.
//
// The formulas, their reference values and the defaults of other tools are in
// spec/workspace.md section 7. Ours are
// the domain classifier, the two conditions, and the noise of its folds (foldNoise).
package drift
