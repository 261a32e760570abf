package cli

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/spf13/cobra"
)

func (a *app) topicKind() kind {
	return kind{
		what:  "topic",
		takes: "its event subscriptions and the events that wait for them",
		view:  inletView("topics"),
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "topic")
			return func(args []string) (string, error) {
				n, err := name(args)
				return a.topicID(n), err
			}
		},
		names: func() string { return a.groupID() + eventGridTopics },
	}
}

// inletView shows what publishers post to: topics and domains; more is what only its kind
// has.
func inletView(plural string, more ...column) view {
	detail := []column{{"Input mapping", "properties.inputSchemaMapping"}, {"Duplicates left out, minutes", "?properties.duplicateDetectionWindowInMinutes"},
		{"Public access", "?properties.publicNetworkAccess"}, {"Inbound IP rules", "?properties.inboundIpRules"}, {"Local auth disabled", "?properties.disableLocalAuth"}}
	return view{
		plural: plural,
		columns: []column{{"Name", "name"}, {"Input schema", "properties.inputSchema"}, {"State", "properties.provisioningState"},
			{"Endpoint", "properties.endpoint"}},
		detail: slices.Concat(detail, more, []column{{"Location", "location"}, {"Tags", "tags"}, {"Id", "id"}}),
	}
}

const (
	eventGridDomains      = "/providers/Microsoft.EventGrid/domains"
	eventGridTopics       = "/providers/Microsoft.EventGrid/topics"
	eventGridSystemTopics = "/providers/Microsoft.EventGrid/systemTopics"
)

func (a *app) topicCommand() *cobra.Command {
	k := a.topicKind()
	return group("topic", "Custom topics: what publishers post events to",
		`  carillon topic create orders
  carillon topic key list --name orders`,
		a.topicCreate(k, topicCreateExample, nil),
		a.showCommand(k, `  carillon topic show orders
  carillon topic show --name orders -g local -o json`),
		a.listCommand(k, &cobra.Command{Example: `  carillon topic list
  carillon topic list -g local -o json`}, func(cmd *cobra.Command) (string, error) {
			return a.inScope(cmd, eventGridTopics), nil
		}),
		a.topicUpdate(k, topicUpdateExample, nil),
		a.deleteCommand(k, `  carillon topic delete orders`),
		group("key", "The two access keys of a topic", `  carillon topic key list --name orders`,
			a.keyList(k, "orders"), a.keyRegenerate(k, "orders")),
		a.nestedEventSubscriptions("topic", "--topic-name NAME", a.below("topic-name", "topic", a.topicID, k.names)),
	)
}

const topicCreateExample = `  carillon topic create orders
  carillon topic create --name orders -g local --input-schema cloudeventschemav1_0 --tags team=growth
  carillon topic create inside --disable-local-auth --inbound-ip-rules 10.0.0.0/8 Allow --inbound-ip-rules 192.0.2.7 Allow
  carillon topic create shop --input-schema customeventschema \
    --input-mapping-fields id=trackingId eventType=kind \
    --input-mapping-default-values subject=none dataVersion=1.0`

// inletFlags adds the flags that only domains have; the returned function puts what was
// given into the properties.
type inletFlags func(cmd *cobra.Command) func(properties map[string]any)

// topicCreate creates a topic or a domain.
func (a *app) topicCreate(k kind, example string, more inletFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a " + k.what + ", or replace its settings", Example: example}
	location := cmd.Flags().StringP("location", "l", "", "Location; the resource group's by default.")
	schema := cmd.Flags().String("input-schema", "EventGridSchema", "Envelope of the events published to it: EventGridSchema, CloudEventSchemaV1_0 or CustomEventSchema.")
	mapping := mappingFlags(cmd)
	window, publishing := windowFlag(cmd), publishingFlags(cmd)
	own := more.on(cmd)
	tags := tagsFlag(cmd)
	return a.changeCommand(k, cmd, http.MethodPut, func(cmd *cobra.Command, s *remote, _ string) (any, http.Header, error) {
		word, err := oneOf(cmd, "input-schema", *schema, "EventGridSchema", "CloudEventSchemaV1_0", "CustomEventSchema")
		if err != nil {
			return nil, nil, err
		}
		at := *location
		if at == "" {
			if at, err = s.groupLocation(cmd, a.groupID()); err != nil {
				return nil, nil, err
			}
		}
		properties := map[string]any{"inputSchema": word}
		if err := mapping(word, properties); err != nil {
			return nil, nil, err
		}
		if cmd.Flag(windowName).Changed {
			properties["duplicateDetectionWindowInMinutes"] = *window
		}
		if err := publishing(properties); err != nil {
			return nil, nil, err
		}
		own(properties)
		body := map[string]any{"location": at, "properties": properties}
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		return body, nil, nil
	})
}

