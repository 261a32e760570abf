package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/workspace"
	"github.com/carillon-events/carillon/mlevent"
)

func (a *app) driftMonitorKind() kind {
	return kind{
		what: "drift monitor",
		view: view{
			plural: "drift monitors",
			columns: []column{{"Name", "name"}, {"Threshold", "properties.threshold"}, {"Baseline", "properties.baseline.uri|properties.baseline.datasetId"},
				{"Target", "properties.target.uri|properties.target.datasetId"}, {"Drift id", "properties.dataDriftId"}},
			detail: []column{
				{"Timestamp column", "?properties.target.timestampColumn"}, {"Coefficient", "?properties.method"}, {"Least rows", "?properties.minRows"}, {"Seed", "?properties.seed"},
				{"Features", "properties.features"}, {"Schedule", "properties.schedule"}, {"Compares by itself", "?properties.scheduleState"}, {"Reason", "?properties.scheduleReason"},
				{"Windows in a row", "?properties.consecutiveWindows"}, {"Cooldown (h)", "?properties.cooldownHours"}, {"Etag", "etag"}, {"Id", "id"},
			},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "drift monitor")
			return func(args []string) (string, error) {
				n, err := name(args)
				return a.monitorsPath() + "/" + n, err
			}
		},
		names: a.monitorsPath,
	}
}

func (a *app) driftRunKind() kind {
	return kind{
		what: "drift run",
		view: view{
			plural: "drift runs",
			columns: []column{{"Run", "name"}, {"Status", "properties.status"}, {"Verdict", "properties.verdict"}, {"Coefficient", "#properties.driftCoefficient"},
				{"Start", "properties.startTime"}, {"End", "properties.endTime"}},
			detail: []column{
				{"Reason", "?properties.reason"},
				{"Kind", "?properties.kind"}, {"Progress", "?properties.progress"}, {"Etag", "etag"}, {"Id", "id"},
			},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			monitor := monitorFlag(cmd)
			run := runIDFlag(cmd)
			return func(args []string) (string, error) {
				if err := required(cmd, "monitor"); err != nil {
					return "", err
				}
				id, err := run(args)
				if err != nil {
					return "", err
				}
				return a.driftRunsPath(*monitor) + "/" + id, segment(cmd, "drift monitor", *monitor)
			}
		},
	}
}

func (a *app) monitorsPath() string { return a.workspaceID() + "/driftMonitors" }

func (a *app) driftRunsPath(monitor string) string { return a.monitorsPath() + "/" + monitor + "/runs" }

func monitorFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("monitor", "m", "", "Name of the drift monitor.")
}

func (a *app) driftCommand() *cobra.Command {
	monitors, runs := a.driftMonitorKind(), a.driftRunKind()
	return group("drift", "Dataset drift; a drift run that completes raises DatasetDriftDetected",
		`  carillon drift monitor create orders-weekly --baseline-uri /data/train.parquet --target-uri /data/live/{yyyy}/{MM}/{dd}.parquet --frequency Week
  carillon drift run start --monitor orders-weekly --window 2026-02-23 --wait
  carillon drift run --baseline train.parquet --target live.parquet --report drift.html`,
		group("monitor", "Drift monitors", `  carillon drift monitor list`,
			a.driftMonitorCreate(monitors),
			a.driftMonitorUpdate(monitors),
			a.listCommand(monitors, &cobra.Command{Example: `  carillon drift monitor list`}, func(*cobra.Command) (string, error) {
				return a.monitorsPath(), nil
			}),
			a.showCommand(monitors, `  carillon drift monitor show orders-weekly`),
			a.driftMonitorSwitch(monitors, "enable", true),
			a.driftMonitorSwitch(monitors, "disable", false),
			a.driftMonitorBackFill(monitors, runs),
			a.deleteCommand(monitors, `  carillon drift monitor delete orders-weekly`),
		),
		a.comparing(group("run", "Compare two datasets; drift runs of a monitor", "",
			a.driftRunStart(runs),
			a.driftRunCreate(runs),
			a.driftRunList(runs),
			a.showCommand(runs, `  carillon drift run show --monitor orders-weekly --run-id RUN`),
			a.driftRunCancel(runs),
		)),
		group("result", "Results of drift runs", `  carillon drift result show --monitor orders-weekly --run-id RUN`,
			a.driftResultShow(runs),
		),
	)
}

