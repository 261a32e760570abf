package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/resource"
)

// destinationBody describes a kind of destination, as -o json prints it.
type destinationBody struct {
	Name               string             `json:"name"`
	Summary            string             `json:"summary"`
	Needs              string             `json:"needs,omitempty"`
	Takes              string             `json:"takes"`
	DeliveryAttributes string             `json:"deliveryAttributes,omitempty"`
	Named              []string           `json:"namedAttributes,omitempty"`
	Action             []string           `json:"actions,omitempty"`
	Fields             []destinationField `json:"fields"`
}

type destinationField struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Required bool     `json:"required"`
	Default  string   `json:"default,omitempty"`
	Choices  []string `json:"choices,omitempty"`
	Help     string   `json:"help"`
	Example  string   `json:"example"`
}

// webhookBody describes webhooks, whose flags and members are many and have pages of
// their own.
var webhookBody = destinationBody{
	Name: resource.DestinationWebHook, Summary: "an HTTP endpoint, which is asked whether it wants the events", Takes: "an array of events, or one CloudEvent",
	DeliveryAttributes: "headers",
	Fields: []destinationField{
		{Name: "endpointUrl", Type: "text", Required: true, Help: "the URL; see carillon event-subscription create --help for the rest", Example: "https://hooks.example/events"},
	},
}

func destinationOf(k *resource.Kind) destinationBody {
	b := destinationBody{Name: k.Name, Summary: k.Summary, Needs: k.Needs, DeliveryAttributes: k.Attributes}
	switch k.Form {
	case resource.FormArray:
		b.Takes = "an array of events"
	case resource.FormMessages:
		b.Takes = "one event a message"
	default:
		b.Takes = webhookBody.Takes
	}
	for _, n := range k.Named {
		b.Named = append(b.Named, n.Name+" is "+n.Becomes)
	}
	for _, l := range k.Linked {
		b.Action = append(b.Action, l.Action)
	}
	for _, f := range k.Fields {
		b.Fields = append(b.Fields, destinationField{f.Name, f.Type.String(), f.Required, f.Default, f.Choices, f.Help, f.Example})
	}
	return b
}

var (
	destinationView = view{
		plural:  "destinations",
		columns: []column{{"Type", "name"}, {"Is", "summary"}, {"Needs", "needs"}},
		detail:  []column{{"Takes", "takes"}, {"Delivery attributes", "?deliveryAttributes"}, {"Of these names", "?namedAttributes"}, {"Needed permission", "?actions"}},
	}
	fieldView = view{plural: "fields", columns: []column{{"Field", "name"}, {"Type", "type"}, {"Required", "required"}, {"Default", "default"}, {"Is", "help"}, {"Example", "example"}}}
)

// destinationCommand describes the kinds of destinations, by what their bodies are
// checked by. It asks no server.
func (a *app) destinationCommand() *cobra.Command {
	return group("destination", "Destinations: what events can be delivered to, and what each of them needs",
		`  carillon destination list
  carillon destination show nats`,
		a.destinationList(), a.destinationShow())
}

func (a *app) destinationList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List what events can be delivered to", Args: cobra.NoArgs, Example: `  carillon destination list
  carillon destination list -o json   # with all fields`}
	cmd.RunE = func(*cobra.Command, []string) error {
		bodies := []destinationBody{webhookBody}
		for _, k := range resource.Kinds() {
			bodies = append(bodies, destinationOf(k))
		}
		var entries []json.RawMessage
		for _, b := range bodies {
			raw, err := encodeJSON(b)
			if err != nil {
				return err
			}
			entries = append(entries, raw)
		}
		return a.list(destinationView, entries)
	}
	return cmd
}

func (a *app) destinationShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show TYPE", Short: "Show the fields of a kind of destination", Args: cobra.ExactArgs(1), Example: `  carillon destination show nats
  carillon destination show storagequeue -o json`, ValidArgs: endpointTypes()}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b := webhookBody
		if kind := resource.KindOf(args[0]); kind != nil {
			b = destinationOf(kind)
		} else if !strings.EqualFold(args[0], webhookBody.Name) {
			return usagef(cmd, "%q is no kind of destination. There are: %s.", args[0], strings.Join(endpointTypes(), ", "))
		}
		raw, err := encodeJSON(b)
		if err != nil {
			return err
		}
		if err := a.show(destinationView, raw); err != nil || a.output == "json" {
			return err
		}
		var fields []json.RawMessage
		for _, f := range b.Fields {
			raw, err := encodeJSON(f)
			if err != nil {
				return err
			}
			fields = append(fields, raw)
		}
		fmt.Fprintln(a.stdout)
		return a.list(fieldView, fields)
	}
	return cmd
}
