package arm

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Config is what a handler works with. Fields are needed unless they say
// otherwise.
type Config struct {
	Plane        *manage.Plane
	Authenticate func(*http.Request) (access.Caller, error) // access.Tokens.Authenticate satisfies it
	Subresources Subresources
	Deliveries   Deliveries
	TenantID     string
	// PublicURL is the scheme, host and port under which publishers reach this
	// server, always https: topics' endpoints begin with it.
	PublicURL string
	// Origin begins the links of an answer: nextLink and the addresses of
	// /metadata/endpoints. Clients follow them with their token, so it has to be
	// where they came from; "" takes scheme and host of each request.
	Origin string
	// Done is closed when the server stops taking requests: live tails, which would
	// never end by themselves, end then. Nil is never.
	Done <-chan struct{}
}

// Subresources serves what lies below a workspace. *WorkspaceAPI satisfies it.
type Subresources interface {
	ServeSubresource(w http.ResponseWriter, r *http.Request, ws resource.Item[resource.Workspace], rest []string, caller access.Caller) error
}

// Deliveries tells of deliveries and repeats dead ones. *broker.Broker satisfies
// it.
type Deliveries interface {
	// Status returns the figures of an event subscription, false when it is not live.
	Status(uid resource.UID) (broker.Status, bool)
	// DeadLetters yields the dead letters of an event subscription, of all for 0, in
	// the order they were given up, from behind a place on.
	DeadLetters(ctx context.Context, uid resource.UID, after uint64) iter.Seq2[*broker.Letter, error]
	DeadLetter(ctx context.Context, id string) (*broker.Letter, error)
	RemoveDeadLetter(ctx context.Context, id string) error
	// Attempts returns attempts of an event subscription, the newest first, and where to
	// go on, zero at the end.
	Attempts(ctx context.Context, uid resource.UID, q broker.AttemptQuery) ([]broker.PastAttempt, broker.AttemptPlace, error)
	// Replay delivers dead letters once more. It returns what stands against each, nil
	// for nothing; the error says that none of it is durable.
	Replay(ctx context.Context, ids ...string) ([]error, error)
	// Tail returns the events of a stream from now on, until stop.
	Tail(stream resource.Stream) (events <-chan broker.TailEvent, stop func())
}

// NewHandler returns the management API. It serves /subscriptions, /tenants,
// /providers, and without a token /metadata/endpoints, the schemas below [SchemasPath]
// and the validation links below /eventsubscriptions. It must be reached without a redirect: a
// http.ServeMux in front of it would answer doubled slashes with one, and the
// client would lose its body. Source: spec/management.md section 8.1.
func NewHandler(c Config) http.Handler {
	return telemetry.Management(&api{c})
}

type api struct{ Config }

// request is one request on its way to an operation.
type request struct {
	http   *http.Request
	w      http.ResponseWriter // for reading bodies; operations answer through answer
	ctx    context.Context
	caller access.Caller
	id     resource.ID // what the path names: for a list, what contains it
	scope  resource.ID // what stands before the last provider
	names  []string    // the names in the path after the last provider
	rest   []string    // decoded segments after the last provider's namespace
	query  url.Values  // keys in lower case
}

// answer is what an operation gives back.
type answer struct {
	status int
	etag   string
	header http.Header // more of it; nil for none
	body   any
	stream func(w http.ResponseWriter) // answers itself; everything else is ignored
}

func ok(body any) answer { return answer{status: http.StatusOK, body: body} }

type operation func(a *api, r *request) (answer, error)

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got, err := a.serve(w, r)
	if err == nil && got.stream != nil {
		got.stream(w)
		return
	}
	if err == nil {
		err = write(w, r, got)
	}
	if err != nil {
		a.fail(w, r, err)
	}
}

// fail answers with an error. A refusal of somebody who is known is in the audit log;
// one that cannot be stored there is still a refusal.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch fault.KindOf(err) {
	case fault.Internal:
		telemetry.RecordOf(r.Context()).SetError(err)
	case fault.Forbidden:
		if problem := a.Plane.Audit.Refused(r.Context(), err); problem != nil {
			telemetry.RecordOf(r.Context()).SetError(problem)
		}
	}
	fault.Write(w, r, err)
}