// monitorFlags are the properties of a monitor that flags can set.
func monitorFlags(cmd *cobra.Command) func() (map[string]any, error) {
	f := cmd.Flags()
	features := wordsFlag(cmd, "features", "NAME...", "Columns to compare; all common ones by default.")
	threshold := f.Float64("threshold", 0, "Coefficient above which it is drift, 0 to 1; by default 0.2, of auc 0.3, share 0.5, maxjs 0.1.")
	method := f.String("coefficient", "", "How the coefficient is made: classifier (the default), auc, share or maxjs.")
	minRows := f.Int("min-rows", 0, "Rows that each side needs; 50 by default.")
	seed := f.Int("seed", 0, "Seed of all that is left to chance; made of the monitor's id and the window by default.")
	baseline, target := datasetFlags(cmd, "baseline"), datasetFlags(cmd, "target")
	column := f.String("timestamp-column", "", "Column of the target dataset that holds each row's time, and so says which rows are of a window.")
	frequency := f.String("frequency", "", "Compare by itself, in windows of a Day, Week or Month.")
	latency := f.Int("latency-hours", 0, "Hours from the end of a window until its rows are there.")
	inARow := f.Int("consecutive-windows", 0, "Windows that have to drift in a row before an event is raised, where the workspace has --drift-raise-on drift.")
	cooldown := f.Int("cooldown-hours", 0, "Hours after an event in which no other is raised, likewise.")
	_ = cmd.RegisterFlagCompletionFunc("coefficient", cobra.FixedCompletions(texts(drift.Methods), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("frequency", cobra.FixedCompletions(texts(workspace.Frequencies), cobra.ShellCompDirectiveNoFileComp))
	for _, side := range []string{"baseline", "target"} {
		_ = cmd.RegisterFlagCompletionFunc(side+"-format", cobra.FixedCompletions(texts(drift.Formats), cobra.ShellCompDirectiveNoFileComp))
	}
	return func() (map[string]any, error) {
		properties := map[string]any{}
		if b := baseline(); len(b) > 0 {
			properties["baseline"] = b
		}
		t := target()
		if *column != "" {
			t["timestampColumn"] = *column
		}
		if len(t) > 0 {
			properties["target"] = t
		}
		if features.given() {
			properties["features"] = features.list()
		}
		if *method != "" {
			known, err := oneOf(cmd, "coefficient", *method, texts(drift.Methods)...)
			if err != nil {
				return nil, err
			}
			properties["method"] = known
		}
		schedule := map[string]any{}
		if *frequency != "" {
			known, err := oneOf(cmd, "frequency", *frequency, texts(workspace.Frequencies)...)
			if err != nil {
				return nil, err
			}
			schedule["frequency"] = known
		}
		for _, number := range []struct {
			flag, member string
			value        any
			into         map[string]any
		}{
			{"threshold", "threshold", *threshold, properties}, {"min-rows", "minRows", *minRows, properties}, {"seed", "seed", *seed, properties},
			{"consecutive-windows", "consecutiveWindows", *inARow, properties}, {"cooldown-hours", "cooldownHours", *cooldown, properties},
			{"latency-hours", "latencyHours", *latency, schedule},
		} {
			if f.Changed(number.flag) {
				number.into[number.member] = number.value
			}
		}
		if len(schedule) > 0 {
			properties["schedule"] = schedule
		}
		return properties, nil
	}
}

func (a *app) driftMonitorCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a drift monitor, or replace its settings",
		Long: "Create a drift monitor, or replace its settings. The server compares by itself if both datasets\nhave a uri: an absolute path below its --data-root, or an address (https, s3, Azure Blob Storage).",
		Example: `  carillon drift monitor create orders-weekly --baseline-uri /data/train.parquet --target-uri /data/live/ --timestamp-column at --frequency Week --latency-hours 24
  carillon drift monitor create orders-daily --baseline-uri s3://lake/train.csv --target-uri s3://lake/live/{yyyy}/{MM}/{dd}.csv --frequency Day --features amount country
  carillon drift monitor create elsewhere --baseline-dataset-id a1 --target-dataset-id b2 --threshold 0.3`}
	fill := monitorFlags(cmd)
	return a.changeCommand(k, cmd, http.MethodPut, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		properties, err := fill()
		return enveloped(properties), nil, err
	})
}