func (more inletFlags) on(cmd *cobra.Command) func(properties map[string]any) {
	if more == nil {
		return func(map[string]any) {}
	}
	return more(cmd)
}

const topicUpdateExample = `  carillon topic update orders --tags team=growth stage=test
  carillon topic update orders --duplicate-detection-window 10
  carillon topic update orders --disable-local-auth true --inbound-ip-rules 10.0.0.0/8 Allow
  carillon topic update orders --public-network-access disabled`

// topicUpdate changes a topic or a domain.
func (a *app) topicUpdate(k kind, example string, more inletFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Replace the tags of a " + k.what + ", or change its settings", Example: example}
	window, publishing := windowFlag(cmd), publishingFlags(cmd)
	own := more.on(cmd)
	tags := tagsFlag(cmd)
	return a.changeCommand(k, cmd, http.MethodPatch, func(cmd *cobra.Command, _ *remote, _ string) (any, http.Header, error) {
		body, properties := map[string]any{}, map[string]any{}
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		if cmd.Flag(windowName).Changed {
			properties["duplicateDetectionWindowInMinutes"] = *window
		}
		if err := publishing(properties); err != nil {
			return nil, nil, err
		}
		own(properties)
		if len(properties) > 0 {
			body["properties"] = properties
		}
		if len(body) == 0 {
			return nil, nil, usagef(cmd, "Nothing to change. Give --tags KEY=VALUE…, or one of the other flags that --help lists.")
		}
		return body, nil, nil
	})
}

const windowName = "duplicate-detection-window"

func windowFlag(cmd *cobra.Command) *int {
	return cmd.Flags().Int(windowName, 0, "Minutes for which an event with the same id (for CloudEvents also source) is not taken again; 0 for off.")
}

// publishingFlags are the flags of a topic or a domain that say who may publish to it, and from
// where; the returned function puts what was given into the properties.
func publishingFlags(cmd *cobra.Command) func(properties map[string]any) error {
	off := toggleFlag(cmd, "disable-local-auth", "Take bearer tokens alone, neither access keys nor shared access signatures.")
	access := cmd.Flags().String("public-network-access", "", "Whether anybody may publish: enabled or disabled.")
	rules := wordsFlag(cmd, "inbound-ip-rules", "NETWORK [ACTION]", "Network or address that may publish, and Allow; give the flag again for more, without words for any.")
	_ = cmd.RegisterFlagCompletionFunc("public-network-access", cobra.FixedCompletions([]string{"enabled", "disabled"}, cobra.ShellCompDirectiveNoFileComp))
	return func(properties map[string]any) error {
		if cmd.Flag("disable-local-auth").Changed {
			properties["disableLocalAuth"] = bool(*off)
		}
		if *access != "" {
			word, err := oneOf(cmd, "public-network-access", *access, "Enabled", "Disabled")
			if err != nil {
				return err
			}
			properties["publicNetworkAccess"] = word
		}
		if !rules.given() {
			return nil
		}
		list := []map[string]string{}
		for _, words := range rules.groups {
			rule := map[string]string{"action": "Allow"}
			switch len(words) {
			case 0:
				continue
			case 1, 2:
				rule["ipMask"] = words[0]
			default:
				return usagef(cmd, "--inbound-ip-rules takes a network and an action, such as 10.0.0.0/8 Allow. Give the flag again for each further network.")
			}
			if len(words) == 2 {
				rule["action"] = words[1]
			}
			list = append(list, rule)
		}
		properties["inboundIpRules"] = list
		return nil
	}
}

var keyView = view{plural: "keys", columns: []column{{"key1", "key1"}, {"key2", "key2"}}}

