package cli

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

func (a *app) eventSubscriptionPause(k kind) *cobra.Command {
	return a.actionCommand(k, arm.PausePath, &cobra.Command{Use: "pause", Short: "Stop delivery until it is resumed; nothing is lost",
		Long:    "Stop delivery until it is resumed. Events go on being matched and wait in the log; none is\ngiven up meanwhile, and attempts under way end as they do. What waits keeps the log from\nbeing purged. Neither create nor update resumes.",
		Example: `  carillon event-subscription pause --name failed-runs`})
}

func (a *app) eventSubscriptionResume(k kind) *cobra.Command {
	return a.actionCommand(k, arm.ResumePath, &cobra.Command{Use: "resume", Short: "Let delivery go on after a pause",
		Long:    "Let delivery go on after a pause. Every event that waited is attempted, also one whose\ntime-to-live is over by now, and a destination that rested is tried at once.",
		Example: `  carillon event-subscription resume --name failed-runs`})
}

// actionCommand posts to an action of a resource and shows the resource as it is then.
func (a *app) actionCommand(k kind, action string, cmd *cobra.Command) *cobra.Command {
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		raw, err := s.ask(cmd.Context(), http.MethodPost, p+action, nil, nil)
		if err != nil {
			return err
		}
		return a.show(k.view, raw)
	})
}
