package arm

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// topicTypeBody is an entry of the catalogue. Its id has no leading slash.
// Source: spec/management.md section 9.
type topicTypeBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties topicTypeProperties `json:"properties"`
}

type topicTypeProperties struct {
	Provider                             string   `json:"provider"`
	DisplayName                          string   `json:"displayName"`
	Description                          string   `json:"description"`
	ResourceRegionType                   string   `json:"resourceRegionType"`
	ProvisioningState                    string   `json:"provisioningState"`
	SupportedLocations                   []string `json:"supportedLocations"`
	SourceResourceFormat                 string   `json:"sourceResourceFormat"`
	SupportedScopesForSource             []string `json:"supportedScopesForSource"`
	AreRegionalAndGlobalSourcesSupported bool     `json:"areRegionalAndGlobalSourcesSupported"`
	AdditionalEnforcedPermissions        []any    `json:"additionalEnforcedPermissions"`
}

const topicTypes = "providers/Microsoft.EventGrid/topicTypes/"

func (a *api) topicTypeBody(t manage.TopicType) topicTypeBody {
	b := topicTypeBody{
		ID: topicTypes + t.Name, Name: t.Name, Type: "Microsoft.EventGrid/topicTypes",
		Properties: topicTypeProperties{
			Provider: t.Provider, DisplayName: t.DisplayName, Description: t.Description,
			ResourceRegionType: "GlobalResource", ProvisioningState: string(resource.Succeeded), SupportedLocations: []string{},
			SourceResourceFormat: t.SourceFormat, SupportedScopesForSource: t.Scopes, AdditionalEnforcedPermissions: []any{},
		},
	}
	if t.Regional {
		b.Properties.ResourceRegionType = "RegionalResource"
		b.Properties.SupportedLocations = a.Plane.Locations()
	}
	return b
}

// eventTypeBody is an event type of the catalogue.
type eventTypeBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties eventTypeProperties `json:"properties"`
}

type eventTypeProperties struct {
	DisplayName    string `json:"displayName"`
	Description    string `json:"description"`
	SchemaURL      string `json:"schemaUrl"`
	IsInDefaultSet bool   `json:"isInDefaultSet"`
}

// eventTypesOf returns the event types of a source, each with the address of its
// schema on this server, as the client reached it.
func (a *api) eventTypesOf(r *request, t manage.TopicType) []eventTypeBody {
	list := []eventTypeBody{}
	for _, e := range t.EventTypes {
		list = append(list, eventTypeBody{
			ID: topicTypes + t.Name + "/eventTypes/" + e.Name, Name: e.Name, Type: "Microsoft.EventGrid/topicTypes/eventTypes",
			Properties: eventTypeProperties{
				DisplayName: e.DisplayName, Description: e.Description, SchemaURL: a.schemaURL(r, e.Name), IsInDefaultSet: e.Default,
			},
		})
	}
	return list
}

// SchemasPath begins the paths of the event types' JSON Schemas. They are open to
// everyone: a schemaUrl is followed by tools that have no token.
const SchemasPath = "/schemas/"

func (a *api) schemaURL(r *request, eventType string) string {
	return a.origin(r.http) + SchemasPath + eventType + ".json"
}

// getSchema answers with the JSON Schema of an event type. The document's $id is the
// address that the catalogue gives it.
func getSchema(a *api, r *request) (answer, error) {
	var document []byte
	for _, name := range mlevent.AllTypes() {
		if strings.EqualFold(name+".json", r.rest[1]) {
			document, _ = mlevent.Schema(name, a.schemaURL(r, name))
		}
	}
	if document == nil {
		return answer{}, fault.New(fault.NotFound, "ResourceNotFound", "No event type has a schema '%.80s'. There are those of %s, each with .json behind it.", r.rest[1], strings.Join(mlevent.AllTypes(), ", "))
	}
	return answer{stream: func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/schema+json")
		w.Header().Set("Content-Length", strconv.Itoa(len(document)))
		_, _ = w.Write(document) // the client has gone if this fails
	}}, nil
}

func listTopicTypes(a *api, _ *request) (answer, error) {
	var list []topicTypeBody
	for _, t := range manage.TopicTypes() {
		list = append(list, a.topicTypeBody(t))
	}
	return whole(list), nil
}

func (r *request) topicType() (manage.TopicType, error) {
	t, found := manage.FindTopicType(r.names[0])
	if !found {
		return t, fault.New(fault.NotFound, "ResourceNotFound", "The topic type '%.80s' is not known.", r.names[0])
	}
	return t, nil
}

func getTopicType(a *api, r *request) (answer, error) {
	t, err := r.topicType()
	return ok(a.topicTypeBody(t)), err
}

func listEventTypes(a *api, r *request) (answer, error) {
	t, err := r.topicType()
	return whole(a.eventTypesOf(r, t)), err
}

func listEventTypesOfSource(a *api, r *request) (answer, error) {
	t, err := a.Plane.EventTypesOf(r.ctx, r.caller, r.scope)
	return whole(a.eventTypesOf(r, t)), err
}

