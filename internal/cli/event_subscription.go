package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

const eventSubscriptions = "/providers/Microsoft.EventGrid/eventSubscriptions"

var eventSubscriptionView = view{
	plural: "event subscriptions",
	columns: []column{{"Name", "name"}, {"State", "properties.deliveryState|properties.provisioningState"},
		{"Endpoint", "properties.destination.properties.endpointUrl|properties.destination.properties.endpointBaseUrl|properties.destination.properties.resourceId|properties.destination.properties.url|properties.receive.endpoint"},
		{"Event types", "properties.filter.includedEventTypes|=all"}},
	detail: slices.Concat([]column{
		{"Validation", "?properties.validation.message"},
		{"Delivers as before", "?properties.validation.deliveringByFormerSettings"},
		{"Source", "properties.topic"},
		{"Destination", "properties.destination.endpointType"},
		{"Received at", "?properties.receive.endpoint"},
		{"Received as topic", "?properties.receive.topic"},
		{"Seconds of a lock", "?properties.destination.properties.receiveLockDurationInSeconds"},
	}, fieldColumns(), []column{
		{"Subject begins with", "properties.filter.subjectBeginsWith"},
		{"Subject ends with", "properties.filter.subjectEndsWith"},
		{"Subject case counts", "properties.filter.isSubjectCaseSensitive"},
		{"Looks inside arrays", "properties.filter.enableAdvancedFilteringOnArrays"},
		{"Advanced filters", "properties.filter.advancedFilters"},
		{"Delivery attributes", "properties.destination.properties.deliveryAttributeMappings"},
		{"Signatures", "?properties.destination.properties.signing"},
		{"Bearer token for", "?properties.destination.properties.azureActiveDirectoryApplicationIdOrUri"},
		{"Token issuer", "?properties.destination.properties.tokenIssuer"},
		{"Client certificate", "?properties.destination.properties.clientCertificate"},
		{"Labels", "properties.labels"},
		{"Delivery schema", "properties.eventDeliverySchema"},
		{"Delivery attempts", "properties.retryPolicy.maxDeliveryAttempts"},
		{"Time-to-live, minutes", "properties.retryPolicy.eventTimeToLiveInMinutes"},
		{"Most events a request", "?properties.destination.properties.maxEventsPerBatch"},
		{"Preferred size, KiB", "?properties.destination.properties.preferredBatchSizeInKilobytes"},
		{"Most requests a minute", "?properties.deliveryLimits.maxRequestsPerMinute"},
		{"Most requests at a time", "?properties.deliveryLimits.maxConcurrency"},
		{"Endpoint allows a minute", "?properties.deliveryLimits.allowedRequestsPerMinute"},
		{"Dead letters", "properties.deadLetterDestination.properties|properties.deadLetterWithResourceIdentity.deadLetterDestination.properties|=kept by the server"},
		{"Expires", "properties.expirationTimeUtc"},
		{"Id", "id"},
	}),
}

// fieldColumns are the fields of destinations that are no webhooks, but for those that
// name the endpoint and secrets.
func fieldColumns() (columns []column) {
	var shown []string
	for _, k := range resource.Kinds() {
		for _, f := range k.Fields[1:] {
			if f.Type != resource.FieldSecret && !slices.Contains(shown, f.Name) {
				shown = append(shown, f.Name)
				columns = append(columns, column{f.Name, "?properties.destination.properties." + f.Name})
			}
		}
	}
	return columns
}

// source is where the event subscriptions of a group of commands hang: flags adds
// what names it to a command; the returned function gives the path under which
// they lie.
type source func(cmd *cobra.Command) func() (string, error)

// sourceFlags are the flags of bySource, each of which names a source, and of which one
// is given; --domain-topic goes with --domain.
var sourceFlags = []string{"source-resource-id", "topic", "domain"}

// namesSource reports whether flags of bySource were given.
func namesSource(cmd *cobra.Command) bool {
	return slices.ContainsFunc(sourceFlags, func(name string) bool { f := cmd.Flag(name); return f != nil && f.Changed })
}

