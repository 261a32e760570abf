package resource

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/mlevent"
)

// Resource types as Azure spells them.
const (
	TypeTopic             = "Microsoft.EventGrid/topics"
	TypeDomain            = "Microsoft.EventGrid/domains"
	TypeDomainTopic       = "Microsoft.EventGrid/domains/topics"
	TypeSystemTopic       = "Microsoft.EventGrid/systemTopics"
	TypeEventSubscription = "Microsoft.EventGrid/eventSubscriptions"
	TypeWorkspace         = "Microsoft.MachineLearningServices/workspaces"
	TypeResourceGroup     = "Microsoft.Resources/resourceGroups"
)

// Topic types, as the catalogue spells them. Source: spec/management.md section 9.
const (
	TopicTypeWorkspace = mlevent.TopicType
	TopicTypeCustom    = "Microsoft.EventGrid.Topics"
	TopicTypeDomain    = "Microsoft.EventGrid.Domains"
)

// Stamp says who did something and when.
type Stamp struct {
	By   string    `json:"by,omitempty"`   // display name of the principal
	Kind string    `json:"kind,omitempty"` // User, Application, ManagedIdentity
	At   time.Time `json:"at"`
}

// Meta is what every tracked resource has.
type Meta struct {
	ID       ID                `json:"id"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Created  Stamp             `json:"created"`
	Modified Stamp             `json:"modified"`
}

// ResourceGroup holds resources; deleting it deletes them.
type ResourceGroup struct {
	Meta
}

// Topic is a custom topic: publishers post to it with one of its two keys, a
// signature made with one, or a bearer token.
type Topic struct {
	Meta
	UID         UID            `json:"uid"`
	Partition   int            `json:"partition"` // its home in the log
	InputSchema event.Schema   `json:"inputSchema"`
	Mapping     *event.Mapping `json:"inputSchemaMapping,omitempty"` // of custom input only
	// DuplicateWindow is for how many minutes an event that was published is not taken
	// again, 1 to MaxDuplicateWindow; 0 = each time.
	DuplicateWindow int `json:"duplicateDetectionWindowInMinutes,omitempty"`

	DisableLocalAuth bool    `json:"disableLocalAuth,omitempty"` // bearer tokens alone publish
	Ingress          Ingress `json:"ingress,omitzero"`           // from where they publish

	SealedKeys [2]string       `json:"sealedKeys"`      // base64 access keys, sealed with KeyOwner as associated data
	Extra      json.RawMessage `json:"extra,omitempty"` // members only previews know (sku, kind, …), echoed as they came
}

// MaxDuplicateWindow bounds Topic.DuplicateWindow, in minutes.
const MaxDuplicateWindow = 1440

// KeyOwner is the associated data that the topic's keys are sealed with.
func (t *Topic) KeyOwner() string { return t.ID.String() }

// Domain is published to as a topic is, and each of its events is for one of the topics
// in it.
type Domain struct {
	Topic
	AutoCreate bool `json:"autoCreateTopicWithFirstSubscription"` // the first event subscription of a topic makes the topic
	AutoDelete bool `json:"autoDeleteTopicWithLastSubscription"`  // a topic goes with its last event subscription
}

// DomainTopic is a name in a domain that event subscriptions can hang on. Events for it
// are published to the domain whether it is there or not; its UID tells it from one of
// that name before it. A domain may have a hundred thousand, so there is little in it.
type DomainTopic struct {
	ID         ID    `json:"id"`
	UID        UID   `json:"uid"`
	Domain     UID   `json:"domain"` // of a domain that is gone, or was made again: the topic is, too, and its record goes in time
	Created    Stamp `json:"created"`
	Subscribed bool  `json:"subscribed,omitempty"` // event subscriptions hang on it; if none does, a change was cut short
}

// SystemTopic makes the topic of a source visible as a resource of its own. The
// events belong to the source's topic uid; the resource is a name for it.
type SystemTopic struct {
	Meta
	Source    ID     `json:"source"`
	TopicType string `json:"topicType"`
	Automatic bool   `json:"automatic,omitempty"` // made with its source; an explicit one for the same source replaces it
}

// Workspace is a source of lifecycle events. Its TopicUID is the topic that its
// events are published to; nobody but the workspace publishes there.
type Workspace struct {
	Meta
	UID           UID             `json:"uid"`
	TopicUID      UID             `json:"topicUid"`
	Partition     int             `json:"partition"`
	StatusEvents  []string        `json:"statusEvents"`          // run statuses that raise RunStatusChanged
	PayloadCasing string          `json:"payloadCasing"`         // PayloadCamelCase or PayloadDocumented
	DriftRaiseOn  string          `json:"driftRaiseOn"`          // DriftOnCompleted or DriftOnDrift
	ExtraEvents   []string        `json:"extraEvents,omitempty"` // those of mlevent.ExtraTypes that it raises, without their prefix
	Extra         json.RawMessage `json:"extra,omitempty"`
}

// MLflowServer is an MLflow server that a workspace follows, at most one. Its UID tells
// it from one that was attached before.
type MLflowServer struct {
	UID          UID    `json:"uid"`
	Workspace    ID     `json:"workspace"`
	URL          string `json:"url"`
	StaticPrefix string `json:"staticPrefix,omitempty"`
	Within       string `json:"mlflowWorkspace,omitempty"` // workspace of the MLflow server

	Username     string `json:"username,omitempty"`     // of Basic authentication
	SealedSecret string `json:"sealedSecret,omitempty"` // password, or without a user name a bearer token; sealed with SecretOwner as associated data

	Interval      int  `json:"pollIntervalSeconds"`
	EmitBacklog   bool `json:"emitBacklog,omitempty"`                  // what was there before raises events, too
	EndTimeRenews bool `json:"endTimeChangeIsNewGeneration,omitempty"` // a run that ended at another time ended anew

	SynthesizeRunning bool     `json:"synthesizeRunning,omitempty"`         // a run that was seen only ended came to Running first
	ExperimentGUIDs   bool     `json:"experimentGuids,omitempty"`           // events call experiments by GUIDs
	Metrics           bool     `json:"metrics,omitempty"`                   // are properties of runs
	InheritModelTags  bool     `json:"inheritModelTags,omitempty"`          // versions have the tags of their model beneath their own
	NotResponding     int      `json:"notRespondingAfterSeconds,omitempty"` // without a sign of life a run is NotResponding; 0 for never
	DeployOn          DeployOn `json:"deployOn,omitzero"`

	Webhook MLflowWebhook `json:"webhook,omitzero"`

	NoProxy      bool `json:"noProxy,omitempty"`      // nobody reaches it through us
	PreserveHost bool `json:"preserveHost,omitempty"` // it is told the Host that clients name

	Created  Stamp `json:"created"` // when it was attached
	Modified Stamp `json:"modified"`
}

// MLflowWebhook is what was registered at an MLflow server, so that it calls us; the zero
// value is none.
type MLflowWebhook struct {
	ID     string `json:"id"`               // given by the server
	Origin string `json:"origin,omitempty"` // where the server reaches us; "" for the public URL
	URL    string `json:"url"`
	Sealed string `json:"sealed"` // what calls are signed with; sealed with WebhookOwner as associated data
}

// Registered reports whether there is one.
func (w MLflowWebhook) Registered() bool { return w.ID != "" }

// DeployOn names what has a model version of MLflow count as deployed when it is given
// to one.
type DeployOn struct {
	Alias []string `json:"alias,omitempty"`
	Stage []string `json:"stage,omitempty"`
}

// Any reports whether there is something.
func (d DeployOn) Any() bool { return len(d.Alias)+len(d.Stage) > 0 }

// SecretOwner is the associated data that the server's secret is sealed with.
func (m *MLflowServer) SecretOwner() string { return m.UID.String() + "/mlflowSecret" }

// WebhookOwner is the associated data that the secret of its webhook is sealed with.
func (m *MLflowServer) WebhookOwner() string { return m.UID.String() + "/mlflowWebhook" }

// LineageKeys are the two keys of a workspace that producers of OpenLineage events send
// as API key. There are none until somebody asks for them.
type LineageKeys struct {
	UID        UID       `json:"uid"`
	Workspace  ID        `json:"workspace"`
	SealedKeys [2]string `json:"sealedKeys"` // sealed with KeyOwner as associated data
	Created    Stamp     `json:"created"`
	Modified   Stamp     `json:"modified"`
}

// KeyOwner is the associated data that the keys are sealed with.
func (k *LineageKeys) KeyOwner() string { return k.UID.String() + "/lineageKey" }

// Cluster is a Kubernetes cluster that a workspace follows. Its UID tells it from one
// that was attached under its name before.
type Cluster struct {
	UID       UID    `json:"uid"`
	Workspace ID     `json:"workspace"`
	Name      string `json:"name"`

	Server       string `json:"server,omitempty"`               // URL of the API server; "" in the cluster that this server runs in
	InCluster    bool   `json:"inCluster,omitempty"`            // address and token are those of the pod that this server runs in
	Authority    string `json:"certificateAuthority,omitempty"` // PEM; "" for what destinations may be signed by
	ServerName   string `json:"tlsServerName,omitempty"`        // in the certificate of the API server; "" for the URL's
	Certificate  string `json:"clientCertificate,omitempty"`    // PEM
	SealedSecret string `json:"sealedSecret,omitempty"`         // key of Certificate in PEM, or without one a bearer token; sealed with SecretOwner as associated data

	Namespaces  []string `json:"namespaces,omitempty"` // none = all
	Selector    string   `json:"selector,omitempty"`   // of labels
	EmitBacklog bool     `json:"emitBacklog,omitempty"`
	NameOnly    bool     `json:"nameOnly,omitempty"` // services are called by their name, without the namespace

	Created  Stamp `json:"created"` // when it was attached
	Modified Stamp `json:"modified"`
}

// SecretOwner is the associated data that the cluster's secret is sealed with.
func (c *Cluster) SecretOwner() string { return c.UID.String() + "/clusterSecret" }

// ID returns the resource id of the cluster.
func (c *Cluster) ID() ID { return ClusterID(c.Workspace, c.Name) }

// ClusterID returns the resource id of a cluster of a workspace.
func ClusterID(ws ID, name string) ID { return ws.Extension("Carillon.Kubernetes", "clusters", name) }

// Values of Workspace.PayloadCasing and Workspace.DriftRaiseOn.
const (
	PayloadCamelCase  = "camelCase"
	PayloadDocumented = "documented"
	DriftOnCompleted  = "completed"
	DriftOnDrift      = "drift"
)

// ProvisioningState is where a resource stands. Topics and workspaces are always
// Succeeded: their changes finish inside the request.
type ProvisioningState string

// The states of an event subscription. Creating and Updating last while the
// handshake runs; AwaitingManualAction until somebody opens the validation link
// (Succeeded) or ten minutes pass (Failed). Source: spec/delivery.md section 1.5.
const (
	Creating             ProvisioningState = "Creating"
	Updating             ProvisioningState = "Updating"
	Deleting             ProvisioningState = "Deleting"
	Succeeded            ProvisioningState = "Succeeded"
	Canceled             ProvisioningState = "Canceled"
	Failed               ProvisioningState = "Failed"
	AwaitingManualAction ProvisioningState = "AwaitingManualAction"
)

// EventSubscription sends the events of one topic that pass its filter to one
// destination.
type EventSubscription struct {
	UID      UID    `json:"uid"`
	Scope    ID     `json:"scope"` // the source: a topic, a workspace, a system topic
	Name     string `json:"name"`
	TopicUID UID    `json:"topicUid"` // of the topic, or of the domain also where the source is one of its topics
	// DomainTopic is the name of the source in lower case where it is a topic of a domain.
	DomainTopic string `json:"domainTopic,omitempty"`

	Destination      Destination   `json:"destination"`
	Filter           filter.Filter `json:"filter"`
	FilterGeneration uint64        `json:"filterGeneration"` // 1 at creation, grows with each change of Filter
	Labels           []string      `json:"labels,omitempty"`
	DeliverySchema   event.Schema  `json:"deliverySchema"`
	RetryPolicy      RetryPolicy   `json:"retryPolicy"`
	Expiration       time.Time     `json:"expiration,omitzero"` // zero = never; an event matches iff its ingest time is before it

	DeadLetter *DeadLetterDestination `json:"deadLetter,omitempty"` // nil = dead letters stay with the server
	Limits     DeliveryLimits         `json:"limits,omitzero"`

	Paused time.Time `json:"paused,omitzero"` // since when nothing is attempted; zero = it is. Not a setting: only pause and resume change it

	State      ProvisioningState `json:"state"`
	Active     bool              `json:"active,omitempty"`     // events are matched and delivered by it: true from the first consent on, also while a change waits or after it failed
	Pending    *Settings         `json:"pending,omitempty"`    // a change of an active one that waits for consent; the fields above stay in force
	Validation *Validation       `json:"validation,omitempty"` // the last manual handshake
	Failure    string            `json:"failure,omitempty"`    // why the state is Failed, for people
	Created    Stamp             `json:"created"`
	Modified   Stamp             `json:"modified"`
}

// RetryPolicy ends delivery at whichever limit comes first.
type RetryPolicy struct {
	MaxDeliveryAttempts int `json:"maxDeliveryAttempts"`      // 1 to 30, default 30, the first attempt included
	EventTimeToLive     int `json:"eventTimeToLiveInMinutes"` // 1 to 1440, default 1440, from ingest
}

// Defaults of RetryPolicy. Source: spec/delivery.md section 4.2.
const (
	DefaultMaxDeliveryAttempts = 30
	DefaultEventTimeToLive     = 1440
)

// Destination is where deliveries go. Exactly one of the pointers is set: WebHook
// where Type is DestinationWebHook, Target otherwise.
type Destination struct {
	Type    string   `json:"type"` // DestinationWebHook, or the name of a Kind
	WebHook *WebHook `json:"webHook,omitempty"`
	Target  *Target  `json:"target,omitempty"`
}

// Packing is how deliveries are put together and what they carry besides their events.
type Packing struct {
	MaxEventsPerBatch             int                 `json:"maxEventsPerBatch,omitempty"`             // 1 to 5000; above 1 turns output batching on
	PreferredBatchSizeInKilobytes int                 `json:"preferredBatchSizeInKilobytes,omitempty"` // 1 to 1024; a size that batches aim at
	DeliveryAttributes            []DeliveryAttribute `json:"deliveryAttributes,omitempty"`            // headers or properties of one's own, at most MaxDeliveryAttributes
}

// Packing returns the packing of whichever destination it is. It is shared: no one
// writes to it.
func (d *Destination) Packing() *Packing {
	switch {
	case d.WebHook != nil:
		return &d.WebHook.Packing
	case d.Target != nil:
		return &d.Target.Packing
	}
	return &Packing{}
}

// DestinationWebHook is the endpointType of webhooks.
const DestinationWebHook = "WebHook"

// WebHook is an HTTP endpoint that proved by a handshake that it wants events.
type WebHook struct {
	SealedURL string `json:"sealedUrl"` // the full URL, sealed with the event subscription's UID as associated data
	BaseURL   string `json:"baseUrl"`   // without query and fragment, for showing
	Packing
	Signing           *Signing           `json:"signing,omitempty"`           // nil = deliveries are not signed
	TenantID          string             `json:"tenantId,omitempty"`          // with Application: messages carry a bearer token of this tenant
	Application       string             `json:"application,omitempty"`       // id or URI of the application that the token is for
	TokenIssuer       *TokenIssuer       `json:"tokenIssuer,omitempty"`       // nil = this server makes the tokens, if there is an Application
	ClientCertificate *ClientCertificate `json:"clientCertificate,omitempty"` // nil = none
	AllowedRate       int                `json:"allowedRate,omitempty"`       // requests a minute that the endpoint allowed in its last handshake; 0 = any number
	Extra             json.RawMessage    `json:"extra,omitempty"`
}

// Validation is a handshake that waits for somebody to open the link, or did: the
// link may be opened again until it expires and says the same.
type Validation struct {
	TokenHash string    `json:"tokenHash"` // SHA-256 of the link's token, hex; the token itself is not kept
	Expires   time.Time `json:"expires"`
	Accepted  bool      `json:"accepted,omitempty"`
	Message   string    `json:"message,omitempty"` // for people: what the endpoint did and what is expected
}

// EventSubscriptionKey is the store key of an event subscription: one object,
// whichever of its two paths it is reached by.
func EventSubscriptionKey(scope ID, name string) string {
	return scope.Extension("Microsoft.EventGrid", "eventSubscriptions", name).Key()
}

// URLOwner is the associated data that the event subscription's URLs are sealed with.
func (es *EventSubscription) URLOwner() string { return es.UID.String() }

// Key returns the event subscription's store key.
func (es *EventSubscription) Key() string { return EventSubscriptionKey(es.Scope, es.Name) }

// ID returns the scope-form resource id.
func (es *EventSubscription) ID() ID {
	return es.Scope.Extension("Microsoft.EventGrid", "eventSubscriptions", es.Name)
}

// Twin returns the other id of an event subscription that hangs on a resource of Event
// Grid: nested under it, or an extension of it. Other ids have none.
// Source: spec/management.md sections 2.2 and 2.3.
func (id ID) Twin() (ID, bool) {
	parent := id.Parent()
	namespace, _, _ := strings.Cut(parent.Type(), "/")
	switch {
	case !strings.EqualFold(namespace, "Microsoft.EventGrid"):
		return ID{}, false
	case id.IsType(TypeEventSubscription):
		return parent.Child("eventSubscriptions", id.Name()), true
	case id.IsType(parent.Type() + "/eventSubscriptions"):
		return parent.Extension("Microsoft.EventGrid", "eventSubscriptions", id.Name()), true
	}
	return ID{}, false
}
