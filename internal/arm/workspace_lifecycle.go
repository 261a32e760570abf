package arm

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// lifecycleEvents tells what came to pass with the objects of a workspace, for receivers
// who may have missed it. It can be listed only.
func lifecycleEvents() *subresource {
	return &subresource{words: []string{"lifecycleEvents"}, lifecycle: true}
}

// lifecycleEventBody is what came to pass last with an object.
type lifecycleEventBody struct {
	Object string          `json:"object"` // full resource id
	Raised bool            `json:"raised"`
	Change string          `json:"change"` // the object's etag when it came to pass
	Event  json.RawMessage `json:"event"`
}

// lifecyclePage is a page of them. A page may be empty though more follow.
type lifecyclePage struct {
	Value    []lifecycleEventBody `json:"value"`
	Place    string               `json:"place"` // the end of this page; that of the last page is "since" of a later list
	NextLink string               `json:"nextLink,omitempty"`
}

// serveLifecycle answers with a page of lifecycle events. Who reads them reads the objects, so it takes the actions for that, too.
func (a *WorkspaceAPI) serveLifecycle(w http.ResponseWriter, r *http.Request, ws resource.Workspace, caller access.Caller) error {
	for _, sub := range subresourcesOf(a.Service) {
		if slices.Contains([]string{"runs", "versions", "onlineEndpoints"}, sub.words[len(sub.words)-1]) {
			if err := a.Authorizer.Check(caller, sub.typeName()+"/read", ws.ID); err != nil {
				return err
			}
		}
	}
	query, err := lowerKeys(r.URL.RawQuery)
	if err != nil {
		return err
	}
	req := &request{http: r, query: query}
	p := workspace.LifecyclePage{From: query.Get("since"), After: query.Get("after")}
	problems := []*fault.Error{req.only("since", "after")}
	if !isPlace(p.From) {
		var problem *fault.Error
		p.From = ""
		if p.Since, problem = req.time("since"); problem != nil {
			problem = fault.Field("since", "The value '%.60s' of since is neither a time, like 2026-03-02T12:00:00Z, nor a place that an earlier answer named.", query.Get("since"))
		}
		problems = append(problems, problem)
	}
	if !isPlace(p.After) {
		problems = append(problems, fault.Field("after", "The value '%.60s' of after is not a place: give one that an earlier answer named.", p.After))
	}
	if err := fault.Join(problems...); err != nil {
		return err
	}
	size, after, err := req.paging()
	if err != nil {
		return err
	}
	if p.Most = size; query.Get("$top") == "" {
		p.Most = maxPage
	}
	if after != "" {
		return fault.Field("$skipToken", "This list has no $skipToken: follow nextLink unchanged, or give after.")
	}
	events, place, more, err := a.Service.LifecycleEvents(r.Context(), ws, p)
	if err != nil {
		return err
	}
	out := lifecyclePage{Value: make([]lifecycleEventBody, 0, len(events)), Place: place}
	for _, e := range events {
		out.Value = append(out.Value, lifecycleEventBody{e.Object.String(), e.Raised, e.Change, e.Event})
	}
	if more {
		query := r.URL.Query()
		for name := range query {
			if strings.EqualFold(name, "after") {
				delete(query, name)
			}
		}
		query.Set("after", place)
		out.NextLink = a.api().origin(r) + r.URL.EscapedPath() + "?" + query.Encode()
	}
	return write(w, r, ok(out))
}

// isPlace reports whether text is a sequencer, or none.
func isPlace(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(text) == 0 || len(text) == 32
}