// bySource is the scope form: any source by its id, a topic or a domain by its name, the
// current workspace by default.
func (a *app) bySource(cmd *cobra.Command) func() (string, error) {
	id := cmd.Flags().String("source-resource-id", "", "Full id of the source; the current workspace by default.")
	topic := cmd.Flags().String("topic", "", "Topic that is the source instead, by name.")
	domain := cmd.Flags().String("domain", "", "Domain that is the source instead, by name.")
	domainTopic := cmd.Flags().String("domain-topic", "", "With --domain: one of its topics.")
	_ = cmd.RegisterFlagCompletionFunc("topic", a.completeNames(func() string { return a.groupID() + eventGridTopics }))
	_ = cmd.RegisterFlagCompletionFunc("domain", a.completeNames(func() string { return a.groupID() + eventGridDomains }))
	_ = cmd.RegisterFlagCompletionFunc("domain-topic", a.completeNames(func() string { return a.domainID(*domain) + "/topics" }))
	return func() (string, error) {
		given := 0
		for _, name := range []string{*id, *topic, *domain} {
			if name != "" {
				given++
			}
		}
		switch {
		case given > 1:
			return "", usagef(cmd, "--topic, --domain and --source-resource-id exclude each other.")
		case *domainTopic != "" && *domain == "":
			return "", usagef(cmd, "--domain-topic %q is a topic of which domain? Give --domain.", *domainTopic)
		case *topic != "":
			return a.topicID(*topic) + eventSubscriptions, nil
		case *domainTopic != "":
			return a.domainTopicID(*domain, *domainTopic) + eventSubscriptions, nil
		case *domain != "":
			return a.domainID(*domain) + eventSubscriptions, nil
		}
		source := strings.TrimRight(firstOf(*id, a.workspaceID()), "/")
		if !strings.HasPrefix(source, "/") {
			return "", usagef(cmd, "--source-resource-id %q is not a full id: it begins with /subscriptions/.", *id)
		}
		return source + eventSubscriptions, nil
	}
}

// eventSubscriptionAt is the path of an event subscription that is named by its full id,
// or by its name in a list.
func eventSubscriptionAt(cmd *cobra.Command, list func() (string, error), name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return strings.TrimRight(name, "/"), nil
	}
	if err := segment(cmd, "event subscription", name); err != nil {
		return "", err
	}
	base, err := list()
	return base + "/" + name, err
}

// elsewhere says where something was looked for that was not found, if that was not
// asked for.
func elsewhere(cmd *cobra.Command, err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.NotFound {
		return err
	}
	told := *f
	told.Message += byDefault(cmd)
	return &told
}

// byDefault says that a command of bySource looked on the workspace because it was told
// no other source, "" when it was or has no such flags.
func byDefault(cmd *cobra.Command) string {
	if cmd.Flag(sourceFlags[0]) == nil || namesSource(cmd) {
		return ""
	}
	named := cmd.Flags().Args()
	for _, flag := range []string{"name", "event-subscription"} {
		if f := cmd.Flag(flag); f != nil {
			named = append(named, f.Value.String())
		}
	}
	if slices.ContainsFunc(named, func(name string) bool { return strings.HasPrefix(name, "/") }) {
		return "" // a full id has its source in it
	}
	return " Looked for on the workspace: --topic, --domain or --source-resource-id names another source."
}

func (a *app) eventSubscriptionCommand() *cobra.Command {
	cmd := a.eventSubscriptionGroup(a.bySource)
	cmd.AddCommand(a.eventSubscriptionList())
	return cmd
}

// below is a source that one flag names.
func (a *app) below(flag, what string, id func(string) string, names func() string) source {
	return func(cmd *cobra.Command) func() (string, error) {
		name := cmd.Flags().String(flag, "", "Name of the "+what+".")
		_ = cmd.RegisterFlagCompletionFunc(flag, a.completeNames(names))
		return func() (string, error) {
			if err := required(cmd, flag); err != nil {
				return "", err
			}
			return id(*name) + "/eventSubscriptions", nil
		}
	}
}

// nestedEventSubscriptions is the form below a parent: command is that of the parent, and
// flags are those that name it, as examples show them.
func (a *app) nestedEventSubscriptions(command, flags string, from source) *cobra.Command {
	group := a.eventSubscriptionGroup(from)
	list := &cobra.Command{Example: "  carillon event-subscription list"}
	path := from(list)
	group.AddCommand(a.listCommand(kind{view: eventSubscriptionView}, list, func(*cobra.Command) (string, error) { return path() }))
	here := "carillon " + command + " event-subscription "
	commands := append(group.Commands(), group)
	for _, sub := range group.Commands() {
		commands = append(commands, sub.Commands()...)
	}
	for _, cmd := range commands {
		verbs := regexp.MustCompile("carillon event-subscription (create|list|show|update|delete|status|attempts|test-filter|test|pause|resume|signing-key rotate|token-issuer set|token-issuer remove|client-certificate set|client-certificate remove)")
		cmd.Example = verbs.ReplaceAllString(cmd.Example, here+"$1 "+flags)
	}
	return group
}

