package manage

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/mlevent"
)

// EventSubscriptionChange is what a request says of an event subscription. Nil
// means that it says nothing: the default on PUT, unchanged on PATCH.
type EventSubscriptionChange struct {
	Destination    *DestinationChange
	Filter         json.RawMessage // in the management API's form
	Labels         *[]string
	DeliverySchema *string
	RetryPolicy    *RetryPolicyChange
	Expiration     *string // RFC 3339; "" = never
	DeadLetter     *DeadLetterChange
	Limits         *LimitsChange
	Problems       []*fault.Error // what the wire form got wrong already
	Unread         error          // why the body could not be read at all
	Target         string         // put before the targets of problems, "properties." on PUT
}

// DestinationChange is a destination as a request gives it.
type DestinationChange struct {
	Type        string
	EndpointURL *string         // nil keeps the URL of a destination of the same type
	Extra       json.RawMessage // members that are shown as they came

	// Members are what is said of a destination that is no webhook, as it came.
	Members map[string]json.RawMessage

	// Output batching: each turns it on when given alone, 1 event per batch is off.
	MaxEventsPerBatch             *int
	PreferredBatchSizeInKilobytes *int

	Attributes []AttributeChange // delivery attributes, all of them
	Signing    *SigningChange    // nil leaves signatures as they are

	TenantID, Application string                   // of the bearer token that messages carry; "" for none
	TokenIssuer           *TokenIssuerChange       // nil leaves it as it is
	ClientCertificate     *ClientCertificateChange // nil leaves it as it is
}

// RetryPolicyChange is a retry policy as a request gives it.
type RetryPolicyChange struct {
	MaxDeliveryAttempts *int
	EventTimeToLive     *int
}

// maxURL bounds an endpoint URL. Event Grid documents no limit.
const maxURL = 8 << 10

// settings returns what the request asks for on top of what is there, with the
// plain endpoint URL, or every problem it has. oldURL is the endpoint that is
// there, "" for none.
func (p *Plane) settings(es *resource.EventSubscription, s source, c EventSubscriptionChange, oldURL string, exists, put bool) (resource.Settings, string, error) {
	base := es.Wanted()
	want := base
	if c.Unread != nil {
		return want, "", c.Unread
	}
	if put {
		want = resource.Settings{
			DeliverySchema: defaultDelivery(s.schema),
			RetryPolicy:    resource.RetryPolicy{MaxDeliveryAttempts: resource.DefaultMaxDeliveryAttempts, EventTimeToLive: resource.DefaultEventTimeToLive},
			Limits:         base.Limits,
		}
	}
	v := checker{target: c.Target, problems: slices.Clone(c.Problems)}
	if !exists {
		v.add(resource.EventSubscriptionName.Check(es.Name))
	}
	endpoint := oldURL
	var attributes []newAttribute
	var credentials newCredentials
	var target newTarget
	kind := c.Destination.kind()
	switch {
	case kind != nil:
		endpoint = ""
		target = p.newTarget(&v, es, kind, c.Destination, base.Destination)
		v.batch(c.Destination)
		var kept []resource.DeliveryAttribute
		if t := base.Destination.Target; t != nil && base.Destination.Type == kind.Name && sameAddress(kind, t.Values, target.values) {
			kept = secretAttributes(&t.Packing)
		}
		attributes = v.attributes(c.Destination.Attributes, kept)
	case c.Destination != nil:
		endpoint = v.destination(c.Destination, base.Destination.Type, oldURL, p.CheckURL)
		v.batch(c.Destination)
		attributes = v.attributes(c.Destination.Attributes, keptSecrets(base.Destination, oldURL, endpoint))
		v.signing(c.Destination.Signing, presentSigning(base.Destination), func(s *resource.Signing) (secret.SigningKey, error) {
			return OpenSigningKey(p.Sealer, es, &s.Keys[0])
		})
		credentials = p.credentials(&v, es, c.Destination, base.Destination, oldURL, endpoint)
	case put:
		v.field("destination", "An event subscription needs a destination: send one with endpointType WebHook and properties.endpointUrl.")
	}
	if c.Filter != nil || put {
		want.Filter = v.filter(c.Filter, s)
	}
	if c.Labels != nil {
		for _, problem := range resource.CheckLabels(c.Target+"labels", *c.Labels) {
			v.add(problem)
		}
		want.Labels = slices.Clone(*c.Labels)
	}
	if c.DeliverySchema != nil && *c.DeliverySchema != "" {
		want.DeliverySchema = v.deliverySchema(*c.DeliverySchema, s.schema)
	}
	if c.RetryPolicy != nil {
		want.RetryPolicy = v.retryPolicy(*c.RetryPolicy)
	}
	if c.Expiration != nil {
		want.Expiration = v.expiration(*c.Expiration)
	}
	if c.DeadLetter != nil {
		want.DeadLetter = v.deadLetter(c.DeadLetter, p.CheckDeadLetter)
	}
	want.Limits = v.limits(want.Limits, c.Limits)
	if kind != nil && kind.Form == resource.FormPull || c.Destination == nil && want.Destination.Type == resource.DestinationPull {
		v.pull(&want, c)
	}
	if err := v.err(); err != nil {
		return want, "", err
	}
	if kind != nil {
		to, err := target.seal(p, es)
		if err != nil {
			return want, "", err
		}
		if to.DeliveryAttributes, err = p.sealAttributes(es, attributes); err != nil {
			return want, "", err
		}
		to.MaxEventsPerBatch, to.PreferredBatchSizeInKilobytes = c.Destination.batching()
		want.Destination = resource.Destination{Type: kind.Name, Target: to}
		return want, "", nil
	}
	if c.Destination != nil || put {
		sealed, err := p.Sealer.Seal([]byte(endpoint), es.URLOwner())
		if err != nil {
			return want, "", fmt.Errorf("seal the endpoint URL of %s: %w", es.ID(), err)
		}
		want.Destination = resource.Destination{Type: resource.DestinationWebHook, WebHook: &resource.WebHook{
			SealedURL: sealed, BaseURL: secret.MaskURL(endpoint), Extra: c.Destination.Extra,
		}}
		if want.Destination.WebHook.DeliveryAttributes, err = p.sealAttributes(es, attributes); err != nil {
			return want, "", err
		}
		if want.Destination.WebHook.Signing, err = p.signingOf(es, c.Destination.Signing, presentSigning(base.Destination)); err != nil {
			return want, "", err
		}
		if err := p.sealCredentials(es, credentials, want.Destination.WebHook); err != nil {
			return want, "", err
		}
		want.Destination.WebHook.MaxEventsPerBatch, want.Destination.WebHook.PreferredBatchSizeInKilobytes = c.Destination.batching()
	}
	return want, endpoint, nil
}