// provider is an entry of the provider registry.
type provider struct {
	namespace string
	versions  []string
	types     []string
}

// providers are those that this server has, with the versions that az resource
// picks one from. Source: spec/management.md sections 1 and 12.
var providers = []provider{
	{"Carillon.Delivery", []string{Version}, []string{"attempts", "deadLetters", "deliveryStatus", "events", "events/deliveries", "replays"}},
	{"Carillon.Identity", []string{Version}, []string{"principals"}},
	{"Carillon.Kubernetes", []string{Version}, []string{"clusters"}},
	{"Carillon.MLflow", []string{Version}, []string{"servers"}},
	{"Carillon.OpenLineage", []string{Version}, []string{"receivers"}},
	{"Carillon.Secrets", []string{Version}, []string{"connections", "masterKeys"}},
	{"Microsoft.Authorization", []string{"2022-04-01"}, []string{"denyAssignments", "permissions", "roleAssignments", "roleDefinitions"}},
	{"Microsoft.EventGrid", []string{"2025-02-15", "2023-06-01-preview", "2022-06-15", "2021-10-15-preview"}, []string{
		"domains", "domains/eventSubscriptions", "domains/topics", "domains/topics/eventSubscriptions",
		"eventSubscriptions", "eventTypes", "extensionTopics", "locations", "operations", "systemTopics",
		"systemTopics/eventSubscriptions", "topics", "topics/eventSubscriptions", "topicTypes", "topicTypes/eventTypes",
	}},
	{"Microsoft.MachineLearningServices", []string{Version, "2024-04-01"}, []string{
		"workspaces", "workspaces/driftMonitors", "workspaces/driftMonitors/runs", "workspaces/experiments",
		"workspaces/experiments/runs", "workspaces/models", "workspaces/models/versions", "workspaces/onlineEndpoints",
	}},
	{"Microsoft.Resources", []string{"2022-12-01", "2021-04-01"}, []string{"providers", "resourceGroups", "subscriptions", "tenants"}},
}

// providerBody is a provider on the wire. Source: spec/management.md section 12.
type providerBody struct {
	ID                 string             `json:"id"`
	Namespace          string             `json:"namespace"`
	RegistrationState  string             `json:"registrationState"`
	RegistrationPolicy string             `json:"registrationPolicy"`
	ResourceTypes      []resourceTypeBody `json:"resourceTypes"`
}

type resourceTypeBody struct {
	ResourceType      string   `json:"resourceType"`
	Locations         []string `json:"locations"`
	APIVersions       []string `json:"apiVersions"`
	DefaultAPIVersion string   `json:"defaultApiVersion"`
	Capabilities      string   `json:"capabilities"`
}

func (a *api) providerBody(scope resource.ID, p provider) providerBody {
	b := providerBody{
		ID:        strings.TrimSuffix(scope.String(), "/") + "/providers/" + p.namespace,
		Namespace: p.namespace, RegistrationState: "Registered", RegistrationPolicy: "RegistrationFree", ResourceTypes: []resourceTypeBody{},
	}
	for _, t := range p.types {
		capabilities := "None"
		if slices.Contains([]string{"topics", "domains", "systemTopics", "workspaces", "resourceGroups"}, t) {
			capabilities = "SupportsTags, SupportsLocation"
		}
		b.ResourceTypes = append(b.ResourceTypes, resourceTypeBody{t, a.Plane.Locations(), p.versions, p.versions[0], capabilities})
	}
	return b
}

// mayReadProviders checks the caller at a subscription; at the tenant everybody
// who is known may read them.
func (a *api) mayReadProviders(r *request) error {
	if r.id.Equal(resource.Root) {
		return nil
	}
	_, err := a.Plane.GetSubscription(r.ctx, r.caller, r.id)
	return err
}

func listProviders(a *api, r *request) (answer, error) {
	if err := a.mayReadProviders(r); err != nil {
		return answer{}, err
	}
	var list []providerBody
	for _, p := range providers {
		list = append(list, a.providerBody(r.id, p))
	}
	return whole(list), nil
}

func getProvider(a *api, r *request) (answer, error) {
	if err := a.mayReadProviders(r); err != nil {
		return answer{}, err
	}
	for _, p := range providers {
		if strings.EqualFold(p.namespace, r.rest[0]) {
			return ok(a.providerBody(r.id, p)), nil
		}
	}
	return answer{}, fault.New(fault.NotFound, "InvalidResourceNamespace", "The resource namespace '%.80s' is invalid.", r.rest[0])
}

// registerProvider answers that the provider is registered: all of them are.
func registerProvider(a *api, r *request) (answer, error) { return getProvider(a, r) }

// operationBody is an action that roles can hold.
// Source: spec/management.md section 2.7.
type operationBody struct {
	Name         string           `json:"name"`
	Display      operationDisplay `json:"display"`
	Origin       string           `json:"origin"`
	IsDataAction bool             `json:"isDataAction"`
}