func (a *app) driftMonitorUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Change settings of a drift monitor", Example: `  carillon drift monitor update orders-weekly --threshold 0.3
  carillon drift monitor update orders-weekly --no-schedule`}
	fill := monitorFlags(cmd)
	unscheduled := cmd.Flags().Bool("no-schedule", false, "Take the schedule away.")
	etag := cmd.Flags().String("if-match", "", "Change only while the drift monitor has this etag.")
	return a.changeCommand(k, cmd, http.MethodPatch, func(cmd *cobra.Command, _ *remote, _ string) (any, http.Header, error) {
		properties, err := fill()
		if err != nil {
			return nil, nil, err
		}
		if *unscheduled {
			if properties["schedule"] != nil {
				return nil, nil, usagef(cmd, "--no-schedule takes away what --frequency and --latency-hours set: give one or the other.")
			}
			properties["schedule"] = nil
		}
		return enveloped(properties), ifMatch(*etag), nil
	})
}

// driftMonitorSwitch makes a monitor compare by itself, or rest.
func (a *app) driftMonitorSwitch(k kind, verb string, on bool) *cobra.Command {
	cmd := &cobra.Command{Use: verb, Short: "Have a drift monitor rest: its schedule stays", Example: "  carillon drift monitor " + verb + " orders-weekly"}
	if on {
		cmd.Short = "Have a drift monitor compare by its schedule, from now on"
	}
	return a.changeCommand(k, cmd, http.MethodPatch, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		return enveloped(map[string]any{"schedule": map[string]any{"enabled": on}}), nil, nil
	})
}

func (a *app) driftMonitorBackFill(k, runs kind) *cobra.Command {
	cmd := &cobra.Command{Use: "backfill", Short: "Compare the windows of a span", Long: "Have the server compare the windows of a span that are over, 30 at most, and print the drift run of each.\nThose that were compared are not compared again, unless --force is given.\n\nWith --wait, the exit code is 1 if any window drifted, 3 if none did and it cannot be told of each, and 0 otherwise.",
		Example: `  carillon drift monitor backfill orders-weekly --start 2026-01-01 --end 2026-03-01 --wait`}
	start := cmd.Flags().String("start", "", "Begin of the span: a date, or RFC 3339; its window is the first one.")
	end := cmd.Flags().String("end", "", "End of the span; a window that begins there is not in it.")
	frequency := cmd.Flags().String("frequency", "", "Length of the windows: Day, Week or Month; that of the schedule by default.")
	force := cmd.Flags().Bool("force", false, "Compare again what was compared before.")
	wait := cmd.Flags().Bool("wait", false, "Wait until all are done.")
	_ = cmd.RegisterFlagCompletionFunc("frequency", cobra.FixedCompletions(texts(workspace.Frequencies), cobra.ShellCompDirectiveNoFileComp))
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		if err := required(cmd, "start", "end"); err != nil {
			return err
		}
		properties := map[string]any{}
		for _, f := range []struct{ flag, member, value string }{{"start", "startTime", *start}, {"end", "endTime", *end}} {
			at, err := instant(cmd, f.flag, f.value)
			if err != nil {
				return err
			}
			properties[f.member] = at
		}
		if *frequency != "" {
			known, err := oneOf(cmd, "frequency", *frequency, texts(workspace.Frequencies)...)
			if err != nil {
				return err
			}
			properties["frequency"] = known
		}
		if *force {
			properties["force"] = true
		}
		answer, err := s.ask(cmd.Context(), http.MethodPost, path+"/backfill", enveloped(properties), nil)
		if err != nil {
			return err
		}
		var filled struct{ Value []json.RawMessage }
		if err := json.Unmarshal(answer, &filled); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if *wait {
			for i, run := range filled.Value {
				if filled.Value[i], err = a.awaitDriftRun(cmd.Context(), s, run); err != nil {
					return err
				}
			}
		}
		if err := a.list(runs.view, filled.Value); err != nil || !*wait {
			return err
		}
		var untold error
		for _, run := range filled.Value {
			switch workspace.Finding(text(run, "properties.verdict")) {
			case workspace.FoundDrift:
				return errQuiet
			case workspace.FoundNoDrift:
			default:
				untold = &exitError{errQuiet, exitUntold}
			}
		}
		return untold
	})
}

func datasetFlags(cmd *cobra.Command, which string) func() map[string]any {
	cmd.Flags().String(which+"-dataset-id", "", "Id of the "+which+" dataset; the server gives one by default.")
	cmd.Flags().String(which+"-uri", "", "Where the "+which+" dataset is: a file, a directory (/ at its end), or for the target a pattern with {yyyy}, {MM}, {dd}.")
	cmd.Flags().String(which+"-format", "", "Its format: csv, jsonl or parquet.")
	return func() map[string]any {
		body := map[string]any{}
		setText(cmd, body, map[string]string{which + "-dataset-id": "datasetId", which + "-uri": "uri", which + "-format": "format"})
		return body
	}
}

// driftRunStart has the server compare.
func (a *app) driftRunStart(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "start", Short: "Have the server compare a window for a drift monitor", Args: noArguments,
		Long: `Have the server compare a window for a drift monitor, with the data that the monitor names. A
