package cli

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/filter"
)

// deliveryFlags are the flags of an event subscription that say where and how its
// events are delivered. Source: spec/management.md sections 3 and 5.5.
func deliveryFlags(cmd *cobra.Command) func(properties map[string]any) error {
	f := cmd.Flags()
	endpoint := f.String("endpoint", "", "Where events go: a URL for webhooks, a full resource id for others.")
	endpointType := f.String("endpoint-type", "webhook", "Kind of destination: "+strings.Join(endpointTypes(), ", ")+".")
	schema := f.String("event-delivery-schema", "", "Envelope of deliveries: EventGridSchema, CustomInputSchema or CloudEventSchemaV1_0.")
	attempts := f.Int("max-delivery-attempts", 0, "Most delivery attempts of one event, 1 to 30.")
	life := f.Int("event-ttl", 0, "Minutes after which an event is no longer tried, 1 to 1440.")
	expiration := f.String("expiration-date", "", "When the event subscription ends: a date, or RFC 3339.")
	labels := wordsFlag(cmd, "labels", "LABEL...", "Labels, several after another; none removes them.")
	_ = cmd.RegisterFlagCompletionFunc("event-delivery-schema",
		cobra.FixedCompletions([]string{"EventGridSchema", "CloudEventSchemaV1_0"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("endpoint-type", cobra.FixedCompletions(endpointTypes(), cobra.ShellCompDirectiveNoFileComp))
	return func(properties map[string]any) error {
		if *endpoint != "" {
			to, err := destination(cmd, *endpointType, *endpoint)
			if err != nil {
				return err
			}
			properties["destination"] = to
		} else if cmd.Flag("endpoint-type").Changed {
			return usagef(cmd, "--endpoint-type needs --endpoint.")
		}
		if *schema != "" {
			word, err := oneOf(cmd, "event-delivery-schema", *schema, "EventGridSchema", "CustomInputSchema", "CloudEventSchemaV1_0")
			if err != nil {
				return err
			}
			properties["eventDeliverySchema"] = word
		}
		policy := map[string]any{}
		if cmd.Flag("max-delivery-attempts").Changed {
			policy["maxDeliveryAttempts"] = *attempts
		}
		if cmd.Flag("event-ttl").Changed {
			policy["eventTimeToLiveInMinutes"] = *life
		}
		if len(policy) > 0 {
			properties["retryPolicy"] = policy
		}
		if *expiration != "" {
			at, err := instant(cmd, "expiration-date", *expiration)
			if err != nil {
				return err
			}
			properties["expirationTimeUtc"] = at
		}
		if labels.given() {
			properties["labels"] = labels.list()
		}
		return nil
	}
}

// destinations are az's words for endpoint types and the API's.
var destinations = []struct{ word, endpointType string }{
	{"webhook", "WebHook"}, {"azurefunction", "AzureFunction"}, {"eventhub", "EventHub"}, {"storagequeue", "StorageQueue"},
	{"hybridconnection", "HybridConnection"}, {"servicebusqueue", "ServiceBusQueue"}, {"servicebustopic", "ServiceBusTopic"},
}

func endpointTypes() []string {
	words := make([]string, len(destinations))
	for i, d := range destinations {
		words[i] = d.word
	}
	return words
}

// destination makes the body of a destination out of az's two flags; a storage
// queue is named by one id there and by two members here.
// Source: spec/management.md sections 3 and 5.6.
func destination(cmd *cobra.Command, word, endpoint string) (map[string]any, error) {
	word, err := oneOf(cmd, "endpoint-type", word, endpointTypes()...)
	if err != nil {
		return nil, err
	}
	properties := map[string]any{"resourceId": endpoint}
	switch word {
	case "webhook":
		properties = map[string]any{"endpointUrl": endpoint}
	case "storagequeue":
		account, queue, ok := cutFold(endpoint, "/queueservices/default/queues/")
		if !ok {
			return nil, usagef(cmd, "--endpoint of a storagequeue is {account id}/queueServices/default/queues/{queue}, not %q.", endpoint)
		}
		properties = map[string]any{"resourceId": account, "queueName": queue}
	}
	for _, d := range destinations {
		if d.word == word {
			word = d.endpointType
		}
	}
	return map[string]any{"endpointType": word, "properties": properties}, nil
}

// cutFold is strings.Cut ignoring the case of ASCII letters.
func cutFold(s, sep string) (before, after string, found bool) {
	for i := 0; i+len(sep) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(sep)], sep) {
			return s[:i], s[i+len(sep):], true
		}
	}
	return s, "", false
}

// filterFlags are the flags of an event subscription that say which events it
// gets. Source: spec/filtering.md section 7.
func filterFlags(cmd *cobra.Command) func(body map[string]any) error {
	types := wordsFlag(cmd, "included-event-types", "TYPE...", `Event types, several after another; "All" for every type.`)
	advanced := wordsFlag(cmd, "advanced-filter", "KEY OPERATOR VALUE...", "A condition, e.g. data.runStatus StringIn Failed; may be repeated, all must hold.")
	f := cmd.Flags()
	f.String("subject-begins-with", "", "What the subject must begin with.")
	f.String("subject-ends-with", "", "What the subject must end with.")
	sensitive := f.Bool("subject-case-sensitive", false, "Compare the subject by case.")
	arrays := f.Bool("enable-advanced-filtering-on-arrays", false, "Let conditions look inside array values.")
	_ = cmd.RegisterFlagCompletionFunc("included-event-types", cobra.FixedCompletions(machineLearningEventTypes, cobra.ShellCompDirectiveNoFileComp))
	return func(body map[string]any) error {
		if types.given() {
			body["includedEventTypes"] = nil
			if list := types.list(); len(list) > 0 && !(len(list) == 1 && strings.EqualFold(list[0], "All")) {
				body["includedEventTypes"] = list
			}
		}
		setText(cmd, body, map[string]string{"subject-begins-with": "subjectBeginsWith", "subject-ends-with": "subjectEndsWith"})
		if cmd.Flag("subject-case-sensitive").Changed {
			body["isSubjectCaseSensitive"] = *sensitive
		}
		if cmd.Flag("enable-advanced-filtering-on-arrays").Changed {
			body["enableAdvancedFilteringOnArrays"] = *arrays
		}
		if !advanced.given() {
			return nil
		}
		conditions := []any{}
		for _, group := range advanced.groups {
			if len(group) == 0 && len(advanced.groups) == 1 {
				break // --advanced-filter alone removes all conditions
			}
			condition, err := filter.ParseCLI(group)
			if err != nil {
				return usagef(cmd, "%s", message(err))
			}
			conditions = append(conditions, json.RawMessage(condition))
		}
		body["advancedFilters"] = conditions
		return nil
	}
}

// machineLearningEventTypes are what a workspace raises.
// Source: spec/events.md section 4.2.
var machineLearningEventTypes = []string{
	"Microsoft.MachineLearningServices.RunCompleted",
	"Microsoft.MachineLearningServices.RunStatusChanged",
	"Microsoft.MachineLearningServices.ModelRegistered",
	"Microsoft.MachineLearningServices.ModelDeployed",
	"Microsoft.MachineLearningServices.DatasetDriftDetected",
}

// instant reads a date or a time and writes it the way the API does: RFC 3339, UTC.
func instant(cmd *cobra.Command, flag, value string) (string, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if at, err := time.ParseInLocation(layout, value, time.UTC); err == nil {
			return at.UTC().Format(time.RFC3339Nano), nil
		}
	}
	return "", usagef(cmd, "--%s %q is neither a date (2026-03-02) nor a time (2026-03-02T12:00:00Z).", flag, value)
}