type operationDisplay struct {
	Provider    string `json:"provider"`
	Resource    string `json:"resource"`
	Operation   string `json:"operation"`
	Description string `json:"description"`
}

// gridOperations are the actions of Microsoft.EventGrid that this server asks for.
// Source: spec/access.md section 9.
var gridOperations = []string{
	"eventSubscriptions/read", "eventSubscriptions/write", "eventSubscriptions/delete",
	"eventSubscriptions/getFullUrl/action", "eventSubscriptions/getDeliveryAttributes/action",
	"domains/read", "domains/write", "domains/delete", "domains/listKeys/action", "domains/regenerateKey/action",
	"domains/eventSubscriptions/read", "domains/eventSubscriptions/write", "domains/eventSubscriptions/delete",
	"domains/eventSubscriptions/getFullUrl/action", "domains/eventSubscriptions/getDeliveryAttributes/action",
	"domains/topics/read", "domains/topics/write", "domains/topics/delete",
	"domains/topics/eventSubscriptions/read", "domains/topics/eventSubscriptions/write", "domains/topics/eventSubscriptions/delete",
	"domains/topics/eventSubscriptions/getFullUrl/action", "domains/topics/eventSubscriptions/getDeliveryAttributes/action",
	"eventTypes/read", "extensionTopics/read", "locations/eventSubscriptions/read", "locations/topictypes/eventSubscriptions/read",
	"systemTopics/read", "systemTopics/write", "systemTopics/delete",
	"systemTopics/eventSubscriptions/read", "systemTopics/eventSubscriptions/write", "systemTopics/eventSubscriptions/delete",
	"systemTopics/eventSubscriptions/getFullUrl/action", "systemTopics/eventSubscriptions/getDeliveryAttributes/action",
	"topics/read", "topics/write", "topics/delete", "topics/listKeys/action", "topics/regenerateKey/action",
	"topics/eventSubscriptions/read", "topics/eventSubscriptions/write", "topics/eventSubscriptions/delete",
	"topics/eventSubscriptions/getFullUrl/action", "topics/eventSubscriptions/getDeliveryAttributes/action",
	"topictypes/eventSubscriptions/read",
}

func listOperations(_ *api, _ *request) (answer, error) {
	list := make([]operationBody, 0, len(gridOperations)+2)
	add := func(name string, data bool) {
		what, verb := name, ""
		if cut := strings.LastIndexByte(strings.TrimSuffix(name, "/action"), '/'); cut >= 0 {
			what, verb = name[:cut], strings.TrimSuffix(name[cut+1:], "/action")
		}
		list = append(list, operationBody{
			Name:    "Microsoft.EventGrid/" + name,
			Display: operationDisplay{"Microsoft Event Grid", what, verb, verb + " on " + what},
			Origin:  "user,system", IsDataAction: data,
		})
	}
	for _, name := range gridOperations {
		add(name, false)
	}
	add("events/send/action", true)
	add("events/receive/action", true)
	return whole(list), nil
}

// metadataEndpoints tells clients where everything is, in the shape of the version
// they ask for. No address ends in a slash: Terraform would double it.
// Source: spec/management.md section 10.8.
func metadataEndpoints(a *api, r *request) (answer, error) {
	origin := a.origin(r.http)
	login := map[string]any{"loginEndpoint": origin, "audiences": []string{"https://management.azure.com", "https://management.core.windows.net/"}}
	version := r.query.Get("api-version")
	if version != "" && version < "2019" {
		flat := map[string]any{"galleryEndpoint": origin, "graphEndpoint": origin + "/graph", "portalEndpoint": origin, "authentication": login}
		if version >= "2018" {
			flat["graphAudience"] = origin + "/graph"
			login["tenant"], login["identityProvider"] = "common", "AAD"
		}
		return ok(flat), nil
	}
	login["tenant"], login["identityProvider"] = "common", "AAD"
	cloud := map[string]any{
		"name": "carillon", "portal": origin, "resourceManager": origin, "gallery": origin, "batch": origin, "sqlManagement": origin, "media": origin,
		"microsoftGraphResourceId": origin + "/graph", "graph": origin + "/graph", "graphAudience": origin + "/graph",
		"vmImageAliasDoc": origin + "/aliases.json", "authentication": login,
		"suffixes": map[string]string{
			"storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "acrLoginServer": "azurecr.io",
			"sqlServerHostname": "database.windows.net", "mysqlServerEndpoint": "mysql.database.azure.com",
			"postgresqlServerEndpoint": "postgres.database.azure.com", "mariadbServerEndpoint": "mariadb.database.azure.com",
			"azureFrontDoorEndpointSuffix": "azurefd.net", "attestationEndpoint": "attest.azure.net", "synapseAnalytics": "dev.azuresynapse.net",
		},
	}
	if version != "" && version < "2022" {
		return answer{status: http.StatusOK, body: []any{cloud}}, nil
	}
	return ok(cloud), nil
}