func (a *api) serve(w http.ResponseWriter, hr *http.Request) (answer, error) {
	r := &request{http: hr, w: w, ctx: hr.Context()}
	segments, err := splitPath(hr.URL.EscapedPath())
	if err != nil {
		return answer{}, err
	}
	if r.query, err = lowerKeys(hr.URL.RawQuery); err != nil {
		return answer{}, err
	}
	if open := openRoute(segments); open != nil {
		if op := open.of(hr.Method); op != nil {
			r.rest = segments
			return op(a, r)
		}
		return answer{}, notAllowed(hr.Method, open)
	}
	if r.caller, err = a.Authenticate(hr); err != nil {
		return answer{}, err
	}
	if err := checkVersion(r.query); err != nil {
		return answer{}, err
	}
	ops, err := find(r, segments)
	if err != nil {
		return answer{}, err
	}
	op := ops.of(hr.Method)
	if op == nil {
		return answer{}, notAllowed(hr.Method, ops)
	}
	return op(a, r)
}

func notAllowed(method string, ops methods) error {
	f := fault.New(fault.MethodNotAllowed, "MethodNotAllowed", "The method %s is not allowed here; use %s.", method, ops.allow())
	f.Allow = ops.allow()
	return f
}

// version is the form of an api-version. Versions are not listed: what a client
// of next month sends must work. Source: spec/management.md section 1.
var version = regexp.MustCompile(`^(20\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(-(preview|alpha|beta|rc|privatepreview))?$`)

func checkVersion(query url.Values) error {
	v := query.Get("api-version")
	if v == "" {
		return fault.New(fault.Invalid, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	}
	m := version.FindStringSubmatch(strings.ToLower(v))
	if m == nil || m[1] < "2014" {
		return fault.New(fault.Invalid, "InvalidApiVersionParameter", "The api-version '%.80s' is invalid. It must be a date of the form YYYY-MM-DD, for example %s, with -preview behind it for a preview.", v, Version)
	}
	return nil
}

func lowerKeys(raw string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The query of the request cannot be read: percent-encode special characters in it.")
	}
	out := url.Values{}
	for k, v := range q {
		k = strings.ToLower(k)
		out[k] = append(out[k], v...)
	}
	return out, nil
}

// skipPollingDelay tells Terraform's client not to wait ten seconds before it looks what
// became of a change. Source: hashicorp/go-azure-sdk, sdk/client/client.go.
const skipPollingDelay = "X-Go-Azure-Sdk-Skip-Polling-Delay"

// write sends an answer. HEAD gets 204 where GET would get 200.
func write(w http.ResponseWriter, r *http.Request, got answer) error {
	h := w.Header()
	maps.Copy(h, got.header)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set(skipPollingDelay, "true")
	}
	if got.etag != "" {
		h.Set("ETag", strconv.Quote(got.etag))
	}
	if r.Method == http.MethodHead && got.status == http.StatusOK {
		got.status, got.body = http.StatusNoContent, nil
	}
	if got.body == nil {
		w.WriteHeader(got.status)
		return nil
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // links hold '&'
	if err := encoder.Encode(got.body); err != nil {
		return err
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(got.status)
	_, _ = w.Write(body.Bytes()) // the client has gone if this fails
	return nil
}

// origin is the scheme and host that links in the answer begin with.
func (a *api) origin(r *http.Request) string {
	switch {
	case a.Origin != "":
		return a.Origin
	case r.TLS != nil:
		return "https://" + r.Host
	default:
		return "http://" + r.Host
	}
}

// precondition reads If-Match and If-None-Match.
func (r *request) precondition() manage.Precondition {
	return manage.Precondition{
		IfMatch:     strings.Join(r.http.Header.Values("If-Match"), ","),
		IfNoneMatch: strings.Join(r.http.Header.Values("If-None-Match"), ","),
	}
}

// deleted is the answer to a DELETE that is done: the same whether something was
// there or not, and accepted by every client. Source: spec/management.md 4.3.
func deleted(_ bool, err error) (answer, error) {
	return answer{status: http.StatusNoContent}, err
}