window that was compared is not compared again, unless --force is given: what was found is
printed.

With --wait, the exit code is that of "carillon drift run": 0 if it is no drift, 1 if it is, 3
if it cannot be told.`,
		Example: `  carillon drift run start --monitor orders-weekly --window 2026-02-23
  carillon drift run start --monitor orders-weekly --start 2026-02-23 --end 2026-03-02 --wait`}
	monitor := monitorFlag(cmd)
	window := cmd.Flags().String("window", "", "A date in the window: the day, week or month of the monitor's schedule, or the day.")
	start := cmd.Flags().String("start", "", "Begin of the target window instead: a date, or RFC 3339.")
	end := cmd.Flags().String("end", "", "End of the target window, itself outside it: a date, or RFC 3339.")
	force := cmd.Flags().Bool("force", false, "Compare again what was compared before.")
	wait := cmd.Flags().Bool("wait", false, "Wait until it is done.")
	_ = cmd.RegisterFlagCompletionFunc("monitor", a.completeNames(a.monitorsPath))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "monitor"); err != nil {
			return err
		}
		if err := segment(cmd, "drift monitor", *monitor); err != nil {
			return err
		}
		properties, err := windowOf(cmd, *window, *start, *end)
		if err != nil {
			return err
		}
		if *force {
			properties["force"] = true
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		run, err := s.ask(cmd.Context(), http.MethodPost, a.driftRunsPath(*monitor), enveloped(properties), nil)
		if err != nil {
			return err
		}
		if !*wait {
			return a.show(k.view, run)
		}
		if run, err = a.awaitDriftRun(cmd.Context(), s, run); err != nil {
			return cannotTell(err)
		}
		if err := a.show(k.view, withoutColumns(run)); err != nil {
			return err
		}
		switch {
		case text(run, "properties.result.status") != string(drift.OK):
			return &exitError{errQuiet, exitUntold}
		case text(run, "properties.result.driftDetected") == "true":
			return errQuiet
		}
		return nil
	}
	return cmd
}

// windowOf reads the flags that name a window.
func windowOf(cmd *cobra.Command, window, start, end string) (map[string]any, error) {
	if window != "" {
		if start != "" || end != "" {
			return nil, usagef(cmd, "The window is given twice: leave out --window, or --start and --end.")
		}
		at, err := instant(cmd, "window", window)
		return map[string]any{"window": at}, err
	}
	if start == "" && end == "" {
		return nil, usagef(cmd, "--window is needed, a date in the window, or --start and --end.")
	}
	if err := required(cmd, "start", "end"); err != nil {
		return nil, err
	}
	from, err := instant(cmd, "start", start)
	if err != nil {
		return nil, err
	}
	to, err := instant(cmd, "end", end)
	return map[string]any{"startTime": from, "endTime": to}, err
}

// driftPoll is the time between two questions about a drift run.
const driftPoll = 500 * time.Millisecond

// awaitDriftRun waits until a drift run has ended, and says meanwhile how far it is.
func (a *app) awaitDriftRun(ctx context.Context, s *remote, run json.RawMessage) (json.RawMessage, error) {
	bar := a.progress("")
	defer bar.end()
	for path := text(run, "id"); ; {
		run, err := s.get(ctx, path)
		if err != nil {
			return nil, err
		}
		if status, known := mlevent.ParseRunStatus(text(run, "properties.status")); known && status.Terminal() {
			return run, nil
		}
		phase := firstOf(text(run, "properties.progress.phase"), "waiting")
		if rows := text(run, "properties.progress.rows"); rows != "" {
			phase += ", " + rows + " rows"
		}
		bar.say(text(run, "name") + ": " + phase)
		if err := rest(ctx, driftPoll); err != nil {
			return nil, err
		}
	}
}

// withoutColumns is a drift run as lists show it.
func withoutColumns(run json.RawMessage) json.RawMessage {
	object := decoded(run, "")
	if result, ok := member(run, "properties.result").(map[string]any); ok {
		for _, name := range []string{"columns", "skipped", "datasetMetrics"} {
			delete(result, name)
		}
		object["properties"].(map[string]any)["result"] = result
	}
	raw, _ := json.Marshal(object) // it came from JSON
	return raw
}

func (a *app) driftRunCancel(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "cancel", Short: "End a drift run that the server has not done yet", Example: `  carillon drift run cancel --monitor orders-weekly --run-id RUN`}
	return a.changeCommand(k, cmd, http.MethodPatch, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		return enveloped(map[string]any{"status": string(mlevent.RunCanceled)}), nil, nil
	})
}

// driftResultShow prints what a drift run found, as "drift run" does it.
func (a *app) driftResultShow(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show what a drift run found, column by column", Example: `  carillon drift result show --monitor orders-weekly --run-id RUN
  carillon drift result show --monitor orders-weekly --run-id RUN --report drift.html`}
	report := cmd.Flags().String("report", "", "File to write a page with plots to.")
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		run, err := s.get(cmd.Context(), path)
		if err != nil {
			return err
		}
		var stored struct {
			Properties struct {
				Status, Reason string
				Result         *drift.Result
			}
		}
		if err := json.Unmarshal(run, &stored); err != nil {
			return fmt.Errorf("read drift run %s: %w", text(run, "name"), err)
		}
		p := stored.Properties
		if p.Result == nil || p.Result.SchemaVersion == "" {
			name := text(run, "name")
			switch {
			case p.Result != nil:
				return fmt.Errorf("the drift run %s has no result document: its coefficient was recorded alone, see carillon drift run show", name)
			case p.Reason != "":
				return fmt.Errorf("the drift run %s is %s and has no result: %s", name, p.Status, p.Reason)
			}
			return fmt.Errorf("the drift run %s is %s and has no result", name, p.Status)
		}
		monitor, err := s.get(cmd.Context(), path[:strings.LastIndex(path, "/runs/")])
		if err != nil {
			return err
		}
		if p.Result.Status == drift.Insufficient { // the API has no coefficient without a verdict
			for _, m := range p.Result.Metrics {
				if m.Name == "datadrift_coefficient" {
					p.Result.Coefficient = m.Value
				}
			}
		}
		of := printed{report: *report, baseline: firstOf(text(monitor, "properties.baseline.uri"), p.Result.BaseDatasetID), target: firstOf(text(monitor, "properties.target.uri"), p.Result.TargetDatasetID)}
		if of.report != "" {
			if err := writeReport(of, p.Result); err != nil {
				return err
			}
		}
		if a.output == "json" {
			raw, err := encodeJSON(p.Result)
			if err != nil {
				return err
			}
			return writeJSON(a.stdout, raw)
		}
		return a.printComparison(of, p.Result)
	})
}

func (a *app) driftRunCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Record a drift run whose coefficient was computed elsewhere", Args: noArguments,
		Example: `  carillon drift run create --monitor orders-weekly --start 2026-02-23 --end 2026-03-02 --coefficient 0.41`}
	monitor := monitorFlag(cmd)
	start := cmd.Flags().String("start", "", "Begin of the target window: a date, or RFC 3339.")
	end := cmd.Flags().String("end", "", "End of the target window, itself outside it: a date, or RFC 3339.")
	coefficient := cmd.Flags().Float64("coefficient", 0, "The drift coefficient, 0 to 1.")
	_ = cmd.RegisterFlagCompletionFunc("monitor", a.completeNames(a.monitorsPath))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "monitor", "start", "end"); err != nil {
			return err
		}
		if err := segment(cmd, "drift monitor", *monitor); err != nil {
			return err
		}
		if !cmd.Flag("coefficient").Changed {
			return usagef(cmd, "--coefficient is needed: what was computed elsewhere. The server compares by itself with carillon drift run start.")
		}
		properties, err := windowOf(cmd, "", *start, *end)
		if err != nil {
			return err
		}
		properties["driftCoefficient"] = *coefficient
		s, err := a.connect()
		if err != nil {
			return err
		}
		run, err := s.ask(cmd.Context(), http.MethodPost, a.driftRunsPath(*monitor), enveloped(properties), nil)
		if err != nil {
			return err
		}
		return a.show(k.view, run)
	}
	return cmd
}

func (a *app) driftRunList(k kind) *cobra.Command {
	cmd := &cobra.Command{Example: `  carillon drift run list --monitor orders-weekly`}
	monitor := monitorFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("monitor", a.completeNames(a.monitorsPath))
	return a.listCommand(k, cmd, func(cmd *cobra.Command) (string, error) {
		if err := required(cmd, "monitor"); err != nil {
			return "", err
		}
		return a.driftRunsPath(*monitor), segment(cmd, "drift monitor", *monitor)
	})
}
