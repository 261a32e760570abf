package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

// explanation is the answer to explain, as far as tables show it.
type explanation struct {
	EventSubscription string          `json:"eventSubscription"`
	Event             json.RawMessage `json:"event"`
	PublishTime       time.Time       `json:"publishTime"`
	Sequencer         string          `json:"sequencer"`
	SameID            int             `json:"eventsWithSameId"`
	FilterGeneration  uint64          `json:"filterGeneration"`
	Matches           bool            `json:"matches"`
	Clauses           []struct {
		Clause, Asks, Result, Saw, Text string
	} `json:"clauses"`
	Delivery *story `json:"delivery"`
}

// story is what became of a delivery.
type story struct {
	State, Text            string
	HistoryComplete        bool
	NextAttempt, GivenUpAt time.Time
	Attempts               []attempt
	DeadLetter             *struct {
		ID               string
		DeadLetterReason string
	}
}

type attempt struct {
	Number               int
	Start                time.Time
	DurationMilliseconds float64
	Outcome              string
	HTTPStatusCode       int
	Detail               string
}

// cells are the columns of an attempt, as attemptTitles has them.
func (t attempt) cells() string {
	status := "-"
	if t.HTTPStatusCode != 0 {
		status = fmt.Sprint(t.HTTPStatusCode)
	}
	took := time.Duration(t.DurationMilliseconds * float64(time.Millisecond)).Round(100 * time.Microsecond)
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s", t.Number, t.Start.Format(attemptTime), took, oneLine(t.Outcome), status, firstOf(oneLine(t.Detail), "-"))
}

const (
	attemptTitles = "ATTEMPT\tSTART\tDURATION\tOUTCOME\tSTATUS\tDETAIL"
	attemptTime   = "2006-01-02T15:04:05.000Z07:00"
)

func (a *app) eventExplain() *cobra.Command {
	cmd := &cobra.Command{Use: "explain [ID]", Short: "Tell why an event reached a handler or did not, clause by clause",
		Long: "Tell which clauses of an event subscription's filter an event passes, what each of them\nsaw, and what became of the delivery: attempts, the next one, the dead letter.\n\n" +
			"ID is the event's id, or its sequencer, which is found faster in a large log. With\n--file the event is read from a file, in the input schema of the source, and judged by\nthe present filter. Without --event-subscription every one of the source has its line.",
		Example: `  carillon event explain 98162289-5d3f-561c-b9eb-80b238ae64f7
  carillon event explain 98162289-5d3f-561c-b9eb-80b238ae64f7 --event-subscription failed-runs
  carillon event explain --file event.json --event-subscription erp --topic orders -o json`}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef(cmd, "%q takes one event at a time, found %q.", cmd.CommandPath(), args)
		}
		return nil
	}
	file := cmd.Flags().String("file", "", "File with the event, - for standard input.")
	name := cmd.Flags().String("event-subscription", "", "Event subscription, by name or full id; all of the source by default.")
	list := a.bySource(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-subscription", a.completeNames(offered(list)))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 0) == (*file == "") {
			return usagef(cmd, "Which event? Give its id, or --file FILE with the event itself; one of the two.")
		}
		base, err := list()
		if err != nil {
			return err
		}
		single := *name
		if single != "" {
			if single, err = eventSubscriptionAt(cmd, list, single); err != nil {
				return err
			}
		}
		body := map[string]any{}
		if *file != "" {
			if body["event"], err = a.eventIn(*file); err != nil {
				return err
			}
		} else {
			body["eventId"] = args[0]
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		done := a.waiting("Looking for the event in the log")
		defer done()
		if single == "" {
			return elsewhere(cmd, a.explainToAll(cmd.Context(), s, base, body))
		}
		raw, x, err := s.explain(cmd.Context(), strings.TrimRight(single, "/"), body)
		if err != nil {
			return elsewhere(cmd, err)
		}
		if a.output == "json" {
			return writeJSON(a.stdout, raw)
		}
		return a.printExplanation(x)
	}
	return cmd
}

// eventIn reads one event out of a file: an object, an array of one, or a line of
// event tail -o json.
func (a *app) eventIn(path string) (json.RawMessage, error) {
	raw, err := a.readAll(path)
	if err != nil {
		return nil, err
	}
	if path == "-" {
		path = "standard input"
	}
	raw = bytes.TrimSpace(raw)
	if !json.Valid(raw) {
		return nil, fault.New(fault.Invalid, "", "What %s holds is not JSON: it should be one event, as it would be published.", path)
	}
	events := splitEvents(raw)
	if len(events) != 1 {
		return nil, fault.New(fault.Invalid, "", "One event is taken at a time, and %s holds %s: put it into a file of its own.", path, count(len(events), "event"))
	}
	var line tailed
	if json.Unmarshal(events[0], &line) == nil && len(line.Event) > 0 && !line.PublishTime.IsZero() {
		return line.Event, nil
	}
	return events[0], nil
}

