package arm

import (
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// domainBody is a domain on the wire. Source: spec/management.md section 5.8.
type domainBody struct {
	inletBody
	Properties domainProperties `json:"properties"`
}

type domainProperties struct {
	topicProperties
	AutoCreate bool `json:"autoCreateTopicWithFirstSubscription"`
	AutoDelete bool `json:"autoDeleteTopicWithLastSubscription"`
}

func (a *api) domainBody(d resource.Item[resource.Domain]) domainBody {
	return domainBody{
		a.inletBody(&d.Value.Topic, resource.TypeDomain, d.ETag()),
		domainProperties{a.topicProperties(&d.Value.Topic, "domains"), d.Value.AutoCreate, d.Value.AutoDelete},
	}
}

// domainChange reads a domain from the body of a request.
func (r *request) domainChange() manage.DomainChange {
	f, t := r.tracked()
	p := f.sub("properties")
	autoCreate := value[bool](p, "autoCreateTopicWithFirstSubscription", "true or false")
	autoDelete := value[bool](p, "autoDeleteTopicWithLastSubscription", "true or false")
	return manage.DomainChange{TopicChange: readTopic(f, t), AutoCreate: autoCreate, AutoDelete: autoDelete}
}

// changedDomain answers to a change of a domain.
func (a *api) changedDomain(r *request, d resource.Item[resource.Domain], err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return a.changed(r, topicOperation(&d.Value.Topic), d.ETag(), a.domainBody(d)), nil
}

func getDomain(a *api, r *request) (answer, error) {
	d, err := a.Plane.Domain(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: d.ETag(), body: a.domainBody(d)}, nil
}

func putDomain(a *api, r *request) (answer, error) {
	d, err := a.Plane.PutDomain(r.ctx, r.caller, r.id, r.domainChange(), r.precondition())
	return a.changedDomain(r, d, err)
}

func patchDomain(a *api, r *request) (answer, error) {
	d, err := a.Plane.PatchDomain(r.ctx, r.caller, r.id, r.domainChange(), r.precondition())
	return a.changedDomain(r, d, err)
}

func deleteDomain(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteDomain(r.ctx, r.caller, r.id, r.precondition()))
}

func listDomains(a *api, r *request) (answer, error) {
	domains, err := a.Plane.Domains(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(domains, func(d *resource.Item[resource.Domain]) entry {
		return entry{d.Key, d.Value.ID.Name(), func() any { return a.domainBody(*d) }}
	}))
}

func listDomainKeys(a *api, r *request) (answer, error) {
	return keysAnswer(a.Plane.DomainKeys(r.ctx, r.caller, r.id))
}

func regenerateDomainKey(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	name := f.str("keyName")
	return keysAnswer(a.Plane.RegenerateDomainKey(r.ctx, r.caller, r.id, name, f.verdict(unread)))
}

// domainTopicBody is a topic of a domain on the wire.
// Source: spec/management.md section 5.8.
type domainTopicBody struct {
	ID         string                `json:"id"`
	Name       string                `json:"name"`
	Type       string                `json:"type"`
	ETag       string                `json:"etag"`
	SystemData systemData            `json:"systemData"`
	Properties domainTopicProperties `json:"properties"`
}

type domainTopicProperties struct {
	ProvisioningState string `json:"provisioningState"`
}

func domainTopicBodyOf(t resource.Item[resource.DomainTopic]) domainTopicBody {
	return domainTopicBody{
		ID: t.Value.ID.String(), Name: t.Value.ID.Name(), Type: resource.TypeDomainTopic, ETag: t.ETag(),
		SystemData: systemDataOf(t.Value.Created, t.Value.Created),
		Properties: domainTopicProperties{string(resource.Succeeded)},
	}
}

func getDomainTopic(a *api, r *request) (answer, error) {
	t, err := a.Plane.DomainTopic(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: t.ETag(), body: domainTopicBodyOf(t)}, nil
}

// putDomainTopic takes a body only to hold it against the path: there is nothing to set.
// It answers 201 also where the topic is there: the Go SDK takes nothing else.
// Source: spec/management.md section 2.6.
func putDomainTopic(a *api, r *request) (answer, error) {
	f, tracked := r.tracked()
	tracked.Problems = *f.problems
	t, err := a.Plane.PutDomainTopic(r.ctx, r.caller, r.id, tracked, r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: 201, etag: t.ETag(), body: domainTopicBodyOf(t)}, nil
}

func deleteDomainTopic(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteDomainTopic(r.ctx, r.caller, r.id, r.precondition()))
}

func listDomainTopics(a *api, r *request) (answer, error) {
	part, err := r.part()
	if err != nil {
		return answer{}, err
	}
	topics, err := a.Plane.DomainTopics(r.ctx, r.caller, r.id, part)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(topics, func(t *resource.Item[resource.DomainTopic]) entry {
		return entry{t.Key, t.Value.ID.Name(), func() any { return domainTopicBodyOf(*t) }}
	}))
}
