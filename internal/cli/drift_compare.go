package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"os"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/workspace"
)

// comparison is what the flags of "drift run" ask for.
type comparison struct {
	baseline, target, format   string
	features                   *words
	numeric, categorical       *words
	exclude                    *words
	method, report             string
	monitor, start, end        string
	threshold                  float64
	seed                       uint64
	rows, minRows              int
	dataDriftID, baseID, nowID string // of the monitor
	thresholdGiven             bool
	from, to                   string       // the window, as instants
	window                     [2]time.Time // the same
	featureNames               []string
}

// comparing lets the group of drift runs be a command, too: it compares two files, and
// records what it found if there is a monitor for it.
func (a *app) comparing(runs *cobra.Command) *cobra.Command {
	unknown := runs.RunE
	runs.DisableFlagsInUseLine = false
	runs.Long = `Compare a dataset with a baseline, on this machine. The coefficient, 0 to 1, tells how far
it has moved: how well a classifier tells its rows from those of the baseline (classifier,
auc), the share of columns that drifted (share), or the distance of the column that moved
most (maxjs). It is drift if the coefficient is above the threshold and chance alone would
reach it in less than 1 of 1,000 comparisons.

With --monitor, what was found is recorded at the server as a drift run of that monitor,
whose threshold, coefficient, features, least rows and seed count. No server is needed otherwise.

Exit code 0 if it is no drift, 1 if it is, 2 if the command line is wrong, 3 if it cannot be
told: a file cannot be read, or has too few rows.`
	runs.Example = `  carillon drift run --baseline train.parquet --target live.parquet
  carillon drift run --baseline train.csv --target live.csv --features amount country --report drift.html
  carillon drift run --baseline s3://models/churn/train/ --target 's3://live/churn/{yyyy}/{MM}/{dd}/' --start 2026-02-23 --end 2026-03-02
  carillon drift run --baseline train.csv --target week9.csv --monitor orders-weekly --start 2026-02-23 --end 2026-03-02`
	var c comparison
	f := runs.Flags()
	f.StringVar(&c.baseline, "baseline", "", "Baseline: a .csv, .jsonl or .parquet file, a directory, or an address: https://, s3://BUCKET/KEY, of a blob; / at its end is all files below it.")
	f.StringVar(&c.target, "target", "", "Dataset to compare with it; {yyyy}, {MM}, {dd} and {HH} stand for the dates from --start to --end.")
	f.StringVar(&c.format, "format", "", "Format of all files, where their names do not tell: csv, jsonl or parquet.")
	c.features = wordsFlag(runs, "features", "NAME...", "Columns to compare; all common ones by default.")
	c.exclude = wordsFlag(runs, "exclude", "COLUMN...", "Columns to leave out, such as row numbers and ids.")
	c.numeric = wordsFlag(runs, "numeric", "NAME...", "Columns to take as numbers, also if they have few values.")
	c.categorical = wordsFlag(runs, "categorical", "NAME...", "Columns to take as categories.")
	f.StringVar(&c.method, "coefficient", string(drift.ByClassifier), "How the coefficient is made: classifier, auc, share or maxjs.")
	f.Float64Var(&c.threshold, "threshold", 0, "Coefficient above which it is drift, 0 to 1; by default 0.2, of auc 0.3, share 0.5, maxjs 0.1.")
	f.IntVar(&c.minRows, "min-rows", drift.DefaultMinRows, "Rows that each side needs.")
	f.IntVar(&c.rows, "sample", drift.DefaultRows, "Rows to compare of each side, drawn by chance.")
	f.Uint64Var(&c.seed, "seed", 1, "Seed of all that is left to chance; of a monitor, by default, its id and --start.")
	f.StringVar(&c.report, "report", "", "File to write a page with plots to.")
	f.StringVarP(&c.monitor, "monitor", "m", "", "Name of the drift monitor to record the run for.")
	f.StringVar(&c.start, "start", "", "Begin of the target's window: a date, or RFC 3339; with --monitor, or dates in --target.")
	f.StringVar(&c.end, "end", "", "End of the target's window, itself outside it.")
	_ = runs.RegisterFlagCompletionFunc("monitor", a.completeNames(a.monitorsPath))
	_ = runs.RegisterFlagCompletionFunc("coefficient", cobra.FixedCompletions(texts(drift.Methods), cobra.ShellCompDirectiveNoFileComp))
	_ = runs.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(texts(drift.Formats), cobra.ShellCompDirectiveNoFileComp))
	runs.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknown(cmd, args)
		}
		if err := c.check(cmd); err != nil {
			return err
		}
		if err := a.knownOutput(); err != nil {
			return err
		}
		found, err := a.compareFiles(cmd, &c)
		switch {
		case err != nil:
			return cannotTell(err)
		case found.Status != drift.OK:
			return &exitError{errQuiet, exitUntold}
		case found.HasDrift:
			return errQuiet
		}
		return nil
	}
	return runs
}

