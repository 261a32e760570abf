package arm

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// eventSubscriptionBody is an event subscription on the wire.
// Source: spec/management.md section 5.5.
type eventSubscriptionBody struct {
	ID         string                      `json:"id"`
	Name       string                      `json:"name"`
	Type       string                      `json:"type"`
	ETag       string                      `json:"etag"`
	SystemData systemData                  `json:"systemData"`
	Properties eventSubscriptionProperties `json:"properties"`
}

type eventSubscriptionProperties struct {
	Topic                 string          `json:"topic"`
	ProvisioningState     string          `json:"provisioningState"`
	Destination           destinationBody `json:"destination"`
	Filter                filter.Filter   `json:"filter"`
	Labels                []string        `json:"labels"`
	EventDeliverySchema   string          `json:"eventDeliverySchema"`
	RetryPolicy           retryPolicyBody `json:"retryPolicy"`
	DeadLetterDestination any             `json:"deadLetterDestination"`
	DeadLetterIdentity    any             `json:"deadLetterWithResourceIdentity,omitempty"`
	ExpirationTimeUTC     *string         `json:"expirationTimeUtc"`
	DeliveryLimits        *limitsBody     `json:"deliveryLimits,omitempty"` // ours
	*pausedBody                           // ours
	Receive               *receiveBody    `json:"receive,omitempty"`    // ours: where events are received; it is shown and not read
	Validation            *validationBody `json:"validation,omitempty"` // ours: how a handshake that is not done stands
}

type destinationBody struct {
	EndpointType string `json:"endpointType"`
	Properties   any    `json:"properties"`
}

// webHookBody is a webhook on the wire. Its URL may hold a key and is never shown.
type webHookBody struct {
	EndpointURL                            any             `json:"endpointUrl"`
	EndpointBaseURL                        string          `json:"endpointBaseUrl"`
	MaxEventsPerBatch                      int             `json:"maxEventsPerBatch"`
	PreferredBatchSizeInKilobytes          int             `json:"preferredBatchSizeInKilobytes"`
	AzureActiveDirectoryTenantID           *string         `json:"azureActiveDirectoryTenantId"`
	AzureActiveDirectoryApplicationIDOrURI *string         `json:"azureActiveDirectoryApplicationIdOrUri"`
	DeliveryAttributeMappings              []attributeBody `json:"deliveryAttributeMappings"`
	MinimumTLSVersionAllowed               any             `json:"minimumTlsVersionAllowed,omitempty"`
	Signing                                *signingBody    `json:"signing,omitempty"` // ours
	credentialsBody
}

type retryPolicyBody struct {
	MaxDeliveryAttempts int `json:"maxDeliveryAttempts"`
	EventTimeToLive     int `json:"eventTimeToLiveInMinutes"`
}

// receiveBody is what a client that receives is given, beside the name of the event
// subscription.
type receiveBody struct {
	Endpoint string `json:"endpoint"`
	Topic    string `json:"topic"`
}

type validationBody struct {
	Message string `json:"message"`
	Until   string `json:"until,omitempty"`
	// Delivering says that the settings before the change go on being delivered by.
	Delivering bool `json:"deliveringByFormerSettings"`
}

// Batch settings as they are shown without batching.
// Source: spec/management.md section 5.5.
const (
	defaultBatchEvents    = 1
	defaultBatchKilobytes = 64
)