// Batch limits, and what one setting means when only the other is given.
// Source: spec/delivery.md section 5.
const (
	maxBatchEvents        = 5000
	maxBatchKilobytes     = 1024
	defaultBatchKilobytes = 64
)

// batching returns the batch settings that are stored, 0 and 0 for none.
func (d *DestinationChange) batching() (events, kilobytes int) {
	switch {
	case d.MaxEventsPerBatch == nil && d.PreferredBatchSizeInKilobytes == nil:
		return 0, 0
	case d.MaxEventsPerBatch == nil:
		return maxBatchEvents, *d.PreferredBatchSizeInKilobytes
	case *d.MaxEventsPerBatch == 1:
		return 0, 0
	case d.PreferredBatchSizeInKilobytes == nil:
		return *d.MaxEventsPerBatch, defaultBatchKilobytes
	}
	return *d.MaxEventsPerBatch, *d.PreferredBatchSizeInKilobytes
}

// batch checks the batch settings.
func (v *checker) batch(d *DestinationChange) {
	for _, s := range []struct {
		name string
		n    *int
		most int
	}{
		{"maxEventsPerBatch", d.MaxEventsPerBatch, maxBatchEvents},
		{"preferredBatchSizeInKilobytes", d.PreferredBatchSizeInKilobytes, maxBatchKilobytes},
	} {
		if s.n != nil && (*s.n < 1 || *s.n > s.most) {
			v.field("destination.properties."+s.name, "The value %d of %s is out of range: use 1 to %d.", *s.n, s.name, s.most)
		}
	}
}

// defaultDelivery is the delivery schema where the request names none. Event Grid
// documents EventGridSchema; a CloudEvents topic can deliver CloudEvents only.
// Source: spec/delivery.md section 2.3.
func defaultDelivery(input event.Schema) event.Schema {
	if input == event.CloudEventSchemaV1_0 {
		return event.CloudEventSchemaV1_0
	}
	return event.EventGridSchema
}

// checker collects the problems of an event subscription.
type checker struct {
	target   string
	problems []*fault.Error
}

