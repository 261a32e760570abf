package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

var replayView = view{
	plural: "replays",
	columns: []column{{"Id", "name"}, {"State", "properties.state"}, {"From", "properties.from"}, {"To", "properties.to"},
		{"Matched", "properties.matchedEvents"}, {"Replayed", "properties.replayedEvents"}},
	detail: []column{{"Examined", "properties.examinedEvents"}, {"On their way already", "properties.skippedEvents"},
		{"Frames purged before", "properties.missedFrames"}, {"Rate", "properties.rate"}, {"By", "properties.by"},
		{"Created", "properties.created"}, {"Ended", "properties.ended"}},
}

// countView shows a dry run.
var countView = view{columns: []column{{"Would be replayed", "properties.matchedEvents"}, {"Of the topic's events", "properties.examinedEvents"},
	{"From", "properties.from"}, {"To", "properties.to"}, {"Frames purged", "properties.missedFrames"}}}

// replaySource adds the flags that name the event subscription a replay is for; the
// returned function gives the path of its replays.
func (a *app) replaySource(cmd *cobra.Command) func() (string, error) {
	name := cmd.Flags().String("event-subscription", "", "Event subscription that the events go to, by name or full id.")
	source := a.bySource(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-subscription", a.completeNames(offered(source)))
	return func() (string, error) {
		if err := required(cmd, "event-subscription"); err != nil {
			return "", err
		}
		at, err := eventSubscriptionAt(cmd, source, *name)
		return at + arm.ReplaysPath, err
	}
}

func (a *app) eventReplay() *cobra.Command {
	cmd := &cobra.Command{Use: "replay", Short: "Deliver past events of the log again, to one event subscription", Args: noArguments,
		Long: "Deliver the events that were logged in a range of time once more to one event\nsubscription: each as a new delivery with the id, etag and sequencer it always had. Only\nwhat its filter wants is replayed; the flags of a filter narrow that further.\n\n" +
			"The server does it, in the background: it goes on when this command is interrupted, and\nafter a restart, where at most the last second is repeated. History that is purged before\nthe replay comes to it is counted as missed.",
		Example: `  carillon event replay --event-subscription failed-runs --from 2026-03-01 --to 2026-03-02 --dry-run
  carillon event replay --event-subscription failed-runs --from 2h --rate 50
  carillon event replays list --event-subscription failed-runs
  carillon event replays cancel ID --event-subscription failed-runs`}
	path := a.replaySource(cmd)
	filters := filterFlags(cmd)
	f := cmd.Flags()
	from := f.String("from", "", "Time of logging from which on events are replayed: a time, a date, or how long ago, such as 90m or 30d.")
	to := f.String("to", "", "Time of logging before which they are; now by default.")
	rate := f.Float64("rate", 0, "Most events a second; as fast as the handler takes them by default.")
	dry := f.Bool("dry-run", false, "Count what would be replayed, and replay nothing.")
	noWait := f.Bool("no-wait", false, "Do not wait until it is done.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := path()
		if err != nil {
			return err
		}
		if err := required(cmd, "from"); err != nil {
			return err
		}
		body := map[string]any{}
		if body["from"], err = ago(cmd, "from", *from); err != nil {
			return err
		}
		if *to != "" {
			if body["to"], err = ago(cmd, "to", *to); err != nil {
				return err
			}
		}
		if f.Changed("rate") {
			body["rate"] = *rate
		}
		if *dry {
			body["dryRun"] = true
		}
		filter := map[string]any{}
		if err := filters(filter); err != nil {
			return err
		}
		if len(filter) > 0 {
			body["filter"] = filter
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		done := a.waiting("Reading the log")
		replay, err := s.ask(cmd.Context(), http.MethodPost, p, body, nil)
		done()
		if err != nil {
			return err
		}
		switch {
		case *dry:
			return a.show(countView, replay)
		case *noWait:
			return a.show(replayView, replay)
		}
		return a.awaitReplay(cmd, s, p+"/"+text(replay, "name"))
	}
	return cmd
}

func (a *app) eventReplays() *cobra.Command {
	return group("replays", "Replays of the log: how far they are, and an end to them",
		`  carillon event replays list --event-subscription failed-runs`,
		a.eventReplaysList(), a.eventReplaysShow(), a.eventReplaysCancel())
}

// replayPoll is how often a replay is asked how far it is.
const replayPoll = 250 * time.Millisecond

// awaitReplay shows how far a replay is until it has ended.
func (a *app) awaitReplay(cmd *cobra.Command, s *remote, path string) error {
	bar := a.progress("Replaying")
	defer bar.end()
	for {
		replay, err := s.get(cmd.Context(), path)
		if err == nil && text(replay, "properties.state") != "running" {
			bar.end()
			return a.show(replayView, replay)
		}
		if err == nil {
			var p struct {
				Properties struct {
					Progress float64
					Replayed uint64 `json:"replayedEvents"`
				}
			}
			if err := json.Unmarshal(replay, &p); err != nil {
				return fmt.Errorf("read the replay: %w", err)
			}
			bar.show(p.Properties.Progress, p.Properties.Replayed)
			err = rest(cmd.Context(), replayPoll)
		}
		if errors.Is(err, context.Canceled) {
			bar.end()
			fmt.Fprintf(a.stderr, "The server goes on with it. Cancel it with: carillon event replays cancel %s\n", path[strings.LastIndexByte(path, '/')+1:])
		}
		if err != nil {
			return err
		}
	}
}

func (a *app) eventReplaysList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the replays to an event subscription", Args: noArguments,
		Example: `  carillon event replays list --event-subscription failed-runs`}
	path := a.replaySource(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := path()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		replays, err := s.all(cmd.Context(), p, pageSize())
		if err != nil {
			return err
		}
		return a.list(replayView, replays)
	}
	return cmd
}

// oneReplay is a command about one replay.
func (a *app) oneReplay(cmd *cobra.Command, do func(cmd *cobra.Command, s *remote, path string) error) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef(cmd, "%q takes one argument: the replay's id.", cmd.CommandPath())
		}
		return segment(cmd, "replay", args[0])
	}
	path := a.replaySource(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := path()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		return do(cmd, s, p+"/"+args[0])
	}
	return cmd
}

func (a *app) eventReplaysShow() *cobra.Command {
	return a.oneReplay(&cobra.Command{Use: "show ID", Short: "Show how far a replay is", Example: `  carillon event replays show ID --event-subscription failed-runs`},
		func(cmd *cobra.Command, s *remote, path string) error {
			replay, err := s.get(cmd.Context(), path)
			if err != nil {
				return err
			}
			return a.show(replayView, replay)
		})
}

func (a *app) eventReplaysCancel() *cobra.Command {
	return a.oneReplay(&cobra.Command{Use: "cancel ID", Short: "End a replay; what is on its way stays on its way", Example: `  carillon event replays cancel ID --event-subscription failed-runs`},
		func(cmd *cobra.Command, s *remote, path string) error {
			if _, err := s.ask(cmd.Context(), http.MethodDelete, path, nil, nil); err != nil {
				return err
			}
			replay, err := s.get(cmd.Context(), path)
			if err != nil {
				return err
			}
			switch state := text(replay, "properties.state"); {
			case state != "canceled":
				fmt.Fprintf(a.stderr, "The replay had ended before: %s.\n", state)
			case a.output != "json":
				fmt.Fprintln(a.stdout, "Canceled.")
			}
			return nil
		})
}
