package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

// eventSubscriptionTestFilter tries a filter on what was logged. The flags of a
// filter change the present one for the test only, in the way that update would.
func (a *app) eventSubscriptionTestFilter(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "test-filter", Short: "Show which of the last logged events a filter would have matched",
		Long: "Show which of the last logged events of its source an event subscription's filter would\nhave matched, and why it refuses the others. Nothing is saved: give the flags of a filter\nto see what \"update\" with them would do.",
		Example: `  carillon event-subscription test-filter --name failed-runs
  carillon event-subscription test-filter --name failed-runs --last 1000 --advanced-filter data.runType StringIn automl`}
	last := cmd.Flags().Int("last", 100, "How many events to look at, 1 to 10000.")
	filters := filterFlags(cmd)
	path := a.locator(cmd, k)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := path(args)
		if err != nil {
			return err
		}
		changes := map[string]any{}
		if err := filters(changes); err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		body := map[string]any{"last": *last}
		if len(changes) > 0 {
			present, err := s.get(cmd.Context(), p)
			if err != nil {
				return err
			}
			body["filter"] = over(decoded(present, "properties.filter"), changes)
		}
		done := a.waiting("Reading the log")
		defer done()
		raw, err := s.ask(cmd.Context(), http.MethodPost, p+arm.TestFilterPath, body, nil)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return writeJSON(a.stdout, raw)
		}
		return a.printTested(raw, *last, len(changes) > 0)
	}
	return cmd
}

func (a *app) printTested(raw json.RawMessage, last int, changed bool) error {
	var t struct {
		Tested, Matched int
		Events          []struct {
			ID, EventType, Subject, Reason string
			PublishTime                    time.Time
			Matches                        bool
		}
		SearchedLog struct {
			Oldest time.Time
			Cut    bool
		}
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	if len(t.Events) > 0 {
		fmt.Fprintln(w, "PUBLISHED\tEVENT TYPE\tSUBJECT\tID\tMATCHES\tREFUSED BY")
	}
	for _, e := range t.Events {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.PublishTime.Format("2006-01-02T15:04:05.000Z07:00"), oneLine(e.EventType),
			firstOf(oneLine(e.Subject), "-"), oneLine(e.ID), yesOrNo(e.Matches), firstOf(oneLine(e.Reason), "-"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	which := "the present filter"
	if changed {
		which = "this filter, which is not saved"
	}
	if t.Tested > 0 {
		fmt.Fprintf(a.stdout, "Of the last %s, %d would match %s.\n", count(t.Tested, "event"), t.Matched, which)
	}
	switch {
	case t.SearchedLog.Cut:
		fmt.Fprintf(a.stdout, "The log was read back to %s only; what is older was not looked at.\n", t.SearchedLog.Oldest.Format(time.RFC3339))
	case t.Tested == 0:
		fmt.Fprintln(a.stdout, "The log holds no event of this source.")
	case t.Tested < last:
		fmt.Fprintln(a.stdout, "The log holds no more of this source.")
	}
	return nil
}