func (s *remote) explain(ctx context.Context, path string, body map[string]any) (json.RawMessage, *explanation, error) {
	raw, err := s.ask(ctx, http.MethodPost, path+arm.ExplainPath, body, nil)
	if err != nil {
		return nil, nil, err
	}
	x := &explanation{}
	if err := json.Unmarshal(raw, x); err != nil {
		return nil, nil, fmt.Errorf("the server's explanation cannot be read: %w", err)
	}
	return raw, x, nil
}

// explainToAll explains an event to every event subscription of a source. The event
// is searched for once: from then on its sequencer names it.
func (a *app) explainToAll(ctx context.Context, s *remote, base string, body map[string]any) error {
	all, err := s.all(ctx, base, pageSize())
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fault.New(fault.NotFound, "", "There is no event subscription on %s that could have got the event. Make one with carillon event-subscription create.", strings.TrimSuffix(base, eventSubscriptions))
	}
	answers := []json.RawMessage{}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for i, entry := range all {
		raw, x, err := s.explain(ctx, text(entry, "id"), body)
		if err != nil {
			return err
		}
		answers = append(answers, raw)
		if x.Sequencer != "" {
			body["eventId"] = x.Sequencer
		}
		if a.output == "json" {
			continue
		}
		if i == 0 {
			a.printEventOf(w, x)
			fmt.Fprintf(w, "\nEVENT SUBSCRIPTION\tWANTED\tDELIVERY\tWHY\n")
		}
		state, why := "-", "-"
		if x.Delivery != nil {
			state, why = x.Delivery.State, x.Delivery.Text
		}
		if !x.Matches && (x.Delivery == nil || x.Delivery.State == "notMatched") {
			why = x.firstRefusal()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", oneLine(text(entry, "name")), yesOrNo(x.Matches), state, oneLine(why))
	}
	if a.output == "json" {
		return writeJSON(a.stdout, joinArray(answers))
	}
	return w.Flush()
}

func (x *explanation) firstRefusal() string {
	for _, c := range x.Clauses {
		if c.Result == "refused" {
			return c.Text
		}
	}
	return "-"
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// printEventOf shows which event is explained.
func (a *app) printEventOf(w *tabwriter.Writer, x *explanation) {
	fmt.Fprintf(w, "Event type\t%s\n", cell(x.Event, eventView.eventType))
	fmt.Fprintf(w, "Subject\t%s\n", cell(x.Event, eventView.subject))
	fmt.Fprintf(w, "Event id\t%s\n", cell(x.Event, eventView.id))
	if x.Sequencer == "" {
		return
	}
	fmt.Fprintf(w, "Published\t%s\n", x.PublishTime.Format(time.RFC3339Nano))
	fmt.Fprintf(w, "Sequencer\t%s\n", oneLine(x.Sequencer))
	if x.SameID > 1 {
		fmt.Fprintf(w, "Note\tthe newest of %d events with this id\n", x.SameID)
	}
}

// Verdicts as a table shows them.
var verdicts = map[string]string{"passed": "✓ passed", "refused": "✗ refused", "notSet": "- not set"}

func (a *app) printExplanation(x *explanation) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	a.printEventOf(w, x)
	fmt.Fprintf(w, "Event subscription\t%s\n", oneLine(x.EventSubscription))
	switch {
	case x.Delivery == nil, x.Delivery.State == "notActive":
		fmt.Fprintf(w, "Filter\tthe present one\n")
	case x.Delivery.State == "beforeEventSubscription":
		fmt.Fprintf(w, "Filter\tgeneration %d, which began later\n", x.FilterGeneration)
	case x.FilterGeneration == 0:
		fmt.Fprintf(w, "Filter\tthe present one: what was in force then is not known any more\n")
	default:
		fmt.Fprintf(w, "Filter\tgeneration %d, in force when the event was logged\n", x.FilterGeneration)
	}
	fmt.Fprintf(w, "Wanted\t%s\n", yesOrNo(x.Matches))
	fmt.Fprintf(w, "\nCLAUSE\tRESULT\tASKS\tSAW\n")
	for _, c := range x.Clauses {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Clause, firstOf(verdicts[c.Result], c.Result), firstOf(cut(oneLine(c.Asks), widestAsks), "-"), firstOf(oneLine(c.Saw), "-"))
	}
	d := x.Delivery
	if d == nil {
		return w.Flush()
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\nDelivery: %s. %s\n", d.State, oneLine(d.Text))
	if d.DeadLetter != nil {
		fmt.Fprintf(a.stdout, "Dead letter %s, %s: carillon deadletter show %[1]s\n", oneLine(d.DeadLetter.ID), oneLine(d.DeadLetter.DeadLetterReason))
	}
	if !d.HistoryComplete {
		fmt.Fprintln(a.stdout, "Earlier attempts may be missing: the delivery history of that time is purged.")
	}
	if len(d.Attempts) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", attemptTitles)
	for _, t := range d.Attempts {
		fmt.Fprintln(w, t.cells())
	}
	return w.Flush()
}

// widestAsks is how many characters of what a clause asks for the table shows: a
// filter may list 25 values of 512. -o json has all of it.
const widestAsks = 60

// cut returns a text of at most so many characters, and says if it is not all.
func cut(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}
