package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

// deadLetterView shows a dead letter; its members are those of the documented
// dead-letter event. Source: spec/delivery.md section 7.4.
var deadLetterView = view{
	plural: "dead letters",
	columns: []column{{"Id", "id"}, {"Event type", "event.eventType|event.type"}, {"Reason", "deadLetterReason"},
		{"Attempts", "deliveryAttempts"}, {"Last outcome", "lastDeliveryOutcome"}, {"Last attempt", "lastDeliveryAttemptTime"}},
	detail: []column{{"Event subscription", "eventSubscription"}, {"Published", "publishTime"}, {"Subject", "event.subject"},
		{"Event id", "event.id"}, {"Data", "event.data"}},
}

func (a *app) deadLetterCommand() *cobra.Command {
	cmd := group("deadletter", "Dead letters: events that could not be delivered, kept until they are replayed",
		`  carillon deadletter list
  carillon deadletter replay --event-subscription failed-runs`,
		a.deadLetterList(), a.deadLetterShow(), a.deadLetterReplay())
	cmd.Aliases = []string{"dead-letter"}
	return cmd
}

// deadLetterScope names the event subscription whose dead letters are meant, or
// all of a source.
func (a *app) deadLetterScope(cmd *cobra.Command) (name *string, path func() (string, error)) {
	name = cmd.Flags().String("event-subscription", "", "Name of the event subscription.")
	source := a.bySourceID(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-subscription", a.completeNames(func() string { return a.workspaceID() + eventSubscriptions }))
	return name, func() (string, error) {
		base, err := source()
		if err != nil || *name == "" {
			return strings.TrimSuffix(base, eventSubscriptions), err
		}
		return base + "/" + *name, segment(cmd, "event subscription", *name)
	}
}

// anywhere asks about dead letters anywhere in the subscription, or below base when
// the flags name a place or the caller may only read there.
func (a *app) anywhere(cmd *cobra.Command, base string, ask func(base string) error) error {
	for _, place := range []string{"source-resource-id", "event-subscription", "workspace"} {
		if cmd.Flags().Changed(place) {
			return ask(base)
		}
	}
	err := ask(a.subscriptionID())
	if fault.Is(err, fault.Forbidden) {
		return ask(base)
	}
	return err
}

// byID is anywhere for dead letters that are named by id.
func (a *app) byID(cmd *cobra.Command, base string, ask func(base string) (json.RawMessage, error)) (out json.RawMessage, err error) {
	err = a.anywhere(cmd, base, func(base string) (err error) {
		out, err = ask(base)
		return err
	})
	return out, err
}

func (a *app) deadLetterList() *cobra.Command {
	cmd := &cobra.Command{Example: `  carillon deadletter list
  carillon deadletter list --event-subscription failed-runs -o json
  carillon deadletter list --source-resource-id "$(carillon topic show orders -o json | jq -r .id)"`}
	cmd.Use, cmd.Args = "list", noArguments
	cmd.Short = "List dead letters"
	cmd.Long = "List dead letters: all that you may read, or those of one source or one event\nsubscription."
	_, path := a.deadLetterScope(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		base, err := path()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		var letters []json.RawMessage
		err = a.anywhere(cmd, base, func(base string) (err error) {
			letters, err = s.all(cmd.Context(), base+arm.DeadLettersPath, pageSize())
			return err
		})
		if err != nil {
			return err
		}
		return a.list(deadLetterView, letters)
	}
	return cmd
}

func (a *app) deadLetterShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show one dead letter", Example: `  carillon deadletter show ID
  carillon deadletter show ID -o json`}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef(cmd, "%q takes one argument: the dead letter's id.", cmd.CommandPath())
		}
		return segment(cmd, "dead letter", args[0])
	}
	_, path := a.deadLetterScope(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		base, err := path()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		letter, err := a.byID(cmd, base, func(base string) (json.RawMessage, error) {
			return s.get(cmd.Context(), base+arm.DeadLettersPath+"/"+args[0])
		})
		if err != nil {
			return err
		}
		return a.show(deadLetterView, letter)
	}
	return cmd
}

func (a *app) deadLetterReplay() *cobra.Command {
	cmd := &cobra.Command{Use: "replay [ID…]", Short: "Deliver dead letters again", Args: cobra.ArbitraryArgs, Example: `  carillon deadletter replay ID
  carillon deadletter replay --event-subscription failed-runs`}
	name, path := a.deadLetterScope(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 0) == (*name == "") {
			return usagef(cmd, "Which ones? Give ids, or --event-subscription for all of one.")
		}
		base, err := path()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		body := map[string]any{}
		if len(args) > 0 {
			body["ids"] = args
		}
		replayed, err := a.byID(cmd, base, func(base string) (json.RawMessage, error) {
			return s.ask(cmd.Context(), http.MethodPost, base+arm.DeadLettersPath+"/replay", body, nil)
		})
		if err != nil {
			return err
		}
		if err := a.show(view{columns: []column{{"Replayed", "replayed"}}}, replayed); err != nil {
			return err
		}
		failed, _ := member(replayed, "failed").([]any)
		for _, entry := range failed {
			f, _ := entry.(map[string]any)
			fmt.Fprintf(a.stderr, "error: dead letter %s: %s\n", plain(f["id"]), plain(f["message"]))
		}
		if len(failed) > 0 {
			return errQuiet
		}
		return nil
	}
	return cmd
}
