package cli

import (
	"net/http"

	"github.com/spf13/cobra"
)

func (a *app) driftMonitorKind() kind {
	return kind{
		what: "drift monitor",
		view: view{
			plural: "drift monitors",
			columns: []column{{"Name", "name"}, {"Threshold", "properties.threshold"}, {"Baseline", "properties.baseline.uri|properties.baseline.datasetId"},
				{"Target", "properties.target.uri|properties.target.datasetId"}, {"Drift id", "properties.dataDriftId"}},
			detail: []column{{"Features", "properties.features"}, {"Schedule", "properties.schedule"}, {"Etag", "etag"}, {"Id", "id"}},
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
			columns: []column{{"Run", "name"}, {"Status", "properties.status"}, {"Coefficient", "properties.driftCoefficient"},
				{"Start", "properties.startTime"}, {"End", "properties.endTime"}},
			detail: []column{{"Drift detected", "properties.result.driftDetected"}, {"Etag", "etag"}, {"Id", "id"}},
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
		`  carillon drift monitor create orders-weekly --baseline-dataset-id a1 --target-dataset-id b2
  carillon drift run --baseline train.parquet --target live.parquet --report drift.html
  carillon drift run create --monitor orders-weekly --start 2026-02-23 --end 2026-03-02 --coefficient 0.41`,
		group("monitor", "Drift monitors", `  carillon drift monitor list`,
			a.driftMonitorCreate(monitors),
			a.listCommand(monitors, &cobra.Command{Example: `  carillon drift monitor list`}, func(*cobra.Command) (string, error) {
				return a.monitorsPath(), nil
			}),
			a.showCommand(monitors, `  carillon drift monitor show orders-weekly`),
			a.deleteCommand(monitors, `  carillon drift monitor delete orders-weekly`),
		),
		a.comparing(group("run", "Compare two datasets; drift runs of a monitor", "",
			a.driftRunCreate(runs),
			a.driftRunList(runs),
			a.showCommand(runs, `  carillon drift run show --monitor orders-weekly --run-id RUN`),
		)),
	)
}

func (a *app) driftMonitorCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a drift monitor, or replace its settings", Example: `  carillon drift monitor create orders-weekly --baseline-dataset-id a1 --target-dataset-id b2 --threshold 0.3
  carillon drift monitor create orders-weekly --baseline-uri train.csv --target-uri live.csv --timestamp-column at --features amount country`}
	features := wordsFlag(cmd, "features", "NAME...", "Columns to compare; all common ones by default.")
	threshold := cmd.Flags().Float64("threshold", 0, "Coefficient above which it is drift, 0 to 1; 0.2 by default.")
	baseline := datasetFlags(cmd, "baseline")
	target := datasetFlags(cmd, "target")
	column := cmd.Flags().String("timestamp-column", "", "Column of the target dataset that holds each row's time.")
	return a.changeCommand(k, cmd, http.MethodPut, func(cmd *cobra.Command, _ *remote, _ string) (any, http.Header, error) {
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
		if cmd.Flag("threshold").Changed {
			properties["threshold"] = *threshold
		}
		return enveloped(properties), nil, nil
	})
}

func datasetFlags(cmd *cobra.Command, which string) func() map[string]any {
	cmd.Flags().String(which+"-dataset-id", "", "Id of the "+which+" dataset; the server gives one by default.")
	cmd.Flags().String(which+"-uri", "", "Where the "+which+" dataset is.")
	cmd.Flags().String(which+"-format", "", "Its format: csv, jsonl or parquet.")
	return func() map[string]any {
		body := map[string]any{}
		setText(cmd, body, map[string]string{which + "-dataset-id": "datasetId", which + "-uri": "uri", which + "-format": "format"})
		return body
	}
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
		from, err := instant(cmd, "start", *start)
		if err != nil {
			return err
		}
		to, err := instant(cmd, "end", *end)
		if err != nil {
			return err
		}
		properties := map[string]any{"startTime": from, "endTime": to}
		if cmd.Flag("coefficient").Changed {
			properties["driftCoefficient"] = *coefficient
		}
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
