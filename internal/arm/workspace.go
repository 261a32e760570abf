package arm

import (
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// workspaceBody is a workspace on the wire.
// Source: spec/management.md section 12.1.
type workspaceBody struct {
	trackedBody
	Kind       any            `json:"kind"`
	SKU        any            `json:"sku"`
	Identity   any            `json:"identity,omitempty"`
	Properties map[string]any `json:"properties"`
}

// workspaceKept are properties of Azure's workspaces that say something to people
// and nothing to this server: shown as they came.
var workspaceKept = []string{
	"friendlyName", "description", "storageAccount", "keyVault", "applicationInsights", "containerRegistry",
	"hbiWorkspace", "imageBuildCompute", "primaryUserAssignedIdentity", "v1LegacyMode",
}

func (a *api) workspaceBody(w resource.Item[resource.Workspace]) workspaceBody {
	extra := keptOf(w.Value.Extra)
	properties := map[string]any{
		"provisioningState": resource.Succeeded, "workspaceId": guid(w.Value.UID), "tenantId": a.TenantID,
		"friendlyName": w.Value.ID.Name(), "description": "", "publicNetworkAccess": "Enabled",
		"storageAccount": nil, "keyVault": nil, "applicationInsights": nil, "containerRegistry": nil,
		"hbiWorkspace": false, "v1LegacyMode": false,
		"statusEvents": w.Value.StatusEvents, "payloadCasing": w.Value.PayloadCasing, "driftRaiseOn": w.Value.DriftRaiseOn,
		"extraEvents": append([]string{}, w.Value.ExtraEvents...),
	}
	inner := keptOf(extra["properties"])
	for _, name := range workspaceKept {
		if v := inner.or(name, nil); v != nil {
			properties[name] = v
		}
	}
	return workspaceBody{
		trackedBody: trackedOf(w.Value.Meta, resource.TypeWorkspace, w.ETag()),
		Kind:        extra.or("kind", "Default"),
		SKU:         extra.or("sku", map[string]string{"name": "Basic", "tier": "Basic"}),
		Identity:    extra.or("identity", nil),
		Properties:  properties,
	}
}

// workspaceChange reads a workspace from the body of a request.
func (r *request) workspaceChange() manage.WorkspaceChange {
	f, t := r.tracked()
	c := manage.WorkspaceChange{Tracked: t}
	extra, inner := kept{}, kept{}
	extra.keep(f, "kind", "sku")
	if identity, given := f.object("identity"); given {
		only := kept{}
		only.keep(identity, "type")
		extra["identity"] = only.raw()
	}
	p := f.sub("properties")
	if _, given := p.member("statusEvents"); given {
		if list := p.texts("statusEvents"); list != nil {
			c.StatusEvents = &list
		}
	}
	if p.null("statusEvents") { // null removes: the default is back
		c.StatusEvents = &[]string{string(workspace.Failed)}
	}
	c.PayloadCasing, c.DriftRaiseOn = p.str("payloadCasing"), p.str("driftRaiseOn")
	if p.null("payloadCasing") {
		c.PayloadCasing = resource.PayloadCamelCase
	}
	if p.null("driftRaiseOn") {
		c.DriftRaiseOn = resource.DriftOnCompleted
	}
	if _, given := p.member("extraEvents"); given {
		if list := p.texts("extraEvents"); list != nil {
			c.ExtraEvents = &list
		}
	}
	if p.null("extraEvents") {
		c.ExtraEvents = &[]string{}
	}
	if access := p.str("publicNetworkAccess"); access != "" && !strings.EqualFold(access, "Enabled") {
		p.refuse("publicNetworkAccess", "The value '%.40s' of publicNetworkAccess is not supported: this server limits no workspace to a network. Leave it out or use Enabled.", access)
	}
	inner.keep(p, workspaceKept...)
	if raw := inner.raw(); raw != nil {
		extra["properties"] = raw
	}
	c.Extra, c.Problems = extra.raw(), *f.problems
	return c
}

func getWorkspace(a *api, r *request) (answer, error) {
	w, err := a.Plane.Workspace(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: w.ETag(), body: a.workspaceBody(w)}, nil
}

// putWorkspace answers 200 also on creation: the Go SDK refuses 201 here.
// Source: spec/management.md section 12.1.
func putWorkspace(a *api, r *request) (answer, error) {
	w, err := a.Plane.PutWorkspace(r.ctx, r.caller, r.id, r.workspaceChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: w.ETag(), body: a.workspaceBody(w)}, nil
}

func patchWorkspace(a *api, r *request) (answer, error) {
	w, err := a.Plane.PatchWorkspace(r.ctx, r.caller, r.id, r.workspaceChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: w.ETag(), body: a.workspaceBody(w)}, nil
}

func deleteWorkspace(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteWorkspace(r.ctx, r.caller, r.id, r.precondition()))
}

func listWorkspaces(a *api, r *request) (answer, error) {
	workspaces, err := a.Plane.Workspaces(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(workspaces, func(w *resource.Item[resource.Workspace]) entry {
		return entry{w.Key, w.Value.ID.Name(), func() any { return a.workspaceBody(*w) }}
	}))
}

// serveSubresource hands what lies below a workspace over. A workspace that is not
// there is told only to those who could do the action in it.
func serveSubresource(a *api, r *request) (answer, error) {
	id := r.scope.Extension("Microsoft.MachineLearningServices", "workspaces", r.rest[1])
	ws, err := a.Plane.WorkspaceFor(r.ctx, r.caller, subresourceAction(r), r.id, id)
	if err != nil {
		return answer{}, err
	}
	return answer{stream: func(w http.ResponseWriter) {
		if err := a.Subresources.ServeSubresource(w, r.http, ws, r.rest[2:], r.caller); err != nil {
			a.fail(w, r.http, err)
		}
	}}, nil
}

// subresourceAction is the action that a request below a workspace needs.
func subresourceAction(r *request) string {
	verb := map[string]string{
		http.MethodPut: "write", http.MethodPatch: "write", http.MethodPost: "write", http.MethodDelete: "delete",
	}[r.http.Method]
	if verb == "" {
		verb = "read"
	}
	return resource.TypeWorkspace + "/" + strings.Join(typeWords(r.rest[2:]), "/") + "/" + verb
}
