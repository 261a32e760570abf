package arm

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"

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
	Event  json.RawMessage `json:"event"`
}

// lifecyclePage is a page of them. A page may be empty though more follow.
type lifecyclePage struct {
	Value    []lifecycleEventBody `json:"value"`
	Place    string               `json:"place"` // to go on after, now or later
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
	since, problem := req.time("since")
	if err := fault.Join(problem, req.only("since", "after")); err != nil {
		return err
	}
	size, after, err := req.paging()
	if err != nil {
		return err
	}
	if query.Get("$top") == "" {
		size = maxPage
	}
	after = cmp.Or(after, query.Get("after"))
	if !isPlace(after) {
		return fault.Field("after", "The value '%.60s' of after is not a place: give one that an earlier answer named.", after)
	}
	events, place, more, err := a.Service.LifecycleEvents(r.Context(), ws, workspace.LifecyclePage{Since: since, After: after, Most: size})
	if err != nil {
		return err
	}
	out := lifecyclePage{Value: make([]lifecycleEventBody, 0, len(events)), Place: place}
	for _, e := range events {
		out.Value = append(out.Value, lifecycleEventBody{e.Object.String(), e.Raised, e.Event})
	}
	if more {
		out.NextLink = a.api().nextLink(req, place)
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
