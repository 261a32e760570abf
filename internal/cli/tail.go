package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

func (a *app) eventTail() *cobra.Command {
	cmd := &cobra.Command{Use: "tail", Short: "Show the events of a workspace or topic as they are logged", Args: noArguments,
		Long: "Show the events of a workspace or topic from now on, as they are logged, whether\nanything subscribes to them or not.",
		Example: `  carillon event tail
  carillon event tail --topic orders -o json
  carillon event tail --included-event-types Microsoft.MachineLearningServices.RunStatusChanged`}
	source := a.bySource(cmd)
	types := wordsFlag(cmd, "included-event-types", "TYPE...", "Show these event types only, several after another.")
	limit := cmd.Flags().Int("count", 0, "End after so many events; 0 goes on.")
	_ = cmd.RegisterFlagCompletionFunc("included-event-types", cobra.FixedCompletions(eventTypesToName(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := source()
		if err != nil {
			return err
		}
		from := strings.TrimSuffix(list, eventSubscriptions)
		s, err := a.connect()
		if err != nil {
			return err
		}
		stream, err := s.Stream(cmd.Context(), from+arm.LiveEventsPath, nil)
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }()
		if a.output != "json" && terminal(a.stderr) {
			fmt.Fprintf(a.stderr, "watching %s\n", from)
		}
		return a.follow(cmd.Context(), stream, types.list(), *limit)
	}
	return cmd
}

// tailed is one line of a live stream of events.
type tailed struct {
	Event       json.RawMessage `json:"event"`
	PublishTime time.Time       `json:"publishTime"`
	Missed      uint64          `json:"missed"` // events left out before this one because the reader was slow
}

// follow prints the events of a stream until it or ctx ends, or limit is reached.
func (a *app) follow(ctx context.Context, stream io.Reader, types []string, limit int) error {
	lines := bufio.NewReaderSize(stream, 64<<10)
	p := a.painter()
	for shown := 0; limit == 0 || shown < limit; {
		line, err := lines.ReadBytes('\n')
		if len(strings.TrimSpace(string(line))) > 0 {
			var t tailed
			if jerr := json.Unmarshal(line, &t); jerr != nil {
				return fmt.Errorf("the stream of events holds what is not JSON: %w", jerr)
			}
			if t.Missed > 0 {
				fmt.Fprintf(a.stderr, "%s missed: this reader was too slow\n", count(int(t.Missed), "event"))
			}
			if wanted(types, text(t.Event, eventView.eventType)) && len(t.Event) > 0 {
				a.printTailed(p, line, t)
				shown++
			}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil // the user ended it
		case errors.Is(err, io.EOF):
			return fault.New(fault.Unavailable, "StreamEnded", "The server ended the stream. Start it again to go on from now.")
		default:
			return fault.New(fault.Unavailable, "StreamEnded", "The stream of events broke off. Start it again to go on from now.").Because(err)
		}
	}
	return nil
}

func (a *app) printTailed(p paint, line []byte, t tailed) {
	if a.output == "json" {
		fmt.Fprintf(a.stdout, "%s\n", strings.TrimSpace(string(line)))
		return
	}
	printEvent(a.stdout, p, t.PublishTime.Local(), t.Event)
	fmt.Fprintln(a.stdout)
}

func wanted(types []string, eventType string) bool {
	return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool {
		return strings.EqualFold(t, "All") || strings.EqualFold(t, eventType)
	})
}