func (a *app) keyList(k kind, example string) *cobra.Command {
	here := "  carillon " + k.what + " key list --name " + example
	cmd := &cobra.Command{Use: "list", Short: "Show both keys of a " + k.what, Example: here + "\n" + here + " -o json"}
	return a.keyCommand(k, cmd, "listKeys", func() (any, error) { return nil, nil })
}

func (a *app) keyRegenerate(k kind, example string) *cobra.Command {
	cmd := &cobra.Command{Use: "regenerate", Short: "Replace one key of a " + k.what + " by a new one",
		Example: "  carillon " + k.what + " key regenerate --name " + example + " --key-name key1"}
	return a.keyCommand(k, cmd, "regenerateKey", keyName(cmd))
}

// keyName gives a command the flag that names a key, and returns what sends it.
func keyName(cmd *cobra.Command) func() (any, error) {
	which := cmd.Flags().String("key-name", "", "Which key: key1 or key2.")
	return func() (any, error) {
		if *which == "" {
			return nil, usagef(cmd, "--key-name is needed: key1 or key2.")
		}
		word, err := oneOf(cmd, "key-name", *which, "key1", "key2")
		return map[string]string{"keyName": word}, err
	}
}

func (a *app) keyCommand(k kind, cmd *cobra.Command, action string, body func() (any, error)) *cobra.Command {
	path := a.locator(cmd, k)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := path(args)
		if err != nil {
			return err
		}
		b, err := body()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		keys, err := s.ask(cmd.Context(), http.MethodPost, p+"/"+action, b, nil)
		if err != nil {
			return err
		}
		return a.show(keyView, keys)
	}
	return cmd
}

func (a *app) systemTopicKind() kind {
	return kind{
		what:  "system topic",
		takes: "its event subscriptions and the events that wait for them",
		view: view{
			plural:  "system topics",
			columns: []column{{"Name", "name"}, {"Source", "properties.source"}, {"State", "properties.provisioningState"}},
			detail:  []column{{"Topic type", "properties.topicType"}, {"Location", "location"}, {"Tags", "tags"}, {"Id", "id"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "system topic")
			return func(args []string) (string, error) {
				n, err := name(args)
				return a.systemTopicID(n), err
			}
		},
		names: func() string { return a.groupID() + eventGridSystemTopics },
	}
}

func (a *app) systemTopicCommand() *cobra.Command {
	k := a.systemTopicKind()
	return group("system-topic", "System topics: what workspaces publish their events to",
		`  carillon system-topic list
  carillon system-topic create churn-events --source /subscriptions/…/workspaces/churn`,
		a.systemTopicCreate(k),
		a.showCommand(k, `  carillon system-topic show churn-events`),
		a.listCommand(k, &cobra.Command{Example: `  carillon system-topic list`}, func(cmd *cobra.Command) (string, error) {
			return a.inScope(cmd, eventGridSystemTopics), nil
		}),
		a.deleteCommand(k, `  carillon system-topic delete churn-events`),
		a.nestedEventSubscriptions("system-topic", "--system-topic-name NAME", a.below("system-topic-name", "system topic", a.systemTopicID, k.names)),
	)
}

func (a *app) systemTopicCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Give the topic of a source a name of its own", Example: `  carillon system-topic create churn-events -w churn
  carillon system-topic create -g local -n churn-events --source ID --topic-type Microsoft.MachineLearningServices.Workspaces`}
	source := cmd.Flags().String("source", "", "Full id of the source; the current workspace by default.")
	topicType := cmd.Flags().String("topic-type", "Microsoft.MachineLearningServices.Workspaces", "Kind of the source.")
	location := cmd.Flags().StringP("location", "l", "", "Location; the source's by default.")
	tags := tagsFlag(cmd)
	return a.changeCommand(k, cmd, http.MethodPut, func(cmd *cobra.Command, s *remote, _ string) (any, http.Header, error) {
		from := firstOf(*source, a.workspaceID())
		at := *location
		if at == "" {
			var resource json.RawMessage
			resource, err := s.get(cmd.Context(), from)
			if err != nil {
				return nil, nil, err
			}
			at = text(resource, "location")
		}
		body := map[string]any{"location": at, "properties": map[string]any{"source": from, "topicType": *topicType}}
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		return body, nil, nil
	})
}
