package cli

import (
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

var deliveryStatusView = view{
	columns: []column{{"Name", "name"}, {"State", "properties.provisioningState"}},
	detail: []column{
		{"Open deliveries", "properties.openDeliveries"}, {"Waiting for retry", "properties.waitingForRetry"}, {"Attempts in flight", "properties.inFlight"}, {"Receivers that wait", "?properties.receivers"},
		{"Paused", "properties.paused"}, {"Lagging", "properties.lagging"}, {"Lags from", "?properties.lagPosition"},
		{"Destination rests", "properties.breakerOpen"}, {"Rests until", "?properties.breakerUntil"}, {"Waits for its limit", "?properties.waitsForLimit"},
		{"Counts", "=since the start of the server"}, {"Matched", "properties.matchedEvents"}, {"Delivered", "properties.deliveredEvents"}, {"Failed attempts", "properties.failedAttempts"},
		{"Dead-lettered", "properties.deadLetteredEvents"}, {"Dropped", "properties.droppedEvents"},
		{"Last warning", "?properties.lastWarning"}, {"Dead letters' store", "?properties.deadLetterStore"},
	},
}

func (a *app) eventSubscriptionStatus(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Tell how the deliveries of an event subscription stand",
		Long: "Tell how the deliveries of an event subscription stand: what is open, whether it lags, is\npaused or its destination rests, and what came of its events since the server started.",
		Example: `  carillon event-subscription status --name failed-runs
  carillon event-subscription status --name failed-runs -o json`}
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		status, err := s.get(cmd.Context(), p+arm.DeliveryStatusPath+"/default")
		if err != nil {
			return err
		}
		return a.show(deliveryStatusView, status)
	})
}
