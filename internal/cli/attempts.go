package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/broker"
)

func (a *app) eventSubscriptionAttempts(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "attempts", Short: "List the newest delivery attempts",
		Long: "List the delivery attempts of an event subscription, the newest first. EVENT is the place\nof the event in the log: carillon event show takes it. How far back attempts are known\ndepends on the room that the server gives them.",
		Example: `  carillon event-subscription attempts --name failed-runs
  carillon event-subscription attempts --name failed-runs --outcome TimedOut --since 2h
  carillon event-subscription attempts --name failed-runs --since 2026-03-01 --top 1000 -o json`}
	outcome := cmd.Flags().String("outcome", "", "Only those that ended so, such as TimedOut.")
	since := cmd.Flags().String("since", "", "Only those that began then or later: a time, a date, or how long ago, such as 90m or 30d.")
	top := cmd.Flags().Int("top", 50, "How many to show.")
	_ = cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(broker.OutcomeNames(), cobra.ShellCompDirectiveNoFileComp))
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		if *top < 1 {
			return usagef(cmd, "--top %d shows nothing: give 1 or more.", *top)
		}
		query := url.Values{"$top": {strconv.Itoa(min(*top, 100))}}
		if *outcome != "" {
			query.Set("outcome", *outcome)
		}
		if *since != "" {
			from, err := ago(cmd, "since", *since)
			if err != nil {
				return err
			}
			query.Set("from", from)
		}
		done := a.waiting("Reading the history of attempts")
		defer done()
		found := []json.RawMessage{}
		for attempt, err := range s.List(cmd.Context(), p+arm.AttemptsPath, query) {
			if err != nil {
				return err
			}
			if found = append(found, attempt); len(found) == *top {
				break
			}
		}
		return a.listAttempts(found)
	})
}

// listAttempts prints attempts as event show and event explain do, with the events that
// they are of.
func (a *app) listAttempts(found []json.RawMessage) error {
	if a.output == "json" || len(found) == 0 {
		return a.list(view{plural: "attempts"}, found)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EVENT\t"+attemptTitles)
	for _, raw := range found {
		var t attempt
		if err := json.Unmarshal(raw, &t); err != nil {
			return fmt.Errorf("the server's answer cannot be read: %w", err)
		}
		fmt.Fprintf(w, "%s\t%s\n", cell(raw, "position"), t.cells())
	}
	return w.Flush()
}

// length reads a length of time as 90m, 2h or 30d.
func length(value string) (time.Duration, error) {
	if days, err := strconv.ParseUint(strings.TrimSuffix(value, "d"), 10, 16); err == nil && strings.HasSuffix(value, "d") {
		return time.Duration(days) * 24 * time.Hour, nil
	}
	return time.ParseDuration(value)
}

// ago reads a time as instant does, or how long ago it was.
func ago(cmd *cobra.Command, flag, value string) (string, error) {
	if d, err := length(value); err == nil && d >= 0 {
		return time.Now().Add(-d).UTC().Format(time.RFC3339Nano), nil
	}
	at, err := instant(cmd, flag, value)
	if err != nil {
		return "", usagef(cmd, "--%s %q is neither a date (2026-03-02), nor a time (2026-03-02T12:00:00Z), nor how long ago (90m, 2h, 30d).", flag, value)
	}
	return at, nil
}