func (a *api) eventSubscriptionOf(v manage.EventSubscription) eventSubscriptionBody {
	es := &v.Value
	s := es.Wanted()
	b := eventSubscriptionBody{
		ID: v.ID.String(), Name: es.Name, Type: v.ID.Type(), ETag: v.ETag(), SystemData: systemDataOf(es.Created, es.Modified),
		Properties: eventSubscriptionProperties{
			Topic: v.Topic, ProvisioningState: string(es.State),
			Destination: destinationBody{EndpointType: s.Destination.Type},
			Filter:      s.Filter, Labels: s.Labels, EventDeliverySchema: deliverySchemaName(s.DeliverySchema),
			RetryPolicy: retryPolicyBody{s.RetryPolicy.MaxDeliveryAttempts, s.RetryPolicy.EventTimeToLive},
		},
	}
	if hook := s.Destination.WebHook; hook != nil {
		b.Properties.Destination.Properties = webHookBody{
			EndpointBaseURL: hook.BaseURL, MaxEventsPerBatch: max(hook.MaxEventsPerBatch, defaultBatchEvents),
			PreferredBatchSizeInKilobytes: cmp.Or(hook.PreferredBatchSizeInKilobytes, defaultBatchKilobytes),
			AzureActiveDirectoryTenantID:  orNull(hook.TenantID), AzureActiveDirectoryApplicationIDOrURI: orNull(hook.Application),
			DeliveryAttributeMappings: maskedAttributes(hook.DeliveryAttributes),
			Signing:                   signingOf(hook.Signing, v.IssuedKey),
			MinimumTLSVersionAllowed:  keptOf(hook.Extra).or("minimumTlsVersionAllowed", nil),
			credentialsBody:           credentialsOf(hook),
		}
	} else if target := s.Destination.Target; target != nil {
		b.Properties.Destination.Properties = targetOf(s.Destination.Type, target)
	}
	b.Properties.DeadLetterDestination, b.Properties.DeadLetterIdentity = deadLetterOf(s.DeadLetter)
	if s.Destination.Type == resource.DestinationPull {
		path, topic := resource.ReceiveAddress(es.Scope)
		b.Properties.Receive = &receiveBody{Endpoint: a.PublicURL + path, Topic: topic}
	}
	b.Properties.pausedBody, b.Properties.DeliveryLimits = pausedOf(v), limitsOf(&s)
	if !s.Expiration.IsZero() {
		at := armTime(s.Expiration)
		b.Properties.ExpirationTimeUTC = &at
	}
	switch {
	case es.State == resource.AwaitingManualAction && es.Validation != nil:
		b.Properties.Validation = &validationBody{Message: es.Validation.Message, Until: armTime(es.Validation.Expires), Delivering: es.Active}
	case es.State == resource.Failed:
		b.Properties.Validation = &validationBody{Message: es.Failure, Delivering: es.Active}
	}
	return b
}

// deliverySchemaName spells a delivery schema; that of custom input has a name of
// its own. Source: spec/delivery.md section 2.3.
func deliverySchemaName(s event.Schema) string {
	if s == event.CustomEventSchema {
		return "CustomInputSchema"
	}
	return s.String()
}

// eventSubscriptionChange reads an event subscription from the body of a request.
// PUT has its members below properties; PATCH has them at the top, and may have
// them below properties as well. Source: spec/management.md section 5.5.
func (r *request) eventSubscriptionChange() manage.EventSubscriptionChange {
	f, err := r.readBody()
	p := f
	if _, enveloped := f.member("properties"); enveloped || r.http.Method == http.MethodPut {
		r.sameResource(f)
		p = f.sub("properties")
	}
	c := manage.EventSubscriptionChange{Unread: err, Filter: p.raw("filter"), DeliverySchema: p.text("eventDeliverySchema"), Expiration: p.text("expirationTimeUtc")}
	if p.path != "" {
		c.Target = p.path + "."
	}
	if d, given := p.object("destination"); given {
		c.Destination = destinationChange(d)
	}
	if list := p.texts("labels"); list != nil {
		c.Labels = &list
	}
	if policy, given := p.object("retryPolicy"); given {
		c.RetryPolicy = &manage.RetryPolicyChange{MaxDeliveryAttempts: policy.integer("maxDeliveryAttempts"), EventTimeToLive: policy.integer("eventTimeToLiveInMinutes")}
	}
	c.DeadLetter, c.Limits = deadLetterChange(p), limitsChange(p)
	if _, given := p.member("deliveryWithResourceIdentity"); given {
		p.refuse("deliveryWithResourceIdentity", "This server gives resources no identities to deliver with: leave deliveryWithResourceIdentity out and use destination.")
	}
	c.Problems = *f.problems
	return c
}

func destinationChange(d fields) *manage.DestinationChange {
	c := &manage.DestinationChange{Type: d.str("endpointType")}
	if !strings.EqualFold(c.Type, resource.DestinationWebHook) && resource.KindOf(c.Type) == nil {
		return c
	}
	p := d.sub("properties")
	c.MaxEventsPerBatch, c.PreferredBatchSizeInKilobytes = p.integer("maxEventsPerBatch"), p.integer("preferredBatchSizeInKilobytes")
	if !strings.EqualFold(c.Type, resource.DestinationWebHook) {
		c.Members, c.Attributes = p.members, attributeChanges(p)
		return c
	}
	c.EndpointURL = p.text("endpointUrl")
	c.TenantID, c.Application = p.str("azureActiveDirectoryTenantId"), p.str("azureActiveDirectoryApplicationIdOrUri")
	c.TokenIssuer, c.ClientCertificate = tokenIssuerChange(p), clientCertificateChange(p)
	c.Attributes, c.Signing = attributeChanges(p), signingChange(p)
	extra := kept{}
	if tls := tlsVersion(p); tls != "" {
		extra["minimumTlsVersionAllowed"] = quoted(tls)
	}
	c.Extra = extra.raw()
	return c
}