func (a *app) eventSubscriptionGroup(from source) *cobra.Command {
	k := kind{
		what:  "event subscription",
		takes: "the events that wait for it",
		view:  eventSubscriptionView,
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameOrIDFlag(cmd, "event subscription", "Name of the event subscription, or its full id")
			list := from(cmd)
			a.complete(cmd, offered(list))
			return func(args []string) (string, error) {
				n, err := name(args)
				if err != nil {
					return "", err
				}
				return eventSubscriptionAt(cmd, list, n)
			}
		},
	}
	cmd := group("event-subscription", "Event subscriptions: which events go where",
		`  carillon event-subscription create --name failed-runs --endpoint http://127.0.0.1:9000/ --included-event-types Microsoft.MachineLearningServices.RunStatusChanged
  carillon event-subscription list`,
		a.eventSubscriptionCreate(k),
		a.eventSubscriptionShow(k),
		a.eventSubscriptionUpdate(k),
		a.deleteCommand(k, `  carillon event-subscription delete --name failed-runs`),
		a.signingKeyCommand(k),
		a.tokenIssuerCommand(k),
		a.clientCertificateCommand(k),
		a.eventSubscriptionStatus(k),
		a.eventSubscriptionAttempts(k),
		a.eventSubscriptionTestFilter(k),
		a.eventSubscriptionTest(k),
		a.eventSubscriptionRender(k),
		a.eventSubscriptionPause(k),
		a.eventSubscriptionResume(k),
	)
	cmd.Aliases = []string{"es"}
	return cmd
}

func (a *app) eventSubscriptionCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create an event subscription, or replace it",
		Example: `  carillon event-subscription create --name failed-runs --endpoint http://127.0.0.1:9000/ \
      --included-event-types Microsoft.MachineLearningServices.RunStatusChanged \
      --advanced-filter data.runStatus StringIn Failed
  carillon event-subscription create --name deploy --endpoint https://ci.example/hooks --subject-begins-with models/churn \
      --advanced-filter data.modelTags.stage StringIn production staging --labels team-growth
  carillon event-subscription create --name pager --endpoint https://pager.example/in \
      --delivery-attribute-mapping Authorization static "Bearer $TOKEN" true --delivery-attribute-mapping X-Subject dynamic subject
  carillon event-subscription create --name vault --endpoint https://vault.example/in --client-certificate carillon.pem --client-key carillon.key \
      --azure-active-directory-tenant-id 7a000000-… --azure-active-directory-application-id-or-uri api://vault
  carillon event-subscription create --name inbox --endpoint-type pull`}
	fill := a.deliveryFlags(cmd)
	filters := filterFlags(cmd)
	return a.changeHandshake(k, cmd, http.MethodPut, func(cmd *cobra.Command, s *remote, path string) (any, http.Header, error) {
		if kind := resource.KindOf(cmd.Flag("endpoint-type").Value.String()); kind == nil || kind.Fields[0].Required {
			if err := required(cmd, "endpoint"); err != nil {
				return nil, nil, err
			}
		}
		properties := map[string]any{}
		if err := fill(properties); err != nil {
			return nil, nil, err
		}
		filter := map[string]any{}
		if err := filters(filter); err != nil {
			return nil, nil, err
		}
		if len(filter) > 0 {
			properties["filter"] = filter
			a.hintAtExtraEvents(cmd.Context(), s, path, filter)
		}
		return enveloped(properties), nil, nil
	})
}

