package cli

import "github.com/spf13/cobra"

// limitFlags are the flags that say what requests to a destination are kept to; the
// returned function adds what was given.
func limitFlags(cmd *cobra.Command) func(properties map[string]any) {
	perMinute := cmd.Flags().Int("max-requests-per-minute", 0, "Most requests in any minute, 1 to 6000000, a batch being one; 0 for no limit.")
	concurrency := cmd.Flags().Int("max-concurrency", 0, "Most requests at a time, 1 to 128; 0 for the default, 64.")
	return func(properties map[string]any) {
		limits := map[string]any{}
		if cmd.Flag("max-requests-per-minute").Changed {
			limits["maxRequestsPerMinute"] = *perMinute
		}
		if cmd.Flag("max-concurrency").Changed {
			limits["maxConcurrency"] = *concurrency
		}
		if len(limits) > 0 {
			properties["deliveryLimits"] = limits
		}
	}
}

// batchFlags are az's flags for output batching; the returned function gives the members
// of the webhook that change. Source: spec/management.md section 3.
func batchFlags(cmd *cobra.Command) func() map[string]any {
	events := cmd.Flags().Int("max-events-per-batch", 0, "Most events in one request, 1 to 5000; 1 for no batching.")
	size := cmd.Flags().Int("preferred-batch-size-in-kilobytes", 0, "Size that a request is filled up to, 1 to 1024; an event that is larger goes alone.")
	return func() map[string]any {
		changes := map[string]any{}
		if cmd.Flag("max-events-per-batch").Changed {
			changes["maxEventsPerBatch"] = *events
		}
		if cmd.Flag("preferred-batch-size-in-kilobytes").Changed {
			changes["preferredBatchSizeInKilobytes"] = *size
		}
		return changes
	}
}
