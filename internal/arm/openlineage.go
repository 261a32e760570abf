package arm

import (
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// lineageBody is where a workspace takes OpenLineage events; this API is Carillon's own.
type lineageBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties lineageProperties `json:"properties"`
}

type lineageProperties struct {
	URL      string  `json:"url"`         // what clients set OPENLINEAGE_URL to
	Endpoint string  `json:"endpoint"`    // and OPENLINEAGE_ENDPOINT
	Address  string  `json:"address"`     // both together
	ByID     string  `json:"addressById"` // the same, also where two workspaces have one name
	KeysTime *string `json:"keysTime"`    // when a key was made last; null while there are none
}

const lineageType = "Carillon.OpenLineage/receivers"

func (a *api) lineageOf(ws resource.Workspace, keys resource.Item[resource.LineageKeys], exists bool) lineageBody {
	const endpoint = "/api/v1/lineage" // of every client
	at := "openlineage/" + ws.ID.Name() + endpoint
	b := lineageBody{
		ID: ws.ID.Extension("Carillon.OpenLineage", "receivers", onlyName).String(), Name: onlyName, Type: lineageType,
		Properties: lineageProperties{
			URL: a.PublicURL, Endpoint: at, Address: a.PublicURL + "/" + at, ByID: a.PublicURL + ws.ID.String() + "/providers/Carillon.OpenLineage" + endpoint,
		},
	}
	if exists {
		b.Properties.KeysTime = orNull(armTime(keys.Value.Modified.At))
	}
	return b
}

// onlyReceiver refuses every name but the one that there is.
func onlyReceiver(r *request) error {
	if !strings.EqualFold(r.names[0], onlyName) {
		return fault.New(fault.NotFound, "ResourceNotFound", "A workspace has one receiver of OpenLineage events, and its name is '%s', not '%.80s'.", onlyName, r.names[0])
	}
	return nil
}

func getLineageReceiver(a *api, r *request) (answer, error) {
	ws, keys, exists, err := a.Plane.LineageReceiver(r.ctx, r.caller, r.scope)
	if err == nil {
		err = onlyReceiver(r)
	}
	if err != nil {
		return answer{}, err
	}
	return ok(a.lineageOf(ws.Value, keys, exists)), nil
}

func listLineageReceivers(a *api, r *request) (answer, error) {
	ws, keys, exists, err := a.Plane.LineageReceiver(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return whole([]lineageBody{a.lineageOf(ws.Value, keys, exists)}), nil
}

func listLineageKeys(a *api, r *request) (answer, error) {
	if err := onlyReceiver(r); err != nil {
		return answer{}, err
	}
	return keysAnswer(a.Plane.LineageKeys(r.ctx, r.caller, r.scope))
}

func regenerateLineageKey(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	name := f.str("keyName")
	if unread = f.verdict(unread); unread == nil {
		unread = onlyReceiver(r)
	}
	return keysAnswer(a.Plane.RegenerateLineageKey(r.ctx, r.caller, r.scope, name, unread))
}