// eventSubscriptionUpdate sends what changes. A filter, a retry policy and a destination
// are replaced as a whole by a PATCH, so the present ones are read first and only the
// flags given are changed in them. Source: spec/management.md section 5.5.
func (a *app) eventSubscriptionUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Change an event subscription",
		Example: `  carillon event-subscription update --name failed-runs --subject-begins-with experiments/
  carillon event-subscription update --name failed-runs --advanced-filter data.runTags.team StringIn growth   # in place of those there
  carillon event-subscription update --name failed-runs --advanced-filter                                     # removes all of them
  carillon event-subscription update --name failed-runs --endpoint https://ci.example/hooks
  carillon event-subscription update --name failed-runs --max-delivery-attempts 5 --event-ttl 30
  carillon event-subscription update --name failed-runs --max-requests-per-minute 120 --max-concurrency 4
  carillon event-subscription update --name failed-runs --max-events-per-batch 100`}
	fill := a.deliveryFlags(cmd)
	filters := filterFlags(cmd)
	return a.changeHandshake(k, cmd, http.MethodPatch, func(cmd *cobra.Command, s *remote, path string) (any, http.Header, error) {
		body, changes := map[string]any{}, map[string]any{}
		if err := fill(body); err != nil {
			return nil, nil, err
		}
		if err := filters(changes); err != nil {
			return nil, nil, err
		}
		policy, _ := body["retryPolicy"].(map[string]any)
		if len(body) == 0 && len(changes) == 0 {
			return nil, nil, usagef(cmd, "Nothing to change. Give at least one of the flags that --help lists.")
		}
		to, _ := body["destination"].(map[string]any)
		if len(changes) == 0 && policy == nil && to == nil {
			return body, nil, nil
		}
		var present json.RawMessage
		read, err := s.Do(cmd.Context(), http.MethodGet, path, nil, nil, &present, nil)
		if err != nil {
			return nil, nil, err
		}
		if len(changes) > 0 {
			body["filter"] = over(decoded(present, "properties.filter"), changes)
			a.hintAtExtraEvents(cmd.Context(), s, path, changes)
		}
		if policy != nil {
			body["retryPolicy"] = over(decoded(present, "properties.retryPolicy"), policy)
		}
		kind := text(present, "properties.destination.endpointType")
		if to != nil && (to["endpointType"] == nil || to["endpointType"] == kind) {
			body["destination"] = overDestination(present, to["properties"].(map[string]any))
		}
		return body, ifMatch(read.Get("ETag")), nil // what was read is what is changed
	})
}

// hintAtExtraEvents tells of event types that a filter names and the workspace is not
// told to raise: that is no error, yet nothing would come. What cannot be read is not
// told of.
func (a *app) hintAtExtraEvents(ctx context.Context, s *remote, path string, filter map[string]any) {
	named, _ := filter["includedEventTypes"].([]string)
	id, _, _ := strings.Cut(path, "/providers/Microsoft.EventGrid/")
	if !strings.Contains(strings.ToLower(id), strings.ToLower(learningWorkspaces)+"/") ||
		!slices.ContainsFunc(named, func(t string) bool { return extraEvent(t) != "" }) {
		return
	}
	raw, err := s.get(ctx, id)
	var ws struct {
		Name       string
		Properties struct{ ExtraEvents []string }
	}
	if err != nil || json.Unmarshal(raw, &ws) != nil {
		return
	}
	raised := ws.Properties.ExtraEvents
	var missing []string
	for _, t := range named {
		if event := extraEvent(t); event != "" && !slices.ContainsFunc(raised, func(r string) bool { return strings.EqualFold(r, event) }) {
			missing = append(missing, event)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(a.stderr, "The workspace %s does not raise %s. To have it do so: carillon workspace update %s --extra-events %s\n",
			ws.Name, strings.Join(missing, ", "), ws.Name, strings.Join(append(raised, missing...), " "))
	}
}

// extraEvent is the name of an event type beyond Azure's without its prefix, "" for
// others.
func extraEvent(eventType string) string {
	for _, t := range mlevent.ExtraTypes() {
		if strings.EqualFold(t, eventType) {
			return strings.TrimPrefix(t, mlevent.ExtraPrefix)
		}
	}
	return ""
}

// over lays changes over what is there.
func over(present, changes map[string]any) map[string]any {
	if present == nil {
		return changes
	}
	for k, v := range changes {
		present[k] = v
	}
	return present
}

// overDestination lays changes over the destination of an event subscription. Those of the
// token issuer are laid over what it has; an empty one takes its place. One batch
// setting turns batching on where it is off, which is shown as one event a request.
func overDestination(present json.RawMessage, changes map[string]any) map[string]any {
	there, properties := decoded(present, "properties.destination"), decoded(present, "properties.destination.properties")
	if issuer, _ := changes["tokenIssuer"].(map[string]any); len(issuer) > 0 {
		changes = maps.Clone(changes)
		changes["tokenIssuer"] = over(decoded(present, "properties.destination.properties.tokenIssuer"), issuer)
	}
	if changes["preferredBatchSizeInKilobytes"] != nil && plain(properties["maxEventsPerBatch"]) == "1" {
		delete(properties, "maxEventsPerBatch")
	}
	there["properties"] = over(properties, changes)
	return there
}

// changeWebhook makes a command that changes members of a webhook and leaves the rest:
// a PATCH replaces a destination as a whole, so the present one is read first.
func (a *app) changeWebhook(k kind, cmd *cobra.Command, members func(cmd *cobra.Command) (map[string]any, error)) *cobra.Command {
	return a.changeHandshake(k, cmd, http.MethodPatch, func(cmd *cobra.Command, s *remote, path string) (any, http.Header, error) {
		changes, err := members(cmd)
		if err != nil {
			return nil, nil, err
		}
		var present json.RawMessage
		read, err := s.Do(cmd.Context(), http.MethodGet, path, nil, nil, &present, nil)
		if err != nil {
			return nil, nil, err
		}
		return map[string]any{"destination": overDestination(present, changes)}, ifMatch(read.Get("ETag")), nil
	})
}

// changeHandshake is changeCommand for a change during which the server asks the
// endpoint whether it wants the events. A PATCH that met another change is made
// again of what is there now, a few times.
func (a *app) changeHandshake(k kind, cmd *cobra.Command, method string,
	body func(cmd *cobra.Command, s *remote, path string) (any, http.Header, error),
) *cobra.Command {
	a.changeCommand(k, cmd, method, body)
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		done := a.waiting("Waiting for the endpoint to answer the validation handshake")
		defer done()
		err := run(cmd, args)
		for again := 0; again < 5 && method == http.MethodPatch && metAnother(err); again++ {
			err = run(cmd, args)
		}
		return err
	}
	return cmd
}

