package manage

import (
	"context"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// TopicType is an entry of the catalogue of sources.
type TopicType struct {
	Name         string
	Provider     string
	DisplayName  string
	Description  string
	Regional     bool
	SourceFormat string
	Scopes       []string
	EventTypes   []EventType
}

// EventType is a kind of event that a source raises. mlevent.Schema has the schema
// of those that workspaces raise.
type EventType struct {
	Name        string
	DisplayName string
	Description string
	Default     bool // an event subscription that names no types gets it
}

func workspaceEventTypes() []EventType {
	var list []EventType
	for _, name := range mlevent.AllTypes() {
		title, description := mlevent.Describe(name)
		list = append(list, EventType{name, title, description, slices.Contains(mlevent.Types(), name)})
	}
	return list
}

// TopicTypes returns the catalogue. Source: spec/management.md section 9.
func TopicTypes() []TopicType { return slices.Clone(topicTypes) }

var topicTypes = []TopicType{
	{
		Name: resource.TopicTypeDomain, Provider: "Microsoft.EventGrid",
		DisplayName: "Event Grid Domains", Description: "Custom events that publishers post to a domain, each for one of its topics.", Regional: true,
		SourceFormat: "/subscriptions/<subscriptionId>/resourceGroups/<resourceGroupName>/providers/Microsoft.EventGrid/domains/<name>", Scopes: []string{"Resource"},
	},
	{
		Name: resource.TopicTypeCustom, Provider: "Microsoft.EventGrid",
		DisplayName: "Event Grid Topics", Description: "Custom events that publishers post to a topic.", Regional: true,
		SourceFormat: "/subscriptions/<subscriptionId>/resourceGroups/<resourceGroupName>/providers/Microsoft.EventGrid/topics/<name>", Scopes: []string{"Resource"},
	},
	{
		Name: resource.TopicTypeWorkspace, Provider: "Microsoft.MachineLearningServices",
		DisplayName: "Machine Learning Workspaces", Description: "What happens to the runs, models, online endpoints and drift monitors of a workspace.", Regional: true,
		SourceFormat: "/subscriptions/<subscriptionId>/resourceGroups/<resourceGroupName>/providers/Microsoft.MachineLearningServices/Workspaces/<name>", Scopes: []string{"Resource"},
		EventTypes: workspaceEventTypes(),
	},
	{
		Name: "Microsoft.Resources.ResourceGroups", Provider: "Microsoft.Resources",
		DisplayName: "Resource Groups", Description: "Changes of the resources of a resource group. No source here raises them.",
		SourceFormat: "/subscriptions/<subscriptionId>/resourceGroups/<resourceGroupName>", Scopes: []string{"ResourceGroup"},
	},
	{
		Name: "Microsoft.Resources.Subscriptions", Provider: "Microsoft.Resources",
		DisplayName: "Subscriptions", Description: "Changes of the resources of a subscription. No source here raises them.",
		SourceFormat: "/subscriptions/<subscriptionId>", Scopes: []string{"AzureSubscription"},
	},
}

// FindTopicType finds an entry by name, ignoring case.
func FindTopicType(name string) (TopicType, bool) {
	for _, t := range topicTypes {
		if strings.EqualFold(t.Name, name) {
			return t, true
		}
	}
	return TopicType{}, false
}

// EventTypesOf returns the event types that a source raises and its topic type.
func (p *Plane) EventTypesOf(ctx context.Context, caller access.Caller, id resource.ID) (TopicType, error) {
	if !p.Access.Allowed(caller, "Microsoft.EventGrid/topictypes/eventtypes/read", id) {
		if err := p.authorize(ctx, caller, "Microsoft.EventGrid/eventTypes/read", id); err != nil {
			return TopicType{}, err
		}
	}
	s, err := p.findSource(id)
	if err != nil {
		return TopicType{}, err
	}
	t, _ := FindTopicType(s.topicType)
	return t, nil
}
