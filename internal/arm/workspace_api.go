package arm

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// WorkspaceAPI serves the sub-resources of workspaces: experiments, runs, models
// and their versions, online endpoints, drift monitors and their runs.
// Source: design.md, "Workspace sub-resources".
type WorkspaceAPI struct {
	Service    *workspace.Service
	Authorizer *access.Authorizer
	// Origin begins nextLink and Location, as in Config.
	Origin string
}

// subresource is one type of sub-resource. An operation that is nil is not
// allowed. Names are the path's, outermost first; lists and post get one less.
type subresource struct {
	words []string // of the path, as shown in ids
	get   func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error)
	list  func(ctx context.Context, ws resource.Workspace, names []string, page workspace.Page) (entities []subEntity, next string, err error)
	put   func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (e subEntity, created bool, err error)
	patch func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error)
	post  func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error)
	drop  func(ctx context.Context, ws resource.Workspace, names []string, t workspace.Terms) error
	act   func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (body any, err error) // POST that makes no object of the path

	lifecycle bool // the list of lifecycle events, which are no objects
}

// subEntity is one object on its way to the wire.
type subEntity struct {
	names      []string // as spelled at creation, outermost first
	head       workspace.Head
	properties any
	status     int // of the answer to a POST; 0 is 201
}

// ServeSubresource answers a request for what lies below a workspace, unless it returns
// an error. rest holds the decoded path segments after the workspace's name. The caller
// is known and the workspace exists; what the caller may do is decided here, before
// anything is looked up.
func (a *WorkspaceAPI) ServeSubresource(w http.ResponseWriter, r *http.Request, ws resource.Item[resource.Workspace], rest []string, caller access.Caller) error {
	return a.serve(w, r, ws.Value, rest, caller)
}

func (a *WorkspaceAPI) serve(w http.ResponseWriter, r *http.Request, ws resource.Workspace, rest []string, caller access.Caller) error {
	sub, names, err := a.route(rest)
	if err != nil {
		return err
	}
	single := len(names) == len(sub.words)
	verb, allowed := sub.verb(r.Method, single)
	if verb == "" && allowed == "" {
		return fault.New(fault.NotFound, "InvalidResourceType", "The path names no object: nothing is kept at %s itself.", sub.typeName())
	}
	if verb == "" {
		f := fault.New(fault.MethodNotAllowed, "MethodNotAllowed", "The method %s is not allowed here; use %s.", r.Method, allowed)
		f.Allow = allowed
		return f
	}
	if err := a.authorize(r.Context(), ws, sub, names, verb, caller); err != nil {
		return err
	}
	if sub.lifecycle {
		return a.serveLifecycle(w, r, ws, caller)
	}
	if !single && r.Method == http.MethodGet {
		return a.serveList(w, r, ws, sub, names)
	}
	return a.serveOne(w, r, ws, sub, names, caller)
}

// route finds the sub-resource of a path.
func (a *WorkspaceAPI) route(rest []string) (*subresource, []string, error) {
	var words, names []string
	for i, segment := range rest {
		if i%2 == 0 {
			words = append(words, segment)
			continue
		}
		if segment == "" || strings.Contains(segment, "/") {
			return nil, nil, fault.New(fault.Invalid, "InvalidResourceName", "The name %q in the path is not one that an object can have.", segment)
		}
		names = append(names, segment)
	}
	for _, sub := range subresourcesOf(a.Service) {
		if slices.EqualFunc(sub.words, words, strings.EqualFold) {
			return sub, names, nil
		}
	}
	return nil, nil, fault.New(fault.NotFound, "InvalidResourceType",
		"A workspace has no resource type %q. It has experiments, experiments/runs, models, models/versions, onlineEndpoints, driftMonitors, driftMonitors/runs, driftMonitors/backfill and lifecycleEvents.", strings.Join(words, "/"))
}

// verb returns the last word of the action that a method needs, "" for a method
// that is not allowed, and all methods that are.
func (s *subresource) verb(method string, single bool) (verb, allowed string) {
	methods := []struct {
		method, verb string
		there        bool
	}{
		{http.MethodGet, "read", single && s.get != nil || !single && (s.list != nil || s.lifecycle)},
		{http.MethodHead, "read", single && s.get != nil},
		{http.MethodPut, "write", single && s.put != nil},
		{http.MethodPatch, "write", single && s.patch != nil},
		{http.MethodPost, "write", !single && (s.post != nil || s.act != nil)},
		{http.MethodDelete, "delete", single && s.drop != nil},
	}
	var list []string
	for _, m := range methods {
		if m.there {
			list = append(list, m.method)
			if m.method == method {
				verb = m.verb
			}
		}
	}
	return verb, strings.Join(list, ", ")
}