// metAnother reports whether a change was refused because another one came first.
func metAnother(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && (f.Kind == fault.PreconditionFailed || f.Kind == fault.Conflict && f.Code == "Conflict")
}

func (a *app) eventSubscriptionShow(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show one event subscription", Example: `  carillon event-subscription show --name failed-runs
  carillon event-subscription show --name failed-runs --include-full-endpoint-url true -o json
  carillon event-subscription show --name failed-runs --include-static-delivery-attribute-secret true -o json`}
	full := cmd.Flags().Bool("include-full-endpoint-url", false, "Show the webhook's URL with its query, which may hold a secret.")
	secrets := cmd.Flags().Bool("include-static-delivery-attribute-secret", false, "Show the values of secret delivery attributes.")
	return a.showWith(k, cmd, func(ctx context.Context, s *remote, path string) (json.RawMessage, error) {
		read := s.get
		if *full {
			read = s.withFullURL
		}
		resource, err := read(ctx, path)
		if err != nil || !*secrets {
			return resource, err
		}
		return s.withAttributeSecrets(ctx, path, resource)
	})
}

// withFullURL reads an event subscription and puts the URL in that a GET leaves
// out. Source: spec/management.md section 3.
func (s *remote) withFullURL(ctx context.Context, path string) (json.RawMessage, error) {
	resource, err := s.get(ctx, path)
	if err != nil {
		return nil, err
	}
	answer, err := s.ask(ctx, http.MethodPost, path+"/getFullUrl", nil, nil)
	if err != nil {
		return nil, err
	}
	whole := decoded(resource, "")
	properties, _ := whole["properties"].(map[string]any)
	destination, _ := properties["destination"].(map[string]any)
	if webhook, ok := destination["properties"].(map[string]any); ok {
		webhook["endpointUrl"] = text(answer, "endpointUrl")
	}
	return encodeJSON(whole)
}

// eventSubscriptionList lists by source, or by location as az does.
// Source: spec/management.md sections 2.4 and 3.
func (a *app) eventSubscriptionList() *cobra.Command {
	cmd := &cobra.Command{Example: `  carillon event-subscription list
  carillon event-subscription list --topic orders
  carillon event-subscription list --location local -g local`}
	path := a.bySource(cmd)
	location := cmd.Flags().StringP("location", "l", "", "List those of all sources in this location instead.")
	topicType := cmd.Flags().String("topic-type-name", "", "With --location: only sources of this topic type.")
	return a.listCommand(kind{view: eventSubscriptionView}, cmd, func(cmd *cobra.Command) (string, error) {
		if *location == "" {
			if *topicType != "" {
				return "", usagef(cmd, "--topic-type-name needs --location.")
			}
			return path()
		}
		for _, flag := range sourceFlags {
			if cmd.Flag(flag).Changed {
				return "", usagef(cmd, "--%s and --location exclude each other.", flag)
			}
		}
		p := "/providers/Microsoft.EventGrid"
		if !strings.EqualFold(*location, "global") {
			p += "/locations/" + *location
		}
		if *topicType != "" {
			p += "/topicTypes/" + *topicType
		}
		return a.inScope(cmd, p+"/eventSubscriptions"), nil
	})
}
