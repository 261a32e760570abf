package arm

import (
	"strings"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// systemTopicBody is a system topic on the wire.
// Source: spec/management.md section 5.4.
type systemTopicBody struct {
	trackedBody
	Identity   identityBody          `json:"identity"`
	Properties systemTopicProperties `json:"properties"`
}

type systemTopicProperties struct {
	ProvisioningState string `json:"provisioningState"`
	Source            string `json:"source"`
	TopicType         string `json:"topicType"`
	MetricResourceID  string `json:"metricResourceId"`
}

func (a *api) systemTopicBody(t resource.Item[resource.SystemTopic]) systemTopicBody {
	return systemTopicBody{
		trackedBody: trackedOf(t.Value.Meta, resource.TypeSystemTopic, t.ETag()),
		Identity:    identityBody{Type: "None"},
		Properties: systemTopicProperties{
			ProvisioningState: string(resource.Succeeded),
			Source:            t.Value.Source.String(), TopicType: t.Value.TopicType,
			MetricResourceID: uuid.NewSHA1(uuid.NameSpaceURL, []byte(t.Value.ID.Key())).String(),
		},
	}
}

func getSystemTopic(a *api, r *request) (answer, error) {
	t, err := a.Plane.SystemTopic(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: t.ETag(), body: a.systemTopicBody(t)}, nil
}

func putSystemTopic(a *api, r *request) (answer, error) {
	f, tracked := r.tracked()
	noIdentity(f)
	p := f.sub("properties")
	c := manage.SystemTopicChange{Tracked: tracked, Source: p.str("source"), TopicType: p.str("topicType")}
	c.Problems = *f.problems
	t, err := a.Plane.PutSystemTopic(r.ctx, r.caller, r.id, c, r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: 201, etag: t.ETag(), body: a.systemTopicBody(t)}, nil
}

func patchSystemTopic(a *api, r *request) (answer, error) {
	f, c := r.tracked()
	noIdentity(f)
	c.Problems = *f.problems
	t, err := a.Plane.PatchSystemTopic(r.ctx, r.caller, r.id, c, r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: 201, etag: t.ETag(), body: a.systemTopicBody(t)}, nil
}

func deleteSystemTopic(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteSystemTopic(r.ctx, r.caller, r.id, r.precondition()))
}

func listSystemTopics(a *api, r *request) (answer, error) {
	topics, err := a.Plane.SystemTopics(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(topics, func(t *resource.Item[resource.SystemTopic]) entry {
		return entry{t.Key, t.Value.ID.Name(), func() any { return a.systemTopicBody(*t) }}
	}))
}

// extensionTopicBody tells which system topic a source has.
// Source: spec/management.md section 2.7.
type extensionTopicBody struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties extensionTopicProperties `json:"properties"`
}

type extensionTopicProperties struct {
	Description string `json:"description"`
	SystemTopic string `json:"systemTopic"`
}

func getExtensionTopic(a *api, r *request) (answer, error) {
	if !strings.EqualFold(r.names[0], "default") {
		return answer{}, fault.New(fault.NotFound, "ResourceNotFound", "A source has one extension topic, named default.")
	}
	t, err := a.Plane.SystemTopicOf(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return ok(extensionTopicBody{
		ID:   t.Value.Source.Extension("Microsoft.EventGrid", "extensionTopics", "default").String(),
		Name: "default", Type: "Microsoft.EventGrid/extensionTopics",
		Properties: extensionTopicProperties{
			Description: "The system topic of " + t.Value.Source.Name() + ".",
			SystemTopic: t.Value.ID.String(),
		},
	}), nil
}