// exitUntold is the exit code of a comparison without a verdict: 1 says that there is
// drift.
const exitUntold = 3

func cannotTell(err error) error {
	if _, usage := errors.AsType[*usageError](err); usage {
		return err
	}
	return &exitError{err, exitUntold}
}

func texts[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// check refuses a wrong command line before anything is read.
func (c *comparison) check(cmd *cobra.Command) (err error) {
	if err := required(cmd, "baseline", "target"); err != nil {
		return err
	}
	if c.method, err = oneOf(cmd, "coefficient", c.method, texts(drift.Methods)...); err != nil {
		return err
	}
	if c.format != "" {
		if c.format, err = oneOf(cmd, "format", c.format, texts(drift.Formats)...); err != nil {
			return err
		}
	}
	c.thresholdGiven = cmd.Flag("threshold").Changed
	if !(c.threshold >= 0 && c.threshold <= 1) {
		return usagef(cmd, "--threshold %g is not from 0 to 1.", c.threshold)
	}
	if c.rows < 1 || c.minRows < 1 {
		return usagef(cmd, "--sample and --min-rows have to be 1 or more.")
	}
	for _, side := range []struct{ flag, uri string }{{"baseline", c.baseline}, {"target", c.target}} {
		shown := dataset.Shown(side.uri)
		if info, err := os.Stat(side.uri); err == nil && info.IsDir() || strings.HasSuffix(shown, "/") {
			continue // the names of its files tell
		}
		if c.format == "" && drift.FormatOf(shown) == "" {
			return usagef(cmd, "The name of --%s %q does not tell its format. Give --format csv, jsonl or parquet.", side.flag, shown)
		}
	}
	if dataset.Patterned(c.baseline) {
		return usagef(cmd, "--baseline has dates in it, but --start and --end are those of the target. Name a file or a directory.")
	}
	dated := dataset.Patterned(c.target)
	if c.monitor == "" && !dated {
		if c.start != "" || c.end != "" {
			return usagef(cmd, "--start and --end are the window of a drift run or of dates in --target: give --monitor, or {yyyy}/{MM}/{dd} in --target.")
		}
		return nil
	}
	if c.thresholdGiven && c.monitor != "" {
		return usagef(cmd, "A drift monitor has its own threshold. Leave --threshold out, or change that of the monitor.")
	}
	if err := required(cmd, "start", "end"); err != nil {
		return err
	}
	if c.monitor != "" {
		if err := segment(cmd, "drift monitor", c.monitor); err != nil {
			return err
		}
	}
	if c.from, err = instant(cmd, "start", c.start); err != nil {
		return err
	}
	if c.to, err = instant(cmd, "end", c.end); err != nil {
		return err
	}
	for i, at := range []string{c.from, c.to} {
		if c.window[i], err = time.Parse(time.RFC3339Nano, at); err != nil {
			return err
		}
	}
	return nil
}

// compareFiles does all of it, and prints what it found.
func (a *app) compareFiles(cmd *cobra.Command, c *comparison) (*drift.Result, error) {
	var server *remote
	if c.features.given() {
		c.featureNames = c.features.list()
	}
	if c.monitor != "" {
		var err error
		if server, err = a.connect(); err != nil {
			return nil, err
		}
		if err := a.askMonitor(cmd, server, c); err != nil {
			return nil, err
		}
	}
	found, err := a.compute(cmd, c)
	if err != nil {
		return nil, err
	}
	if c.monitor != "" {
		found.Window = drift.Window{DataDriftID: c.dataDriftID, DataDriftName: c.monitor, BaseDatasetID: c.baseID, TargetDatasetID: c.nowID}
	}
	if c.from != "" {
		found.StartTime, found.EndTime = workspace.Window{Start: c.window[0], End: c.window[1]}.Texts()
	}
	if c.report != "" { // before the server hears of it: what cannot be reported is not recorded
		if err := writeReport(c.printed(), found); err != nil {
			return nil, err
		}
	}
	if c.monitor != "" && found.Status == drift.OK {
		properties := map[string]any{"startTime": c.from, "endTime": c.to, "driftCoefficient": found.Coefficient, "result": found.Within(workspace.MaxDocument)}
		run, err := server.ask(cmd.Context(), http.MethodPost, a.driftRunsPath(c.monitor), enveloped(properties), nil)
		if err != nil {
			return nil, err
		}
		found.RunID = text(run, "name")
	}
	if a.output == "json" {
		raw, err := encodeJSON(found)
		if err != nil {
			return nil, err
		}
		return found, writeJSON(a.stdout, raw)
	}
	return found, a.printComparison(c.printed(), found)
}

// askMonitor takes over what the monitor says.
func (a *app) askMonitor(cmd *cobra.Command, server *remote, c *comparison) error {
	raw, err := server.ask(cmd.Context(), http.MethodGet, a.monitorsPath()+"/"+c.monitor, nil, nil)
	if err != nil {
		return err
	}
	var m struct {
		Name       string
		Properties struct {
			DataDriftID      string
			Threshold        *float64
			Features         []string
			Method           string
			MinRows          int
			Seed             *uint64
			Baseline, Target struct{ DatasetID string }
		}
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("read drift monitor %s: %w", c.monitor, err)
	}
	p := m.Properties
	c.monitor, c.dataDriftID, c.baseID, c.nowID = firstOf(m.Name, c.monitor), p.DataDriftID, p.Baseline.DatasetID, p.Target.DatasetID
	if p.Threshold != nil {
		c.threshold, c.thresholdGiven = *p.Threshold, true
	}
	if c.featureNames == nil && len(p.Features) > 0 {
		c.featureNames = p.Features
	}
	if p.Method != "" && !cmd.Flag("coefficient").Changed {
		c.method = p.Method
	}
	if p.MinRows > 0 && !cmd.Flag("min-rows").Changed {
		c.minRows = p.MinRows
	}
	switch {
	case cmd.Flag("seed").Changed:
	case p.Seed != nil:
		c.seed = *p.Seed
	default:
		h := fnv.New64a()
		fmt.Fprintf(h, "%s %s", c.dataDriftID, c.from)
		c.seed = h.Sum64()
	}
	return nil
}

// compute reads both files and compares them.
func (a *app) compute(cmd *cobra.Command, c *comparison) (*drift.Result, error) {
	var excluded []string
	if c.exclude.given() {
		excluded = c.exclude.list()
	}
	done := a.waiting("Reading and comparing " + path.Base(dataset.Shown(c.target)))
	defer done()
	places, kept := a.places(), drift.ReadOptions{Features: c.featureNames, Exclude: excluded, Rows: c.rows, Seed: c.seed}
	baseline, err := places.Read(cmd.Context(), dataset.Reference{URI: c.baseline, Format: drift.Format(c.format)}, kept)
	if err != nil {
		return nil, unread(cmd.Context(), "baseline", err)
	}
	target, err := places.Read(cmd.Context(), dataset.Reference{URI: c.target, Format: drift.Format(c.format), From: c.window[0], To: c.window[1]}, kept)
	if err != nil {
		return nil, unread(cmd.Context(), "target", err)
	}
	o := drift.Options{Method: drift.Method(c.method), MinRows: c.minRows, Seed: c.seed}
	if c.thresholdGiven {
		o.Threshold = &c.threshold
	}
	if c.numeric.given() {
		o.Numeric = c.numeric.list()
	}
	if c.categorical.given() {
		o.Categorical = c.categorical.list()
	}
	return drift.Compare(baseline, target, o)
}

// unread is the error of a side that could not be read.
func unread(ctx context.Context, side string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the %s %w", side, err)
}

// printed is what is shown beside a result.
type printed struct {
	baseline, target string // where they lie
	report           string // the file with the page, "" for none
	unrecorded       bool   // there is a drift monitor, and no drift run of it
}

func (c *comparison) printed() printed {
	return printed{c.baseline, c.target, c.report, c.monitor != ""}
}

// files names the target: of a pattern, the files of the window.
func (c printed) files(found *drift.Result) string {
	r := dataset.Reference{URI: c.target}
	r.From, _ = time.Parse(time.RFC3339, found.StartTime)
	r.To, _ = time.Parse(time.RFC3339, found.EndTime)
	return r.Files()
}

// title names the target in the title of a page.
func (c printed) title(found *drift.Result) string {
	if dataset.Patterned(c.target) {
		return c.files(found)
	}
	return path.Base(dataset.Shown(c.target))
}

func writeReport(c printed, found *drift.Result) error {
	file, err := os.Create(c.report)
	if err != nil {
		return err
	}
	err = found.WriteHTML(file, path.Base(dataset.Shown(c.baseline)), c.title(found))
	return errors.Join(err, file.Close())
}

// printComparison prints the verdict and the columns, the one that moved most first.
func (a *app) printComparison(c printed, found *drift.Result) error {
	verdict := "No drift"
	switch {
	case found.Status != drift.OK:
		verdict = "No verdict: " + found.Reason
	case found.HasDrift:
		verdict = "Drift"
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Verdict\t%s\n", oneLine(verdict))
	if found.Status == drift.NoData {
		fmt.Fprintf(w, "Coefficient\tnone (%s), threshold %g\n", found.Method, found.Threshold)
	} else {
		fmt.Fprintf(w, "Coefficient\t%.3g (%s), threshold %g, p %.2g\n", found.Coefficient, found.Method, found.Threshold, found.Chance)
	}
	fmt.Fprintf(w, "Baseline\t%s: %d rows, %d compared\n", oneLine(dataset.Shown(c.baseline)), found.Rows.Baseline, found.Rows.SampledBaseline)
	fmt.Fprintf(w, "Target\t%s: %d rows, %d compared\n", oneLine(c.files(found)), found.Rows.Target, found.Rows.SampledTarget)
	if dataset.Patterned(c.target) && found.StartTime != "" {
		fmt.Fprintf(w, "Window\t%s to %s\n", found.StartTime, found.EndTime)
	}
	switch {
	case found.RunID != "":
		fmt.Fprintf(w, "Drift run\t%s of drift monitor %s\n", found.RunID, found.DataDriftName)
	case c.unrecorded:
		fmt.Fprintf(w, "Drift run\tnot recorded: there is no verdict\n")
	}
	if c.report != "" {
		fmt.Fprintf(w, "Report\t%s\n", oneLine(c.report))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(found.Columns) > 0 {
		fmt.Fprintln(a.stdout)
		fmt.Fprintln(w, "COLUMN\tTYPE\tDRIFTED\tCONTRIBUTION\tJS DISTANCE\tWASSERSTEIN\tP-VALUE\tMISSING")
		for _, column := range found.Columns {
			drifted := "no"
			if column.Drifted {
				drifted = "yes"
			}
			missing := fmt.Sprintf("%.3g %% to %.3g %%", 100*column.Metrics[drift.MissingBase], 100*column.Metrics[drift.MissingNow])
			if column.Metrics[drift.MissingBase] == 0 && column.Metrics[drift.MissingNow] == 0 {
				missing = "none"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.2g\t%s\n", oneLine(column.Name), column.Type, drifted, metric(column, drift.Contribution),
				metric(column, drift.JS), metric(column, drift.Normed), column.Chance, missing)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(found.Skipped) > 0 {
		fmt.Fprint(a.stdout, "\nNot compared:\n")
		for _, s := range found.Skipped {
			fmt.Fprintf(w, "  %s\t%s\n", oneLine(s.Name), oneLine(s.Reason))
		}
	}
	return w.Flush()
}

func metric(c drift.Column, name string) string {
	if value, ok := c.Metrics[name]; ok {
		return fmt.Sprintf("%.3f", value)
	}
	return "-"
}
