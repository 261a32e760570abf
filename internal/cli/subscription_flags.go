package cli

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// deliveryFlags are the flags of an event subscription that say where and how its
// events are delivered. Source: spec/management.md sections 3 and 5.5.
func (a *app) deliveryFlags(cmd *cobra.Command) func(properties map[string]any) error {
	f := cmd.Flags()
	endpoint := f.String("endpoint", "", "Where events go: a URL for webhooks and Carillon's own kinds, a full resource id for those of Azure.")
	endpointType := f.String("endpoint-type", "webhook", "Kind of destination: "+strings.Join(endpointTypes(), ", ")+"; see carillon destination list.")
	settings := a.endpointSettings(cmd)
	schema := f.String("event-delivery-schema", "", "Envelope of deliveries: EventGridSchema, CustomInputSchema or CloudEventSchemaV1_0.")
	attempts := f.Int("max-delivery-attempts", 0, "Most delivery attempts of one event, 1 to 30.")
	life := f.Int("event-ttl", 0, "Minutes after which an event is no longer tried, 1 to 1440.")
	expiration := f.String("expiration-date", "", "When the event subscription ends: a date, or RFC 3339; \"\" for never.")
	letters, limits, batch := deadLetterFlags(cmd), limitFlags(cmd), batchFlags(cmd)
	labels := wordsFlag(cmd, "labels", "LABEL...", "Labels, several after another; none removes them.")
	attributes, signing := attributeFlag(cmd), a.signingFlags(cmd)
	application, issuer, certificate := applicationFlags(cmd), a.tokenIssuerFlags(cmd), a.clientCertificateFlags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-delivery-schema",
		cobra.FixedCompletions([]string{"EventGridSchema", "CustomInputSchema", "CloudEventSchemaV1_0"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("endpoint-type", cobra.FixedCompletions(endpointTypes(), cobra.ShellCompDirectiveNoFileComp))
	return func(properties map[string]any) error {
		if *endpoint != "" {
			if strings.EqualFold(*endpointType, resource.DestinationPull) {
				return usagef(cmd, "--endpoint-type pull has no --endpoint: receivers ask for the events.")
			}
			to, err := destinationFlags(cmd, *endpointType, *endpoint)
			if err != nil {
				return err
			}
			properties["destination"] = to
		} else if kind := resource.KindOf(*endpointType); kind != nil && !kind.Fields[0].Required {
			properties["destination"] = map[string]any{"endpointType": kind.Name, "properties": map[string]any{}}
		} else if cmd.Flag("endpoint-type").Changed {
			return usagef(cmd, "--endpoint-type needs --endpoint.")
		}
		webhook := func(member string, value any) {
			to, _ := properties["destination"].(map[string]any)
			if to == nil { // an update, which completes it by what is there
				to = map[string]any{"properties": map[string]any{}}
				properties["destination"] = to
			}
			to["properties"].(map[string]any)[member] = value
		}
		given, err := settings(*endpointType)
		if err != nil {
			return err
		}
		for member, value := range given {
			webhook(member, value)
		}
		for member, value := range batch() {
			webhook(member, value)
		}
		if mappings, err := attributes(); err != nil {
			return err
		} else if mappings != nil {
			webhook("deliveryAttributeMappings", mappings)
		}
		if sign, err := signing(); err != nil {
			return err
		} else if sign != nil {
			webhook("signing", sign)
		}
		for member, value := range application() {
			webhook(member, value)
		}
		if by, err := issuer(); err != nil {
			return err
		} else if by != nil {
			webhook("tokenIssuer", by)
		}
		if shown, err := certificate(); err != nil {
			return err
		} else if shown != nil {
			webhook("clientCertificate", shown)
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
		} else if cmd.Flag("expiration-date").Changed {
			properties["expirationTimeUtc"] = ""
		}
		if err := letters(properties); err != nil {
			return err
		}
		limits(properties)
		if labels.given() {
			properties["labels"] = labels.list()
		}
		return nil
	}
}

// endpointTypes are az's words for endpoint types: those of the API in lower case.
// Source: spec/management.md section 3.
func endpointTypes() []string {
	var words []string
	for _, name := range resource.EndpointTypes() {
		words = append(words, strings.ToLower(name))
	}
	return words
}

// destinationFlags makes the body of a destination out of az's two flags; a storage
// queue is named by one id there and by two members here.
// Source: spec/management.md sections 3 and 5.6.
func destinationFlags(cmd *cobra.Command, word, endpoint string) (map[string]any, error) {
	word, err := oneOf(cmd, "endpoint-type", word, endpointTypes()...)
	if err != nil {
		return nil, err
	}
	kind := resource.KindOf(word)
	if kind == nil {
		return map[string]any{"endpointType": resource.DestinationWebHook, "properties": map[string]any{"endpointUrl": endpoint}}, nil
	}
	properties := map[string]any{kind.Fields[0].Name: endpoint}
	if kind.Name == "StorageQueue" {
		account, queue, ok := cutFold(endpoint, "/queueservices/default/queues/")
		if !ok {
			return nil, usagef(cmd, "--endpoint of a storagequeue is {account id}/queueServices/default/queues/{queue}, not %q.", endpoint)
		}
		properties = map[string]any{"resourceId": account, "queueName": queue}
	}
	return map[string]any{"endpointType": kind.Name, "properties": properties}, nil
}

// endpointSettings are the flags for the other fields of a destination; the returned
// function gives its members. A value that begins with @ is the content of a file, which
// keeps secrets off the command line.
func (a *app) endpointSettings(cmd *cobra.Command) func(word string) (map[string]any, error) {
	settings := wordsFlag(cmd, "endpoint-setting", "NAME=VALUE...", "Fields of the destination, several after another; @FILE for the content of a file, @- for standard input. See carillon destination show TYPE.")
	life := cmd.Flags().Int64("storage-queue-msg-ttl", 0, "Seconds for which messages stay in a storage queue; -1 for ever.")
	read := map[string]string{} // a change may be made again: standard input is read once
	return func(word string) (map[string]any, error) {
		members := map[string]any{}
		if cmd.Flag("storage-queue-msg-ttl").Changed {
			members["queueMessageTimeToLiveInSeconds"] = *life
		}
		kind := resource.KindOf(word)
		for _, setting := range settings.all() {
			name, text, ok := strings.Cut(setting, "=")
			if !ok {
				return nil, usagef(cmd, "--endpoint-setting %q is not NAME=VALUE.", setting)
			}
			if file, is := strings.CutPrefix(text, "@"); is {
				if _, done := read[file]; !done {
					raw, err := a.readAll(file)
					if err != nil {
						return nil, err
					}
					read[file] = strings.TrimRight(string(raw), "\r\n")
				}
				text = read[file]
			}
			members[name] = settingValue(kind, name, text)
		}
		return members, nil
	}
}

// settingValue is a text as a value of a field. What a field of the name takes is said
// by its kind; an update, which may not name the kind, goes by the form of the text.
func settingValue(kind *resource.Kind, name, text string) any {
	var field *resource.Field
	if kind != nil {
		field = kind.Field(name)
	}
	structured := field == nil && (text == "true" || text == "false")
	if field != nil {
		switch field.Type {
		case resource.FieldInteger, resource.FieldBoolean, resource.FieldMap:
			structured = true
		}
	}
	if structured && json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return text
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
	advanced := wordsFlag(cmd, "advanced-filter", "KEY OPERATOR VALUE...", "An advanced filter, e.g. data.runStatus StringIn Failed; may be repeated, all must hold.")
	f := cmd.Flags()
	f.String("subject-begins-with", "", `What the subject must begin with; "" is no test.`)
	f.String("subject-ends-with", "", `What the subject must end with; "" is no test.`)
	sensitive := toggleFlag(cmd, "subject-case-sensitive", "Compare the subject by case; true or false may follow.")
	arrays := toggleFlag(cmd, "enable-advanced-filtering-on-arrays", "Let advanced filters look inside array values; true or false may follow.")
	_ = cmd.RegisterFlagCompletionFunc("included-event-types", cobra.FixedCompletions(eventTypesToName(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("advanced-filter", completeAdvancedFilter)
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
				break // --advanced-filter alone removes all of them, which az has no way to do
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

// completeAdvancedFilter offers keys, then operators, then values where there are
// few to choose from.
func completeAdvancedFilter(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	words := strings.Split(typed, wordSeparator)
	last := words[len(words)-1]
	var offers []string
	switch {
	case len(words) == 1:
		offers = filterKeys()
	case len(words) == 2:
		for _, op := range filter.Operators() {
			offers = append(offers, op.String())
		}
	case strings.EqualFold(words[1], filter.BoolEquals.String()):
		offers = []string{"true", "false"}
	case strings.EqualFold(words[0], "data.runStatus") && strings.HasPrefix(strings.ToLower(words[1]), "string"):
		for _, status := range mlevent.RunStatuses() {
			offers = append(offers, string(status))
		}
	}
	offers = slices.DeleteFunc(offers, func(offer string) bool {
		return len(offer) < len(last) || !strings.EqualFold(offer[:len(last)], last)
	})
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(offers) == 1 && strings.HasSuffix(offers[0], ".") {
		directive |= cobra.ShellCompDirectiveNoSpace // a tag's name follows
	}
	return offers, directive
}

// filterKeys are the keys that every event has, in both envelopes, and the members of
// what workspaces raise. Source: spec/filtering.md section 4.
func filterKeys() []string {
	keys := []string{"id", "topic", "source", "subject", "eventType", "type", "eventTime", "time", "dataVersion"}
	for _, eventType := range mlevent.AllTypes() {
		for _, m := range mlevent.Members(eventType) {
			key := "data." + m.Name
			if m.Table {
				key += "."
			}
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// machineLearningEventTypes are what every workspace raises.
// Source: spec/events.md section 4.2.
var machineLearningEventTypes = []string{
	"Microsoft.MachineLearningServices.RunCompleted",
	"Microsoft.MachineLearningServices.RunStatusChanged",
	"Microsoft.MachineLearningServices.ModelRegistered",
	"Microsoft.MachineLearningServices.ModelDeployed",
	"Microsoft.MachineLearningServices.DatasetDriftDetected",
}

// eventTypesToName are what a workspace may raise.
func eventTypesToName() []string {
	return slices.Concat(machineLearningEventTypes, mlevent.ExtraTypes())
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
