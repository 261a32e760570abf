package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

const (
	letterPoll  = 250 * time.Millisecond // between two rounds of questions
	letterRound = 100                    // letters of a round that are still on their way; the next goes on behind them
	letterGone  = 10 * time.Second       // without news, until the event subscriptions themselves are looked for
)

// stampLetters fills in when the chosen letters were dead-lettered, where no list told.
// One that is not there is the replay's to tell.
func (a *app) stampLetters(cmd *cobra.Command, chosen letters) error {
	for _, id := range chosen.ids {
		if _, known := chosen.given[id]; known {
			continue
		}
		letter, err := a.oneLetter(cmd, chosen, id)
		if err != nil {
			return err
		}
		if letter != nil {
			chosen.given[id] = text(letter, "deadLetterTime")
		}
	}
	return nil
}

// oneLetter reads a letter, nil when it is not there.
func (a *app) oneLetter(cmd *cobra.Command, chosen letters, id string) (json.RawMessage, error) {
	letter, err := a.byID(cmd, chosen.base, func(base string) (json.RawMessage, error) {
		return chosen.get(cmd.Context(), base+arm.DeadLettersPath+"/"+id)
	})
	if f, is := errors.AsType[*fault.Error](err); is && f.Code == "DeadLetterNotFound" {
		return nil, nil
	}
	return letter, err
}

// awaitLetters waits until the letter of each replay is gone, which is that it was
// delivered, or was stored anew, which is that it was given up again.
func (a *app) awaitLetters(cmd *cobra.Command, chosen letters, out *replayedLetters) error {
	waiting := slices.DeleteFunc(slices.Clone(chosen.ids), func(id string) bool {
		return slices.ContainsFunc(out.Failed, func(f replayedFailed) bool { return f.ID == id })
	})
	slices.Sort(waiting) // in the order of the log, as they are queued
	waiting = slices.Compact(waiting)
	out.Delivered, out.Again = new(int), new(int)
	bar, total, news := a.progress("Delivering"), len(waiting), time.Now()
	bar.lines = a.stderr
	defer bar.end()
	for {
		before := len(waiting)
		var of string // whose letter was met last
		for still, left := 0, before; left > 0 && still < letterRound; left-- {
			id := waiting[0]
			waiting = waiting[1:]
			letter, err := a.oneLetter(cmd, chosen, id)
			switch {
			case err != nil:
				return err
			case letter == nil:
				*out.Delivered++
			case text(letter, "deadLetterTime") != chosen.given[id]:
				*out.Again++
			default:
				waiting, of = append(waiting, id), text(letter, "eventSubscription")
				still++
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		bar.show(float64(total-len(waiting))/float64(total), uint64(total-len(waiting)))
		bar.line("%d of %d delivered, %d dead-lettered again.", *out.Delivered, total, *out.Again)
		if len(waiting) < before {
			news = time.Now()
		} else if time.Since(news) >= letterGone {
			news = time.Now()
			if _, err := chosen.get(cmd.Context(), of); fault.Is(err, fault.NotFound) {
				return fmt.Errorf("event subscription %s was deleted: %s will not be delivered", oneLine(of), count(len(waiting), "dead letter"))
			}
		}
		if err := rest(cmd.Context(), letterPoll); err != nil {
			return err
		}
	}
}

// scopeWords are the flags of the command that say where its dead letters are.
func scopeWords(cmd *cobra.Command) (words string) {
	for _, name := range append([]string{"event-subscription", "domain-topic", "workspace"}, sourceFlags...) {
		if f := cmd.Flag(name); f != nil && f.Changed {
			words += " --" + name + " " + shellWord(f.Value.String())
		}
	}
	return words
}