func (v *checker) add(problem *fault.Error) {
	if problem != nil {
		v.problems = append(v.problems, problem)
	}
}

func (v *checker) field(name, format string, args ...any) {
	v.add(fault.Field(v.target+name, format, args...))
}

// fieldOrder is the order in which the documentation shows the members of an event
// subscription, and in which problems are reported.
var fieldOrder = []string{
	"name", "destination.endpointType", "destination.properties.endpointUrl", "destination", "filter", "labels", "eventDeliverySchema",
	"retryPolicy.maxDeliveryAttempts", "retryPolicy", "expirationTimeUtc", "deadLetterDestination", "deadLetterWithResourceIdentity",
	"deliveryLimits",
}

// err joins the problems in field order.
func (v *checker) err() error { return joinInOrder(v.problems, fieldOrder, v.target) }

// joinInOrder joins problems in the order of their fields, one for each field: the
// first that was found. prefix stands before the fields in targets.
func joinInOrder(problems []*fault.Error, order []string, prefix string) error {
	seen := map[string]bool{}
	problems = slices.DeleteFunc(slices.Clone(problems), func(f *fault.Error) bool {
		double := f == nil || f.Target != "" && seen[f.Target]
		if f != nil {
			seen[f.Target] = true
		}
		return double
	})
	place := func(f *fault.Error) int {
		target := strings.TrimPrefix(f.Target, prefix)
		for i, field := range order {
			if rest, ok := strings.CutPrefix(target, field); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				return i
			}
		}
		return len(order)
	}
	slices.SortStableFunc(problems, func(a, b *fault.Error) int { return place(a) - place(b) })
	return fault.Join(problems...)
}

// kind is what the destination is, nil for a webhook or what is not known.
func (d *DestinationChange) kind() *resource.Kind {
	if d == nil {
		return nil
	}
	return resource.KindOf(d.Type)
}

func (v *checker) destination(d *DestinationChange, oldType, oldURL string, allowed func(*url.URL) error) string {
	const target = "destination.properties.endpointUrl"
	if !strings.EqualFold(d.Type, resource.DestinationWebHook) {
		known := strings.Join(resource.EndpointTypes(), ", ")
		if d.Type == "" {
			v.field("destination.endpointType", "A destination needs an endpointType. This server delivers to: %s.", known)
		} else {
			v.field("destination.endpointType", "The endpoint type '%s' is not one that this server delivers to. It delivers to: %s.", d.Type, known)
		}
		return ""
	}
	if d.EndpointURL == nil || *d.EndpointURL == "" {
		if oldURL == "" || oldType != resource.DestinationWebHook {
			v.field(target, "A WebHook destination needs an endpointUrl, for example https://hooks.example/events.")
		}
		return oldURL
	}
	raw := *d.EndpointURL
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURL:
		v.field(target, "The endpointUrl has %d bytes; at most %d are allowed.", len(raw), maxURL)
	case err != nil || u.Host == "" || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		v.field(target, "The endpointUrl is not an absolute URL: write one like https://hooks.example/events, with special characters percent-encoded.")
	default:
		if err := allowed(u); err != nil {
			v.field(target, "The endpointUrl cannot be used: %v.", err)
		}
	}
	return raw
}

func (v *checker) filter(raw json.RawMessage, s source) filter.Filter {
	o := filter.ParseOptions{Target: v.target + "filter", Strict: true}
	if s.topicType == resource.TopicTypeWorkspace {
		o.EventTypes = mlevent.AllTypes()
	}
	f, err := filter.Parse(raw, o)
	if err != nil {
		bad, ok := errors.AsType[*fault.Error](err)
		if !ok {
			bad = fault.Field(o.Target, "The filter cannot be read: %v.", err)
		}
		if len(bad.Details) > 0 {
			v.problems = append(v.problems, bad.Details...)
		} else {
			v.add(bad)
		}
		return f
	}
	// A system source shows the types that it raises, of ours only those that are named:
	// what has read Azure's events alone gets no others. Source: spec/management.md 5.5.
	if s.topicType == resource.TopicTypeWorkspace && everyType(f.IncludedEventTypes) {
		f.IncludedEventTypes = mlevent.Types()
	}
	return f
}

func everyType(types []string) bool {
	return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool { return strings.EqualFold(t, "All") })
}

// CustomInputSchema is what the management API calls the delivery of custom input as
// it was published. Everywhere else that is event.CustomEventSchema.
const CustomInputSchema = "CustomInputSchema"

