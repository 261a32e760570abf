package arm

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// A change of a topic, a domain or an event subscription answers with the address of an
// operation, as Azure's does. It is done by then, unless an endpoint has to consent by
// its link; clients read the status and then the resource, which SDKs of the first
// generation need: they read a first answer twice and lose the kind of each destination
// and filter in it.
//
// Nothing is stored for an operation. Its address names the resource, whose state is the
// operation's, and its GUID the resource's uid, so that one of the same name that was
// made later has other operations.
// Source: spec/management.md section 4; azure-mgmt-eventgrid 10.2.0b2,
// Model._classify, which takes the discriminator out of the answer.

// asyncOperation is where the status of a change can be read.
type asyncOperation struct {
	location string
	id       resource.ID
	uid      resource.UID
	state    resource.ProvisioningState
	failure  string // why state is Failed
}

// The parameter of an operation's address that names the resource, and the pause that a
// client makes before it asks again.
const (
	operationResource = "resource"
	operationPause    = "1"
)

func (o *asyncOperation) name() string { return guid(o.uid) }

// done reports whether nothing more happens by itself.
func (o *asyncOperation) done() bool {
	switch o.state {
	case resource.Succeeded, resource.Failed, resource.Canceled:
		return true
	}
	return false
}

// address returns where an operation's status or result is, on the origin that the
// client came from: it sends its token there.
func (a *api) address(r *request, o *asyncOperation, what string) string {
	query := url.Values{
		"api-version":     {r.query.Get("api-version")},
		operationResource: {base64.RawURLEncoding.EncodeToString([]byte(o.id.String()))},
	}
	return a.origin(r.http) + "/subscriptions/" + o.id.Subscription() + "/providers/Microsoft.EventGrid/locations/" + o.location +
		"/" + what + "/" + o.name() + "?" + query.Encode()
}

// changed answers 201 to a change, also to a replacement: the Go SDK takes nothing else.
// Source: spec/management.md sections 2.1 to 2.3.
func (a *api) changed(r *request, o asyncOperation, etag string, body any) answer {
	got := answer{status: http.StatusCreated, etag: etag, body: body, header: http.Header{}}
	got.header.Set("Azure-AsyncOperation", a.address(r, &o, "operationsStatus"))
	got.header.Set("Retry-After", "0") // Az PowerShell waits 30 seconds without it
	if !o.done() {
		got.header.Set("Retry-After", operationPause)
	}
	return got
}

// operationOf reads the operation that an address names. Whoever may read the resource
// may read it.
func (a *api) operationOf(r *request) (asyncOperation, error) {
	unknown := fault.New(fault.NotFound, "ResourceNotFound", "There is no operation '%.80s'. Follow the address that a change answered with, unchanged.", r.names[1])
	raw, err := base64.RawURLEncoding.DecodeString(r.query.Get(operationResource))
	if err != nil {
		return asyncOperation{}, unknown
	}
	id, err := resource.ParseID(string(raw))
	if err != nil {
		return asyncOperation{}, unknown
	}
	var o asyncOperation
	switch {
	case id.IsType(resource.TypeTopic):
		t, err := a.Plane.Topic(r.ctx, r.caller, id)
		if err != nil {
			return o, err
		}
		o = topicOperation(&t.Value)
	case id.IsType(resource.TypeDomain):
		d, err := a.Plane.Domain(r.ctx, r.caller, id)
		if err != nil {
			return o, err
		}
		o = topicOperation(&d.Value.Topic)
	default:
		v, err := a.Plane.EventSubscription(r.ctx, r.caller, id)
		if err != nil {
			return o, err
		}
		o = eventSubscriptionOperation(v)
	}
	if !strings.EqualFold(o.name(), r.names[1]) {
		return o, unknown
	}
	return o, nil
}

// operationStatusBody is the status of an operation. Source: spec/management.md section 4.1.
type operationStatusBody struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Status string          `json:"status"`
	Error  *operationError `json:"error,omitempty"`
}

type operationError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// getOperationStatus tells how a change stands. Every state that is not an end is one
// that clients wait in.
func getOperationStatus(a *api, r *request) (answer, error) {
	o, err := a.operationOf(r)
	if err != nil {
		return answer{}, err
	}
	b := operationStatusBody{ID: r.id.String(), Name: o.name(), Status: "InProgress"}
	if !o.done() {
		return answer{status: http.StatusOK, body: b, header: http.Header{"Retry-After": {operationPause}}}, nil
	}
	if b.Status = string(o.state); o.state == resource.Failed {
		b.Error = &operationError{manage.URLValidation, o.failure}
	}
	return ok(b), nil
}

// getOperationResult answers with the changed resource, 202 while the change waits.
func getOperationResult(a *api, r *request) (answer, error) {
	o, err := a.operationOf(r)
	if err != nil {
		return answer{}, err
	}
	if !o.done() {
		return answer{status: http.StatusAccepted, header: http.Header{
			"Retry-After": {operationPause}, "Location": {a.address(r, &o, "operationResults")},
		}}, nil
	}
	r.id = o.id
	switch {
	case o.id.IsType(resource.TypeTopic):
		return getTopic(a, r)
	case o.id.IsType(resource.TypeDomain):
		return getDomain(a, r)
	}
	return getEventSubscription(a, r)
}
