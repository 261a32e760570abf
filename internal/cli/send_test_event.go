package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

func (a *app) eventSubscriptionTest(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "test", Short: "Send one test event to the handler and show what it answers",
		Long: "Send one event to the handler of an event subscription, and show request and answer. The\nevent is sent once, is in no log and counts nowhere; its header carillon-test says what it\nis. It is a sample of the first event type that the filter names, or of RunCompleted, or\nwhat --file holds, in the input schema of the source. The filter is not asked. The exit\ncode is 1 unless the handler took the event.",
		Example: `  carillon event-subscription test --name failed-runs
  carillon event-subscription test --name failed-runs --event-type Microsoft.MachineLearningServices.RunStatusChanged
  carillon event-subscription test --name failed-runs --file event.json -o json`}
	return a.testEventCommand(k, cmd, arm.TestEventPath)
}

// eventSubscriptionRender shows what a destination would be sent.
func (a *app) eventSubscriptionRender(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "render", Short: "Show what the handler would be sent of an event, and send nothing",
		Long: "Show what the destination of an event subscription would be sent of an event: the request\nor message, with what expressions make of it. The event is a sample of the first event type\nthat the filter names, or of RunCompleted, or what --file holds, in the input schema of the\nsource. Nothing is sent.",
		Example: `  carillon event-subscription render --name retrain
  carillon event-subscription render --name retrain --file drift.json -o json`}
	return a.testEventCommand(k, cmd, arm.RenderPath)
}

// testEventCommand makes a command that posts a test event to a path of an event
// subscription.
func (a *app) testEventCommand(k kind, cmd *cobra.Command, at string) *cobra.Command {
	file := cmd.Flags().String("file", "", "File with the event, - for standard input.")
	eventType := cmd.Flags().String("event-type", "", "Event type of the sample.")
	_ = cmd.RegisterFlagCompletionFunc("event-type", cobra.FixedCompletions(eventTypesToName(), cobra.ShellCompDirectiveNoFileComp))
	path := a.locator(cmd, k)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := path(args)
		if err != nil {
			return err
		}
		body := map[string]any{}
		switch {
		case *file != "" && *eventType != "":
			return usagef(cmd, "--file holds the event; --event-type asks for a sample. Give either.")
		case *file != "":
			if body["event"], err = a.eventIn(*file); err != nil {
				return err
			}
		case *eventType != "":
			body["eventType"] = *eventType
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		done := a.waiting("Waiting for the handler to answer")
		raw, err := s.ask(cmd.Context(), http.MethodPost, p+at, body, nil)
		done()
		if err != nil {
			return err
		}
		return a.printTestEvent(raw)
	}
	return cmd
}

func (a *app) printTestEvent(raw json.RawMessage) error {
	var sent struct {
		Request struct {
			Line    string
			Headers []struct{ Name, Value string }
			Body    json.RawMessage
		}
		Response *struct {
			Outcome, Detail, WouldBe string
			Status                   int
			DurationInMilliseconds   float64
			Delivered                bool
		}
	}
	if err := json.Unmarshal(raw, &sent); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	r := sent.Response
	if a.output == "json" {
		if err := writeJSON(a.stdout, raw); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.stdout, oneLine(sent.Request.Line))
		for _, h := range sent.Request.Headers {
			fmt.Fprintf(a.stdout, "%s: %s\n", oneLine(h.Name), oneLine(h.Value))
		}
		fmt.Fprintln(a.stdout)
		if err := writeJSON(a.stdout, sent.Request.Body); err != nil {
			return err
		}
		if r == nil {
			return nil
		}
		answer := "no answer"
		if r.Status != 0 {
			answer = strings.TrimSpace(fmt.Sprintf("%d %s", r.Status, http.StatusText(r.Status)))
		}
		fmt.Fprintf(a.stdout, "\n%s after %.1f ms, outcome %s\n", answer, r.DurationInMilliseconds, r.Outcome)
		if r.Detail != "" {
			fmt.Fprintf(a.stdout, "%s.\n", oneLine(r.Detail))
		}
		switch r.WouldBe {
		case "Retry":
			fmt.Fprintln(a.stdout, "A delivery with this answer would be tried again.")
		case "DeadLetter":
			fmt.Fprintln(a.stdout, "A delivery with this answer would be dead-lettered at once.")
		}
	}
	if r != nil && !r.Delivered {
		return errQuiet
	}
	return nil
}
