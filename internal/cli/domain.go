package cli

import (
	"net/http"

	"github.com/spf13/cobra"
)

func (a *app) domainKind() kind {
	return kind{
		what:  "domain",
		takes: "its topics, all their event subscriptions and the events that wait for them",
		view: inletView("domains", column{"Makes topics by itself", "properties.autoCreateTopicWithFirstSubscription"},
			column{"Removes topics by itself", "properties.autoDeleteTopicWithLastSubscription"}),
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "domain")
			return func(args []string) (string, error) {
				n, err := name(args)
				return a.domainID(n), err
			}
		},
		names: func() string { return a.groupID() + eventGridDomains },
	}
}

// domainFlags are az's flags for what only domains have.
func domainFlags(cmd *cobra.Command) func(properties map[string]any) {
	const createFlag, deleteFlag = "auto-create-topic-with-first-subscription", "auto-delete-topic-with-last-subscription"
	create := toggleFlag(cmd, createFlag, "Make a topic with its first event subscription; true by default.")
	remove := toggleFlag(cmd, deleteFlag, "Remove a topic with its last event subscription; true by default.")
	return func(properties map[string]any) {
		if cmd.Flag(createFlag).Changed {
			properties["autoCreateTopicWithFirstSubscription"] = bool(*create)
		}
		if cmd.Flag(deleteFlag).Changed {
			properties["autoDeleteTopicWithLastSubscription"] = bool(*remove)
		}
	}
}

func (a *app) domainCommand() *cobra.Command {
	k := a.domainKind()
	return group("domain", "Domains: what publishers post events for very many topics to",
		`  carillon domain create shops
  carillon domain event-subscription create --domain-name shops --name audit --endpoint https://audit.example/in
  carillon domain topic event-subscription create --domain-name shops --domain-topic-name tenant-a --name to-a --endpoint https://a.example/in`,
		a.topicCreate(k, `  carillon domain create shops
  carillon domain create --name shops -g local --input-schema cloudeventschemav1_0 --tags team=growth
  carillon domain create shops --auto-create-topic-with-first-subscription false --auto-delete-topic-with-last-subscription false
  carillon domain create shops --input-schema customeventschema \
    --input-mapping-fields topic=tenant eventType=kind --input-mapping-default-values subject=none`, domainFlags),
		a.showCommand(k, `  carillon domain show shops
  carillon domain show --name shops -g local -o json`),
		a.listCommand(k, &cobra.Command{Example: `  carillon domain list
  carillon domain list -g local -o json`}, func(cmd *cobra.Command) (string, error) {
			return a.inScope(cmd, eventGridDomains), nil
		}),
		a.topicUpdate(k, `  carillon domain update shops --tags team=growth stage=test
  carillon domain update shops --auto-delete-topic-with-last-subscription false
  carillon domain update shops --disable-local-auth true --inbound-ip-rules 10.0.0.0/8 Allow`, domainFlags),
		a.deleteCommand(k, `  carillon domain delete shops`),
		group("key", "The two access keys of a domain", `  carillon domain key list --name shops`, a.keyList(k, "shops"), a.keyRegenerate(k, "shops")),
		a.domainTopicCommand(),
		a.nestedEventSubscriptions("domain", "--domain-name NAME", a.below("domain-name", "domain", a.domainID, k.names)),
	)
}

// domainNameFlag names the domain that a topic is in.
func (a *app) domainNameFlag(cmd *cobra.Command) *string {
	domain := cmd.Flags().String("domain-name", "", "Name of the domain.")
	_ = cmd.RegisterFlagCompletionFunc("domain-name", a.completeNames(func() string { return a.groupID() + eventGridDomains }))
	return domain
}

func (a *app) domainTopicKind() kind {
	return kind{
		what:  "domain topic",
		takes: "its event subscriptions and the events that wait for them",
		view: view{plural: "domain topics", columns: []column{{"Name", "name"}, {"State", "properties.provisioningState"}},
			detail: []column{{"Created", "systemData.createdAt"}, {"Id", "id"}}},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			domain, name := a.domainNameFlag(cmd), nameFlag(cmd, "domain topic")
			a.complete(cmd, func() string { return a.domainID(*domain) + "/topics" })
			return func(args []string) (string, error) {
				n, err := name(args)
				if err == nil {
					err = required(cmd, "domain-name")
				}
				return a.domainTopicID(*domain, n), err
			}
		},
	}
}

func (a *app) domainTopicCommand() *cobra.Command {
	k := a.domainTopicKind()
	list := &cobra.Command{Example: `  carillon domain topic list --domain-name shops
  carillon domain topic list --domain-name shops -o json`}
	domain := a.domainNameFlag(list)
	return group("topic", "Topics of a domain: names that events are published for",
		`  carillon domain topic list --domain-name shops
  carillon domain topic create --domain-name shops --name tenant-a`,
		a.changeCommand(k, &cobra.Command{Use: "create", Short: "Create a topic of a domain", Example: `  carillon domain topic create --domain-name shops --name tenant-a`},
			http.MethodPut, func(*cobra.Command, *remote, string) (any, http.Header, error) { return nil, nil, nil }),
		a.showCommand(k, `  carillon domain topic show --domain-name shops --name tenant-a`),
		a.listCommand(k, list, func(cmd *cobra.Command) (string, error) {
			return a.domainID(*domain) + "/topics", required(cmd, "domain-name")
		}),
		a.deleteCommand(k, `  carillon domain topic delete --domain-name shops --name tenant-a`),
		a.nestedEventSubscriptions("domain topic", "--domain-name NAME --domain-topic-name TOPIC", a.belowDomainTopic),
	)
}

// belowDomainTopic is a source that az's two flags name.
func (a *app) belowDomainTopic(cmd *cobra.Command) func() (string, error) {
	domain := a.domainNameFlag(cmd)
	topic := cmd.Flags().String("domain-topic-name", "", "Name of the topic in the domain.")
	_ = cmd.RegisterFlagCompletionFunc("domain-topic-name", a.completeNames(func() string { return a.domainID(*domain) + "/topics" }))
	return func() (string, error) {
		for _, flag := range []string{"domain-name", "domain-topic-name"} {
			if err := required(cmd, flag); err != nil {
				return "", err
			}
		}
		return a.domainTopicID(*domain, *topic) + "/eventSubscriptions", nil
	}
}
