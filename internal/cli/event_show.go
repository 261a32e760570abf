package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

// shownEvent is an event of the log and what became of it. The event itself is not
// there for callers who may not read events.
type shownEvent struct {
	EventID     string            `json:"eventId"`
	EventType   string            `json:"eventType"`
	Topic       string            `json:"topic"`
	Position    string            `json:"position"`
	PublishTime time.Time         `json:"publishTime"`
	Sequencer   string            `json:"sequencer"`
	SameID      int               `json:"eventsWithSameId,omitempty"`
	Event       json.RawMessage   `json:"event,omitempty"`
	Deliveries  []json.RawMessage `json:"deliveries"`
}

func (a *app) eventShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show one event of the log and what became of it",
		Long: "Show one event of the log, and for each event subscription that wanted it where its\ndelivery stands: attempts, the next one, the dead letter.\n\n" +
			"ID is the event's id, its sequencer, or its position; the latter two are found faster in a\nlarge log. Of several events with one id the newest is shown. Why an event was not wanted,\ncarillon event explain tells.",
		Example: `  carillon event show 98162289-5d3f-561c-b9eb-80b238ae64f7
  carillon event show 98162289-5d3f-561c-b9eb-80b238ae64f7 --topic orders --attempts
  carillon event show 00000000000000070000000000010000 -o json`}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef(cmd, "%q takes one argument: the id of an event, its sequencer or its position.", cmd.CommandPath())
		}
		if segment(cmd, "event", args[0]) != nil {
			return usagef(cmd, "The event %q cannot be named by its id, which holds '/', '?' or '#': give its sequencer.", args[0])
		}
		return nil
	}
	attempts := cmd.Flags().Bool("attempts", false, "Show every attempt, too; -o json always does.")
	source := a.bySource(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list, err := source()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		done := a.waiting("Looking for the event in the log")
		defer done()
		events := strings.TrimSuffix(list, eventSubscriptions) + arm.LiveEventsPath + "/"
		raw, err := s.get(cmd.Context(), events+args[0])
		if err != nil {
			return elsewhere(cmd, err)
		}
		var e shownEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("the server's answer cannot be read: %w", err)
		}
		if e.Deliveries, err = s.all(cmd.Context(), events+e.Position+"/deliveries", pageSize()); err != nil {
			return err
		}
		if a.output != "json" {
			from := ""
			if namesSource(cmd) {
				from = " --source-resource-id " + e.Topic
			}
			return a.printShown(&e, *attempts, from)
		}
		if raw, err = encodeJSON(e); err != nil {
			return err
		}
		return writeJSON(a.stdout, raw)
	}
	return cmd
}

// printShown shows an event to a person; from is the flag that names its source again.
func (a *app) printShown(e *shownEvent, attempts bool, from string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(title, value string) { fmt.Fprintf(w, "%s\t%s\n", title, firstOf(oneLine(value), "-")) }
	row("Event type", e.EventType)
	row("Event id", e.EventID)
	row("Topic", e.Topic)
	row("Published", e.PublishTime.Format(time.RFC3339Nano))
	row("Sequencer", e.Sequencer)
	row("Position", e.Position)
	if e.SameID > 1 {
		row("Note", fmt.Sprintf("the newest of %d events with this id", e.SameID))
	}
	if e.Event == nil {
		row("Event", "not shown: reading events takes the role EventGrid Data Receiver, or write on the source")
	} else {
		row("Subject", text(e.Event, eventView.subject))
		row("Event time", text(e.Event, eventView.time))
		row("Data", text(e.Event, "data"))
	}
	if len(e.Deliveries) == 0 {
		fmt.Fprintf(w, "\nNo event subscription wanted it. Why: carillon event explain %s%s\n", e.Position, from)
		return w.Flush()
	}
	fmt.Fprintf(w, "\nEVENT SUBSCRIPTION\tSTATE\tATTEMPTS\tLAST OUTCOME\tNEXT ATTEMPT\tDEAD LETTER\n")
	var all strings.Builder
	for _, raw := range e.Deliveries {
		var d struct {
			Name string
			story
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			return fmt.Errorf("the server's answer cannot be read: %w", err)
		}
		outcome, next, letter := "-", "-", "-"
		number, last := 0, attempt{}
		for _, t := range d.Attempts {
			if t.Number != last.Number || !t.Start.Equal(last.Start) { // a late answer is of the attempt before it
				number++
			}
			outcome, last = oneLine(t.Outcome), t
			fmt.Fprintf(&all, "%s\t%s\n", oneLine(d.Name), t.cells())
		}
		if !d.NextAttempt.IsZero() {
			next = d.NextAttempt.Format(time.RFC3339)
		} else if !d.GivenUpAt.IsZero() {
			next = "given up at " + d.GivenUpAt.Format(time.RFC3339)
		}
		if d.DeadLetter != nil {
			letter = oneLine(d.DeadLetter.ID)
		}
		made := fmt.Sprint(number)
		if !d.HistoryComplete {
			made += " or more" // those that are purged
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", oneLine(d.Name), oneLine(d.State), made, outcome, next, letter)
	}
	if attempts && all.Len() > 0 {
		fmt.Fprintf(w, "\nEVENT SUBSCRIPTION\t%s\n%s", attemptTitles, all.String())
	}
	return w.Flush()
}
