package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

// deadLetterView shows a dead letter; its members are those of the documented
// dead-letter event. Source: spec/delivery.md section 7.4.
var deadLetterView = view{
	plural: "dead letters",
	columns: []column{{"Id", "id"}, {"Event subscription", "eventSubscription/"}, {"Event type", "event.eventType|event.type"}, {"Reason", "deadLetterReason"},
		{"Attempts", "deliveryAttempts"}, {"Last outcome", "lastDeliveryOutcome"}, {"Last attempt", "lastDeliveryAttemptTime"}},
	detail: []column{{"Event subscription id", "eventSubscription"}, {"Published", "publishTime"}, {"Subject", "event.subject"},
		{"Given up", "deadLetterTime"}, {"Event id", "event.id"}, {"Data", "event.data"}},
}

func (a *app) deadLetterCommand() *cobra.Command {
	cmd := group("deadletter", "Dead letters: events that could not be delivered, kept until they are replayed",
		`  carillon deadletter list
  carillon deadletter replay --event-subscription failed-runs`,
		a.deadLetterList(), a.deadLetterShow(), a.deadLetterReplay(), a.deadLetterDelete())
	cmd.Aliases = []string{"dead-letter"}
	return cmd
}

// deadLetterScope names the event subscription whose dead letters are meant, or
// all of a source.
func (a *app) deadLetterScope(cmd *cobra.Command) (name *string, path func() (string, error)) {
	name = cmd.Flags().String("event-subscription", "", "Event subscription, by name or full id.")
	source := a.bySource(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-subscription", a.completeNames(offered(source)))
	return name, func() (string, error) {
		if *name != "" {
			return eventSubscriptionAt(cmd, source, *name)
		}
		base, err := source()
		return strings.TrimSuffix(base, eventSubscriptions), err
	}
}

// anywhere asks about dead letters anywhere in the subscription, or below base when
// the flags name a place or the caller may only read there.
func (a *app) anywhere(cmd *cobra.Command, base string, ask func(base string) error) error {
	if namesSource(cmd) || cmd.Flags().Changed("event-subscription") || cmd.Flags().Changed("workspace") {
		return elsewhere(cmd, ask(base))
	}
	var err error
	for _, at := range []string{a.subscriptionID(), a.groupID(), base} {
		if err = ask(at); !fault.Is(err, fault.Forbidden) {
			break
		}
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
  carillon deadletter list --topic orders --from 2h`}
	cmd.Use, cmd.Args = "list", noArguments
	cmd.Short = "List dead letters"
	cmd.Long = "List dead letters in the order they were given up: all of the subscription or, where\nyou may not read those, of the resource group, else of the workspace. Flags name one source or one event\nsubscription, or say which."
	_, path := a.deadLetterScope(cmd)
	filter := a.deadLetterFilter(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		base, err := path()
		if err != nil {
			return err
		}
		query, err := filter()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		letters := []json.RawMessage{}
		_, err = a.eachLetter(cmd, s, base, query, func() { letters = letters[:0] }, func(letter json.RawMessage) { letters = append(letters, letter) })
		if err != nil {
			return err
		}
		return a.list(deadLetterView, letters)
	}
	return cmd
}

// eachLetter reads the dead letters at or below base that a query is about; begin is
// called before the first of each try. Those of an event subscription that was deleted
// are found where it was. It returns where they were found.
func (a *app) eachLetter(cmd *cobra.Command, s *remote, base string, query url.Values, begin func(), each func(json.RawMessage)) (string, error) {
	found := 0
	ask := func(at string) error {
		begin()
		base, found = at, 0
		for letter, err := range s.List(cmd.Context(), at+arm.DeadLettersPath, query) {
			if err != nil {
				return err
			}
			found++
			each(letter)
		}
		return nil
	}
	err := a.anywhere(cmd, base, ask)
	source, name, one := strings.Cut(base, eventSubscriptions+"/")
	if !one || !fault.Is(err, fault.NotFound) || strings.ContainsAny(name, "/'") {
		return base, err
	}
	gone := base
	query = maps.Clone(query)
	query.Set("$filter", "eventSubscription eq '"+gone+"'")
	again := ask(source)
	if fault.Is(again, fault.NotFound) { // and so is its source
		again = ask(a.subscriptionID())
	}
	if again != nil || found == 0 {
		begin()
		return gone, err
	}
	fmt.Fprintf(a.stderr, "Event subscription %s was deleted: these are the dead letters it left.\n", oneLine(name))
	return base, nil
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

// deadLetterFilter adds the flags that say which dead letters are meant; the query
// asks the API for them.
func (a *app) deadLetterFilter(cmd *cobra.Command) func() (url.Values, error) {
	f := cmd.Flags()
	for _, flag := range letterFlags {
		f.String(flag.name, "", flag.usage)
	}
	return func() (url.Values, error) {
		query := pageSize()
		for _, flag := range letterFlags {
			value := f.Lookup(flag.name).Value.String()
			if value == "" {
				continue
			}
			if flag.time {
				at, err := ago(cmd, flag.name, value)
				if err != nil {
					return nil, err
				}
				value = at
			}
			query.Set(flag.parameter, value)
		}
		return query, nil
	}
}

var letterFlags = []struct {
	name, parameter, usage string
	time                   bool
}{
	{"reason", "reason", "Only those given up for a reason, such as MaxDeliveryAttemptsExceeded.", false},
	{"outcome", "outcome", "Only those whose last attempt ended so, such as TimedOut.", false},
	{"event-type", "eventType", "Only those of an event type.", false},
	{"subject-begins-with", "subjectBeginsWith", "Only those whose subject begins so.", false},
	{"from", "from", "Only those given up at this time or later: a time, a date, or how long ago, such as 90m or 30d.", true},
	{"to", "to", "Only those given up before this time.", true},
}

// filtered reports whether a flag says which dead letters are meant.
func filtered(cmd *cobra.Command) bool {
	for _, flag := range letterFlags {
		if cmd.Flags().Changed(flag.name) {
			return true
		}
	}
	return false
}

// letters are dead letters that a command is about, and where they are reached.
type letters struct {
	*remote
	ids   []string
	base  string
	given map[string]string // when those of a list were dead-lettered, by id
}

// letterChoice adds the flags that say which dead letters a command is about, beside
// ids as its arguments. The returned function finds them.
func (a *app) letterChoice(cmd *cobra.Command) func(cmd *cobra.Command, args []string) (letters, error) {
	name, path := a.deadLetterScope(cmd)
	filter := a.deadLetterFilter(cmd)
	return func(cmd *cobra.Command, args []string) (chosen letters, err error) {
		narrowed := *name != "" || filtered(cmd)
		if len(args) > 0 && narrowed || len(args) == 0 && !narrowed && !namesSource(cmd) {
			return chosen, usagef(cmd, "Which ones? Give ids, or --event-subscription for all of one, or flags that say which.")
		}
		for _, id := range args {
			if err := segment(cmd, "dead letter", id); err != nil {
				return chosen, err
			}
		}
		if chosen.base, err = path(); err != nil {
			return chosen, err
		}
		query, err := filter()
		if err != nil {
			return chosen, err
		}
		if chosen.remote, err = a.connect(); err != nil {
			return chosen, err
		}
		chosen.given = map[string]string{}
		if chosen.ids = args; len(args) > 0 {
			return chosen, nil
		}
		chosen.base, err = a.eachLetter(cmd, chosen.remote, chosen.base, query, func() { chosen.ids = nil }, func(letter json.RawMessage) {
			id := text(letter, "id")
			chosen.ids = append(chosen.ids, id)
			chosen.given[id] = text(letter, "deadLetterTime")
		})
		return chosen, err
	}
}

func (a *app) deadLetterReplay() *cobra.Command {
	cmd := &cobra.Command{Use: "replay [ID…]", Short: "Deliver dead letters again", Args: cobra.ArbitraryArgs,
		Long: "Deliver dead letters again, each as a new delivery with the id, etag and sequencer that\nthe event always had. A dead letter goes when its replay is delivered; it stays when that\nfails again. Name them by id, or by flags: all that fit are replayed.\nThe handler is waited for with --wait alone: deadletter list shows what is left.\n\nInterrupted, it leaves the rest as they are: the same command goes on with them.",
		Example: `  carillon deadletter replay ID
  carillon deadletter replay --event-subscription failed-runs --wait
  carillon deadletter replay --event-subscription failed-runs --outcome TimedOut --from 2026-03-01 --rate 50`}
	choose := a.letterChoice(cmd)
	rate := cmd.Flags().Float64("rate", 0, "Most dead letters a second; as fast as the handler takes them by default.")
	wait := cmd.Flags().Bool("wait", false, "Wait until each is delivered or dead-lettered again; exit code 1 if one was dead-lettered again.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *rate < 0 || cmd.Flags().Changed("rate") && *rate == 0 {
			return usagef(cmd, "--rate %v is no rate: give how many a second, more than 0.", *rate)
		}
		chosen, err := choose(cmd, args)
		if err != nil {
			return err
		}
		if len(chosen.ids) == 0 {
			fmt.Fprintln(a.stderr, "No dead letters.")
		}
		if *wait {
			if err := a.stampLetters(cmd, chosen); err != nil {
				return err
			}
		}
		out, err := a.replayLetters(cmd, chosen, *rate)
		if err == nil && *wait {
			err = a.awaitLetters(cmd, chosen, &out)
		}
		if *wait && errors.Is(err, context.Canceled) {
			fmt.Fprintf(a.stderr, "The server goes on with what it replays. What is left is shown by: carillon deadletter list%s\n", scopeWords(cmd))
		}
		if err != nil {
			return err
		}
		raw, err := encodeJSON(out)
		if err != nil {
			return err
		}
		if err := a.show(replayedView(*wait), raw); err != nil {
			return err
		}
		for _, f := range out.Failed {
			fmt.Fprintf(a.stderr, "error: dead letter %s: %s\n", oneLine(f.ID), oneLine(f.Message))
		}
		if len(out.Failed) > 0 || out.Again != nil && *out.Again > 0 {
			return errQuiet
		}
		return nil
	}
	return cmd
}

// replayedView shows a replay, and what came of it where that was waited for.
func replayedView(waited bool) view {
	v := view{columns: []column{{"Replayed", "replayed"}}}
	if waited {
		v.columns = append(v.columns, column{"Delivered", "delivered"}, column{"Dead-lettered again", "deadLetteredAgain"})
	}
	return v
}

// replayedLetters is what the API answers to a replay, and what came of it.
type replayedLetters struct {
	Replayed  int              `json:"replayed"`
	Delivered *int             `json:"delivered,omitempty"` // nil = nobody waited
	Again     *int             `json:"deadLetteredAgain,omitempty"`
	Failed    []replayedFailed `json:"failed,omitempty"`
}

type replayedFailed struct {
	ID      string `json:"id"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

const (
	replayChunk = 100             // ids of one request
	replayWait  = 2 * time.Second // while an event subscription has as many open deliveries as it may
	replayTries = 10              // of a letter that is just being stored
)

// replayLetters replays letters chunk by chunk. Those that the event subscription
// has no room for yet are asked for again.
func (a *app) replayLetters(cmd *cobra.Command, chosen letters, rate float64) (out replayedLetters, err error) {
	bar := a.progress("Replaying")
	defer bar.end()
	chunk := replayChunk
	if rate > 0 {
		chunk = int(min(max(rate/4, 1), replayChunk))
	}
	ids := chosen.ids
	total, busy := len(ids), map[string]int{}
	next := time.Now()
	for len(ids) > 0 {
		if err := rest(cmd.Context(), max(time.Until(next), 0)); err != nil {
			return out, err
		}
		now := ids[:min(chunk, len(ids))]
		ids = ids[len(now):]
		if rate > 0 {
			next = laterTime(next, time.Now()).Add(time.Duration(float64(len(now)) / rate * float64(time.Second)))
		}
		var got replayedLetters
		err := a.anywhere(cmd, chosen.base, func(base string) error {
			raw, err := chosen.ask(cmd.Context(), http.MethodPost, base+arm.DeadLettersPath+"/replay", map[string]any{"ids": now}, nil)
			if err != nil {
				return err
			}
			return json.Unmarshal(raw, &got)
		})
		f, refused := errors.AsType[*fault.Error](err)
		if refused && len(now) > 0 && waits(f.Code) { // all of them
			for _, id := range now {
				got.Failed = append(got.Failed, replayedFailed{id, f.Code, f.Message})
			}
		} else if err != nil {
			return out, err
		}
		out.Replayed += got.Replayed
		for _, failed := range got.Failed {
			if busy[failed.ID]++; failed.Code == "TooManyOpenDeliveries" || waits(failed.Code) && busy[failed.ID] < replayTries {
				ids = append(ids, failed.ID)
				next = laterTime(next, time.Now().Add(replayWait))
				continue
			}
			out.Failed = append(out.Failed, failed)
		}
		bar.show(float64(out.Replayed+len(out.Failed))/float64(total), uint64(out.Replayed))
	}
	return out, nil
}

// waits reports whether a replay can succeed in a moment.
func waits(code string) bool {
	return code == "TooManyOpenDeliveries" || code == "DeadLetterInProgress"
}

func laterTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (a *app) deadLetterDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete [ID…]", Short: "Remove dead letters for good", Args: cobra.ArbitraryArgs,
		Long: "Remove dead letters for good: by id, or all that fit the flags. What was written to the\nstore of the event subscription stays there.",
		Example: `  carillon deadletter delete ID
  carillon deadletter delete --event-subscription failed-runs --to 2026-03-01`}
	choose := a.letterChoice(cmd)
	confirmed := a.confirmation(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		chosen, err := choose(cmd, args)
		if err != nil {
			return err
		}
		if len(chosen.ids) > 0 {
			if err := confirmed("Remove " + count(len(chosen.ids), "dead letter") + " for good?"); err != nil {
				return err
			}
		}
		bar := a.progress("Removing")
		defer bar.end()
		for i, id := range chosen.ids {
			_, err := a.byID(cmd, chosen.base, func(base string) (json.RawMessage, error) {
				return chosen.ask(cmd.Context(), http.MethodDelete, base+arm.DeadLettersPath+"/"+id, nil, nil)
			})
			if err != nil {
				return err
			}
			bar.show(float64(i+1)/float64(len(chosen.ids)), uint64(i+1))
		}
		bar.end()
		if a.output != "json" {
			fmt.Fprintf(a.stdout, "Removed %s.\n", count(len(chosen.ids), "dead letter"))
		}
		return nil
	}
	return cmd
}