func getEventSubscription(a *api, r *request) (answer, error) {
	v, err := a.Plane.EventSubscription(r.ctx, r.caller, r.id)
	return a.eventSubscriptionAnswer(v, err)
}

// eventSubscriptionOperation is the operation of a change: it stands as the event
// subscription does.
func eventSubscriptionOperation(v manage.EventSubscription) asyncOperation {
	return asyncOperation{location: v.Location, id: v.ID, uid: v.Value.UID, state: v.Value.State, failure: v.Value.Failure}
}

func putEventSubscription(a *api, r *request) (answer, error) {
	v, err := a.Plane.PutEventSubscription(r.ctx, r.caller, r.id, r.eventSubscriptionChange(), r.precondition())
	return a.eventSubscriptionChanged(r, v, err)
}

func patchEventSubscription(a *api, r *request) (answer, error) {
	v, err := a.Plane.PatchEventSubscription(r.ctx, r.caller, r.id, r.eventSubscriptionChange(), r.precondition())
	return a.eventSubscriptionChanged(r, v, err)
}

func (a *api) eventSubscriptionChanged(r *request, v manage.EventSubscription, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return a.changed(r, eventSubscriptionOperation(v), v.ETag(), a.eventSubscriptionOf(v)), nil
}

func (a *api) eventSubscriptionAnswer(v manage.EventSubscription, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, etag: v.ETag(), body: a.eventSubscriptionOf(v)}, nil
}

func deleteEventSubscription(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteEventSubscription(r.ctx, r.caller, r.id, r.precondition()))
}

func getFullURL(a *api, r *request) (answer, error) {
	url, err := a.Plane.FullURL(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]string{"endpointUrl": url}), nil
}

// listNestedEventSubscriptions lists those of a topic or system topic, under the
// ids they have below it.
func listNestedEventSubscriptions(a *api, r *request) (answer, error) {
	return a.listEventSubscriptions(r, func(part manage.Part) ([]manage.EventSubscription, error) {
		return a.Plane.EventSubscriptions(r.ctx, r.caller, r.id, true, part)
	})
}

// listEventSubscriptionsOfSource lists those of one source.
func listEventSubscriptionsOfSource(a *api, r *request) (answer, error) {
	return a.listEventSubscriptions(r, func(part manage.Part) ([]manage.EventSubscription, error) {
		return a.Plane.EventSubscriptions(r.ctx, r.caller, r.scope, false, part)
	})
}

// listEventSubscriptions lists those below a subscription or a resource group: of
// a region, of a topic type, of both, or of global sources.
func listEventSubscriptions(a *api, r *request) (answer, error) {
	var l manage.Listing
	for i := 0; i+1 < len(r.rest); i += 2 {
		switch strings.ToLower(r.rest[i]) {
		case "locations":
			l.Location = r.rest[i+1]
		case "topictypes":
			l.TopicType = r.rest[i+1]
		}
	}
	return a.listEventSubscriptions(r, func(part manage.Part) ([]manage.EventSubscription, error) {
		return a.Plane.ListEventSubscriptions(r.ctx, r.caller, r.scope, l, part)
	})
}

func (a *api) listEventSubscriptions(r *request, list func(manage.Part) ([]manage.EventSubscription, error)) (answer, error) {
	part, err := r.part()
	if err != nil {
		return answer{}, err
	}
	views, err := list(part)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(views, func(v *manage.EventSubscription) entry {
		return entry{v.Key, v.Value.Name, func() any { return a.eventSubscriptionOf(*v) }}
	}))
}

// validationLink takes the link that a webhook was given in its handshake. The
// token is in the query and stays out of every log.
// Source: spec/delivery.md section 1.3.
func validationLink(a *api, r *request) (answer, error) {
	uid, err := strconv.ParseUint(r.rest[1], 16, 64)
	if err != nil || uid == 0 {
		return answer{}, fault.New(fault.Invalid, "InvalidRequest", "The validation link is not valid.")
	}
	perMinute, err := a.Plane.Consent(r.ctx, resource.UID(uid), r.query.Get("token"), r.http.Header.Get("WebHook-Allowed-Rate"))
	if err != nil {
		return answer{}, err
	}
	text := "Webhook successfully validated as a subscription endpoint."
	if perMinute != 0 {
		text += fmt.Sprintf(" It gets at most %d requests a minute. For another rate open this link again with the header WebHook-Allowed-Rate: a number of requests, or * for any.", perMinute)
	}
	return answer{stream: func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text+"\n") // the client has gone if this fails
	}}, nil
}