// deliverySchema reads the delivery schema and checks that the topic's events can
// be written in it. Source: spec/delivery.md section 2.3.
func (v *checker) deliverySchema(name string, input event.Schema) event.Schema {
	const target = "eventDeliverySchema"
	known, ok := oneOf(name, event.EventGridSchema.String(), event.CloudEventSchemaV1_0.String(), CustomInputSchema)
	switch {
	case !ok:
		v.field(target, "The delivery schema '%s' is not known: use %s.", name, usable(input))
	case known == CustomInputSchema && input != event.CustomEventSchema:
		v.field(target, "The delivery schema CustomInputSchema is for topics whose input schema is CustomEventSchema; this one's is %s. Use %s.", input, usable(input))
	case known == event.EventGridSchema.String() && input == event.CloudEventSchemaV1_0:
		v.field(target, "The topic takes CloudEventSchemaV1_0 and delivers nothing else: use %s.", usable(input))
	case known == CustomInputSchema:
		return event.CustomEventSchema
	case known == event.EventGridSchema.String():
		return event.EventGridSchema
	default:
		return event.CloudEventSchemaV1_0
	}
	return 0
}

// usable names the delivery schemas of a topic.
func usable(input event.Schema) string {
	switch input {
	case event.CloudEventSchemaV1_0:
		return "CloudEventSchemaV1_0"
	case event.CustomEventSchema:
		return "EventGridSchema, CustomInputSchema or CloudEventSchemaV1_0"
	default:
		return "EventGridSchema or CloudEventSchemaV1_0"
	}
}

// pull checks and completes an event subscription whose events are received: as
// CloudEvents, and as fast as receivers ask for them.
func (v *checker) pull(want *resource.Settings, c EventSubscriptionChange) {
	if c.DeliverySchema == nil || *c.DeliverySchema == "" {
		want.DeliverySchema = event.CloudEventSchemaV1_0
	} else if want.DeliverySchema != event.CloudEventSchemaV1_0 {
		v.field("eventDeliverySchema", "Events are received as CloudEvents alone: use CloudEventSchemaV1_0, or leave eventDeliverySchema out.")
	}
	if l := c.Limits; l != nil && (l.MaxRequestsPerMinute != nil && *l.MaxRequestsPerMinute != 0 || l.MaxConcurrency != nil && *l.MaxConcurrency != 0) {
		v.field("deliveryLimits", "A destination of type %s has no deliveryLimits, for receivers ask as often as they like: leave them out.", resource.DestinationPull)
	}
	want.Limits = resource.DeliveryLimits{}
}

// Ranges of a retry policy. Source: spec/delivery.md section 4.2.
const (
	maxAttempts   = 30
	maxTimeToLive = 1440
)

func (v *checker) retryPolicy(c RetryPolicyChange) resource.RetryPolicy {
	r := resource.RetryPolicy{MaxDeliveryAttempts: resource.DefaultMaxDeliveryAttempts, EventTimeToLive: resource.DefaultEventTimeToLive}
	if c.MaxDeliveryAttempts != nil {
		if r.MaxDeliveryAttempts = *c.MaxDeliveryAttempts; r.MaxDeliveryAttempts < 1 || r.MaxDeliveryAttempts > maxAttempts {
			v.field("retryPolicy.maxDeliveryAttempts", "The value %d of maxDeliveryAttempts is out of range: use 1 to %d.", r.MaxDeliveryAttempts, maxAttempts)
		}
	}
	if c.EventTimeToLive != nil {
		if r.EventTimeToLive = *c.EventTimeToLive; r.EventTimeToLive < 1 || r.EventTimeToLive > maxTimeToLive {
			v.field("retryPolicy.eventTimeToLiveInMinutes", "The value %d of eventTimeToLiveInMinutes is out of range: use 1 to %d.", r.EventTimeToLive, maxTimeToLive)
		}
	}
	return r
}

// expiration reads an expiration time. One without a zone is in UTC.
func (v *checker) expiration(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		at, err = time.ParseInLocation("2006-01-02T15:04:05.999999999", text, time.UTC)
	}
	switch {
	case err != nil:
		v.field("expirationTimeUtc", "The expirationTimeUtc '%s' is not a time: write it like 2030-01-31T12:00:00Z.", text)
	case !at.After(time.Now()):
		v.field("expirationTimeUtc", "Invalid expiration time: '%s' is not in the future.", text)
	}
	return at.UTC()
}
