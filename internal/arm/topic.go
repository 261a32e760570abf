package arm

import (
	"encoding/json"
	"strings"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// topicBody is a topic on the wire. Source: spec/management.md section 5.2.
type topicBody struct {
	inletBody
	Properties topicProperties `json:"properties"`
}

// inletBody is what topics and domains show beside their properties.
type inletBody struct {
	trackedBody
	Kind             any          `json:"kind"`
	SKU              any          `json:"sku"`
	ExtendedLocation any          `json:"extendedLocation,omitempty"`
	Identity         identityBody `json:"identity"`
}

type topicProperties struct {
	ProvisioningState          string       `json:"provisioningState"`
	Endpoint                   string       `json:"endpoint"`
	InputSchema                string       `json:"inputSchema"`
	InputSchemaMapping         any          `json:"inputSchemaMapping"`                          // null but for custom input
	DuplicateWindow            int          `json:"duplicateDetectionWindowInMinutes,omitempty"` // ours
	MetricResourceID           string       `json:"metricResourceId"`
	PublicNetworkAccess        string       `json:"publicNetworkAccess"`
	InboundIPRules             []ipRuleBody `json:"inboundIpRules"` // null for none
	DisableLocalAuth           bool         `json:"disableLocalAuth"`
	DataResidencyBoundary      any          `json:"dataResidencyBoundary"`
	MinimumTLSVersionAllowed   any          `json:"minimumTlsVersionAllowed,omitempty"`
	EventTypeInfo              any          `json:"eventTypeInfo,omitempty"`
	PrivateEndpointConnections []any        `json:"privateEndpointConnections"`
}

// ipRuleBody is a network that events may be published from.
type ipRuleBody struct {
	IPMask string `json:"ipMask"`
	Action string `json:"action"`
}

func ingressOf(in resource.Ingress) (publicNetworkAccess string, rules []ipRuleBody) {
	publicNetworkAccess = manage.PublicAccessEnabled
	if in.Closed {
		publicNetworkAccess = manage.PublicAccessDisabled
	}
	for _, network := range in.Allowed {
		rules = append(rules, ipRuleBody{network, manage.IPRuleAllow})
	}
	return publicNetworkAccess, rules
}

// identityBody says that a resource has no identity of its own.
type identityBody struct {
	Type                   string `json:"type"`
	PrincipalID            any    `json:"principalId"`
	TenantID               any    `json:"tenantId"`
	UserAssignedIdentities any    `json:"userAssignedIdentities"`
}

func (a *api) topicBody(t resource.Item[resource.Topic]) topicBody {
	return topicBody{a.inletBody(&t.Value, resource.TypeTopic, t.ETag()), a.topicProperties(&t.Value, "topics")}
}

func (a *api) inletBody(t *resource.Topic, kind, etag string) inletBody {
	extra := keptOf(t.Extra)
	return inletBody{
		trackedBody:      trackedOf(t.Meta, kind, etag),
		Kind:             extra.or("kind", "Azure"),
		SKU:              extra.or("sku", map[string]string{"name": "Basic"}),
		ExtendedLocation: extra.or("extendedLocation", nil),
		Identity:         identityBody{Type: "None"},
	}
}

// topicProperties are those that topics and domains have; path begins the path of the
// endpoint.
func (a *api) topicProperties(t *resource.Topic, path string) topicProperties {
	properties := keptOf(keptOf(t.Extra)["properties"])
	publicNetworkAccess, rules := ingressOf(t.Ingress)
	return topicProperties{
		ProvisioningState:          string(resource.Succeeded),
		Endpoint:                   a.PublicURL + "/" + path + "/" + t.ID.Name() + "/api/events",
		InputSchema:                t.InputSchema.String(),
		InputSchemaMapping:         mappingBodyOf(t.Mapping),
		DuplicateWindow:            t.DuplicateWindow,
		MetricResourceID:           guid(t.UID),
		PublicNetworkAccess:        publicNetworkAccess,
		InboundIPRules:             rules,
		DisableLocalAuth:           t.DisableLocalAuth,
		DataResidencyBoundary:      properties.or("dataResidencyBoundary", "WithinGeopair"),
		MinimumTLSVersionAllowed:   properties.or("minimumTlsVersionAllowed", nil),
		EventTypeInfo:              properties.or("eventTypeInfo", nil),
		PrivateEndpointConnections: []any{},
	}
}

// topicChange reads a topic from the body of a request.
func (r *request) topicChange() manage.TopicChange {
	f, t := r.tracked()
	return readTopic(f, t)
}

// readTopic reads what topics and domains have from the members of a body.
func readTopic(f fields, t manage.Tracked) manage.TopicChange {
	c := manage.TopicChange{Tracked: t}
	extra, inner := kept{}, kept{}
	extra.keep(f, "sku", "kind", "extendedLocation")
	noIdentity(f)
	p := f.sub("properties")
	c.InputSchema = p.str("inputSchema")
	c.Mapping = mappingOf(p)
	c.DuplicateWindow = p.integer("duplicateDetectionWindowInMinutes")
	c.DisableLocalAuth = value[bool](p, "disableLocalAuth", "true or false")
	c.PublicNetworkAccess, c.InboundIPRules = p.text("publicNetworkAccess"), ipRules(p)
	if boundary := p.text("dataResidencyBoundary"); boundary != nil {
		word, known := canonical(*boundary, "WithinGeopair", "WithinRegion")
		if !known {
			p.refuse("dataResidencyBoundary", "The value '%.40s' of dataResidencyBoundary is not known: use WithinGeopair or WithinRegion.", *boundary)
		}
		inner["dataResidencyBoundary"] = quoted(word)
	}
	if tls := tlsVersion(p); tls != "" {
		inner["minimumTlsVersionAllowed"] = quoted(tls)
	}
	if _, given := p.object("eventTypeInfo"); given {
		inner["eventTypeInfo"] = p.raw("eventTypeInfo")
	}
	if raw := inner.raw(); raw != nil {
		extra["properties"] = raw
	}
	c.Extra, c.Problems = extra.raw(), *f.problems
	return c
}

// ipRules reads the networks that events may be published from, nil where they are
// absent.
func ipRules(p fields) *[]manage.IPRule {
	list := p.objects("inboundIpRules", "an object with ipMask and action")
	if list == nil {
		return nil
	}
	rules := []manage.IPRule{}
	for _, f := range list {
		rules = append(rules, manage.IPRule{IPMask: f.str("ipMask"), Action: f.str("action")})
	}
	return &rules
}

// noIdentity refuses identities: no resource of this server has one.
func noIdentity(f fields) {
	if kind := f.sub("identity").str("type"); kind != "" && !strings.EqualFold(kind, "None") {
		f.refuse("identity.type", "The identity type '%.40s' is not supported: this server gives resources no identities. Leave identity out or use None.", kind)
	}
}

// tlsVersion reads minimumTlsVersionAllowed. This server speaks TLS 1.2 and newer,
// so every documented minimum holds.
func tlsVersion(p fields) string {
	v := p.str("minimumTlsVersionAllowed")
	if _, known := canonical(v, "1.0", "1.1", "1.2"); v != "" && !known {
		p.refuse("minimumTlsVersionAllowed", "The value '%.40s' of minimumTlsVersionAllowed is not known: use 1.0, 1.1 or 1.2.", v)
	}
	return v
}

// canonical gives a word its documented spelling.
func canonical(word string, known ...string) (string, bool) {
	for _, k := range known {
		if strings.EqualFold(word, k) {
			return k, true
		}
	}
	return word, false
}

func quoted(text string) json.RawMessage {
	raw, _ := json.Marshal(text) // a string has a JSON form
	return raw
}

func emptyObject(raw json.RawMessage) bool {
	var members map[string]json.RawMessage
	return json.Unmarshal(raw, &members) == nil && len(members) == 0
}

func getTopic(a *api, r *request) (answer, error) {
	t, err := a.Plane.Topic(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: t.ETag(), body: a.topicBody(t)}, nil
}

// topicOperation is the operation of a change of a topic or a domain, which is done once it is answered.
func topicOperation(t *resource.Topic) asyncOperation {
	return asyncOperation{location: t.Location, id: t.ID, uid: t.UID, state: resource.Succeeded}
}

func putTopic(a *api, r *request) (answer, error) {
	t, err := a.Plane.PutTopic(r.ctx, r.caller, r.id, r.topicChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	return a.changed(r, topicOperation(&t.Value), t.ETag(), a.topicBody(t)), nil
}

func patchTopic(a *api, r *request) (answer, error) {
	t, err := a.Plane.PatchTopic(r.ctx, r.caller, r.id, r.topicChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	return a.changed(r, topicOperation(&t.Value), t.ETag(), a.topicBody(t)), nil
}

func deleteTopic(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteTopic(r.ctx, r.caller, r.id, r.precondition()))
}

func listTopics(a *api, r *request) (answer, error) {
	topics, err := a.Plane.Topics(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(topics, func(t *resource.Item[resource.Topic]) entry {
		return entry{t.Key, t.Value.ID.Name(), func() any { return a.topicBody(*t) }}
	}))
}

// keysBody are the access keys of a topic or a domain. Source: spec/management.md section 5.3.
type keysBody struct {
	Key1 string `json:"key1"`
	Key2 string `json:"key2"`
}

func listKeys(a *api, r *request) (answer, error) {
	return keysAnswer(a.Plane.TopicKeys(r.ctx, r.caller, r.id))
}

func regenerateKey(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	name := f.str("keyName")
	return keysAnswer(a.Plane.RegenerateTopicKey(r.ctx, r.caller, r.id, name, f.verdict(unread)))
}

func keysAnswer(keys [2]string, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return ok(keysBody{keys[0], keys[1]}), nil
}