// typeName returns the full resource type.
func (s *subresource) typeName() string {
	return resource.TypeWorkspace + "/" + strings.Join(s.words, "/")
}

// id returns the id of an object, or of what holds the collection when the last
// name is missing.
func (s *subresource) id(ws resource.Workspace, names []string) resource.ID {
	id := ws.ID
	for i, name := range names {
		id = id.Child(s.words[i], name)
	}
	return id
}

// authorize checks the caller's action. Source: decisions.md 25.
func (a *WorkspaceAPI) authorize(ctx context.Context, ws resource.Workspace, sub *subresource, names []string, verb string, caller access.Caller) error {
	action, scope := sub.typeName()+"/"+verb, sub.id(ws, names)
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Action, action), slog.String(telemetry.Resource, scope.String()))
	return a.Authorizer.Check(caller, action, scope)
}

// serveOne answers a request for one object, or for a new one (POST).
func (a *WorkspaceAPI) serveOne(w http.ResponseWriter, r *http.Request, ws resource.Workspace, sub *subresource, names []string, caller access.Caller) error {
	ctx := r.Context()
	terms := workspace.Terms{
		By:          caller.Stamp(time.Now()),
		IfMatch:     entityTags(r.Header.Values("If-Match")),
		IfNoneMatch: entityTags(r.Header.Values("If-None-Match")),
	}
	status := http.StatusOK
	var e subEntity
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		e, err = sub.get(ctx, ws, names)
	case http.MethodDelete:
		if err := sub.drop(ctx, ws, names, terms); err != nil {
			return err
		}
		return write(w, r, answer{status: http.StatusNoContent})
	default:
		f, bodyErr := readProperties(w, r, sub.id(ws, names))
		if bodyErr != nil {
			return bodyErr
		}
		switch r.Method {
		case http.MethodPut:
			var created bool
			if e, created, err = sub.put(ctx, ws, names, f, terms); created {
				status = http.StatusCreated
			}
		case http.MethodPost:
			if sub.act != nil {
				body, err := sub.act(ctx, ws, names, f, terms)
				if err != nil {
					return err
				}
				return write(w, r, answer{status: http.StatusAccepted, body: body})
			}
			e, err = sub.post(ctx, ws, names, f, terms)
			status = cmp.Or(e.status, http.StatusCreated)
		case http.MethodPatch:
			e, err = sub.patch(ctx, ws, names, f, terms)
		}
	}
	if err != nil {
		return err
	}
	if r.Method == http.MethodPost {
		at := url.URL{Path: sub.id(ws, e.names).String(), RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", a.api().origin(r)+at.String())
	}
	return write(w, r, answer{status: status, etag: e.head.ETag, body: sub.body(ws, e)})
}

// serveList answers a request for one page of a collection; without $top it is
// as large as it may be. Source: design.md and spec/management.md section 8.5.
func (a *WorkspaceAPI) serveList(w http.ResponseWriter, r *http.Request, ws resource.Workspace, sub *subresource, names []string) error {
	query, err := lowerKeys(r.URL.RawQuery)
	if err != nil {
		return err
	}
	req := &request{http: r, query: query}
	size, after, err := req.paging()
	if err != nil {
		return err
	}
	if query.Get("$top") == "" {
		size = maxPage
	}
	entities, next, err := sub.list(r.Context(), ws, names, workspace.Page{After: after, Limit: size})
	if err != nil {
		return err
	}
	out := page{Value: make([]any, 0, len(entities))}
	for _, e := range entities {
		out.Value = append(out.Value, sub.body(ws, e))
	}
	if next != "" {
		out.NextLink = a.api().nextLink(req, next)
	}
	return write(w, r, ok(out))
}

func (a *WorkspaceAPI) api() *api { return &api{Config{Origin: a.Origin}} }

// entityTags reads the values of If-Match or If-None-Match: tags without quotes
// and weakness, or "*".
func entityTags(values []string) []string {
	var tags []string
	for _, v := range values {
		for tag := range strings.SplitSeq(v, ",") {
			tag = strings.Trim(strings.TrimPrefix(strings.TrimSpace(tag), "W/"), `"`)
			if tag != "" {
				tags = append(tags, tag)
			}
		}
	}
	return tags
}

// subBody is the ARM body of a sub-resource.
type subBody struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	ETag       string     `json:"etag"`
	SystemData systemData `json:"systemData"`
	Properties any        `json:"properties"`
}

func (s *subresource) body(ws resource.Workspace, e subEntity) subBody {
	return subBody{
		ID: s.id(ws, e.names).String(), Name: e.head.Name, Type: s.typeName(), ETag: e.head.ETag,
		SystemData: systemDataOf(e.head.Created, e.head.Modified), Properties: e.properties,
	}
}
