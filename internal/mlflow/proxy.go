package mlflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// ProxyConfig holds what a Proxy needs. Every field is needed unless it says so.
type ProxyConfig struct {
	Service *Service
	// Transport sends requests to MLflow servers. Its connections must be guarded, and
	// it must change no request; egress.Guard.Passing makes one.
	Transport  http.RoundTripper
	Intents    string // file of what is under way; see intents
	Logger     *slog.Logger
	Registerer prometheus.Registerer // optional
}

// Proxy stands before the attached servers, at /mlflow/{workspace}/: what clients and
// browsers send there goes on as it is, credentials included, and what comes back is
// the answer. Of the few requests that change the status of a run, or make or rename
// something, it reads the answer and tells the ledger, so that it is an event at once.
//
// It is a help and not a gate. Whether a caller may do something is the server's to say;
// that the ledger takes nothing, or the intents cannot be written, changes no answer.
// The rounds find what it missed. Source: spec/workspace.md section 5.6.
type Proxy struct {
	service *Service
	forward *httputil.ReverseProxy
	intents *intents
	log     *slog.Logger
	metrics *proxyMetrics

	mu      sync.Mutex
	flights map[flightKey]*flight
}

const (
	proxyRoot  = "/mlflow/"
	watchLimit = 1 << 20 // bytes of a request or an answer that are read; of longer ones the object is asked for
)

// Proxies reports whether a path is the proxy's.
func Proxies(path string) bool { return strings.HasPrefix(path, proxyRoot) }

// NewProxy makes a Proxy. What the last process left under way is looked at as soon as
// its server is followed.
func NewProxy(c ProxyConfig) (*Proxy, error) {
	in, err := openIntents(c.Intents, c.Logger)
	if err != nil {
		return nil, err
	}
	p := &Proxy{service: c.Service, intents: in, log: c.Logger, flights: map[flightKey]*flight{}}
	p.metrics = newProxyMetrics(c.Registerer, func() float64 { return float64(in.open()) })
	p.forward = &httputil.ReverseProxy{
		Rewrite: rewrite, Transport: c.Transport, ModifyResponse: p.answered, ErrorHandler: p.unanswered,
		BufferPool: buffers{}, ErrorLog: log.New(copyErrors{c.Logger}, "", 0),
	}
	left, end := in.left()
	for i, it := range left {
		c.Service.Look(it.server, it.object, end[i])
	}
	if len(left) > 0 {
		c.Logger.Info("MLflow requests were under way when the process ended: what they changed is looked at", "intents", len(left))
	}
	return p, nil
}

// Close closes the file of intents. No request may be under way.
func (p *Proxy) Close() { p.intents.close() }

// exchange is one request that is passed on.
type exchange struct {
	server *resource.MLflowServer
	target url.URL // where it goes, without the query
	prefix string  // of the path, before what the server sees
	change change  // what it asks for, nothing for what is passed on unread

	object Object // that the request names, if it does
	asked  bool   // the request asks for a status
	flight *flight
	after  *said
	mark   workspace.Mark
	end    func() // ends the intent
	once   sync.Once
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// ServeHTTP passes one request on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	record := telemetry.RecordOf(r.Context())
	record.SetLevel(slog.LevelDebug) // a client that trains says something many times a second
	x, err := p.exchange(r)
	if err != nil {
		fault.Write(w, r, err)
		return
	}
	if x == nil { // pages refer to their parts by paths relative to the slash that is missing
		to := url.URL{Path: r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] + "/", RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", "./"+to.String())
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	record.Add(slog.String(telemetry.Workspace, x.server.Workspace.String()))
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)) // net/http looks at the body of its own
	body := unhurried(w, r)
	defer body.end()
	if x.change != nothing {
		record.SetLevel(slog.LevelInfo)
		if err := p.watch(x, r); err != nil {
			fault.Write(w, r, fault.New(fault.Invalid, "InvalidRequest", "The body of the request ended too early.").Because(err))
			return
		}
		defer p.settle(x, unclear) // unless it is settled
	}
	clear(w.Header()) // the answer is the server's alone
	p.forward.ServeHTTP(w, r)
}

// Open reports whether a path leads to a server that asks nobody who they are, as far as
// is known here: it was attached without credentials.
func (p *Proxy) Open(u *url.URL) (workspace resource.ID, open bool) {
	segment, _, _ := strings.Cut(strings.TrimPrefix(u.EscapedPath(), proxyRoot), "/")
	name, err := url.PathUnescape(segment)
	if err != nil {
		return resource.ID{}, false // said by ServeHTTP
	}
	server, err := p.service.Attached(name)
	if err != nil {
		return resource.ID{}, false
	}
	return server.Workspace, server.SealedSecret == ""
}

// exchange finds where a request goes. It is nil for a browser that left out the slash
// behind the workspace. The error is a fault.
func (p *Proxy) exchange(r *http.Request) (*exchange, error) {
	segment, rest, slash := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), proxyRoot), "/")
	name, err := url.PathUnescape(segment)
	if err != nil {
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The path is not encoded as a path.")
	}
	server, err := p.service.Attached(name)
	if err != nil {
		return nil, err
	}
	if server.NoProxy {
		return nil, fault.New(fault.NotFound, "ResourceNotFound",
			"The workspace '%s' follows its MLflow server without a proxy: use the server's own address, or attach it without --no-proxy.", server.Workspace.Name())
	}
	if !slash && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return nil, nil //nolint:nilnil // said above
	}
	to, err := url.Parse(server.URL)
	if err != nil {
		return nil, fmt.Errorf("read the URL of the MLflow server: %w", err)
	}
	x := &exchange{server: server, prefix: proxyRoot + segment, end: func() {}}
	raw := strings.TrimRight(to.EscapedPath(), "/") + "/" + rest
	path, err := url.PathUnescape(raw)
	if err != nil || slices.Contains(strings.FieldsFunc(path, func(c rune) bool { return c == '/' || c == '\\' }), "..") {
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The path leaves that of the MLflow server, or is not encoded as a path.")
	}
	x.target = url.URL{Scheme: to.Scheme, Host: to.Host, Path: path, RawPath: raw}
	if within := r.Header.Get("X-MLFLOW-WORKSPACE"); sameWithin(within, server.Within) {
		x.change = changeOf(r.Method, "/"+rest)
	}
	return x, nil
}

// sameWithin reports whether two names are of the same workspace of an MLflow server.
// Source: spec/workspace.md section 4.4.
func sameWithin(a, b string) bool {
	const byDefault = "default"
	named := func(name string) string {
		if name == "" {
			return byDefault
		}
		return name
	}
	return named(a) == named(b)
}

// change is what a request asks for, of the few things that are watched.
type change uint8

const (
	nothing change = iota
	createRun
	updateRun
	createVersion
	renameModel
	moveModel // of an alias, or of a version to a stage
	renameExperiment
)

// apiPath matches the paths of the REST API: below /api or the static prefix with
// /ajax-api, below whatever another proxy puts before them, in every version.
// Source: spec/workspace.md section 4.1.
var apiPath = regexp.MustCompile(`(?:^|/)(?:ajax-)?api/\d+\.\d+/(?:preview/)?mlflow/([a-z-]+/[a-z-]+)$`)

// changeOf decides what a request asks for. Source: spec/workspace.md section 4.2.
func changeOf(method, path string) change {
	if method != http.MethodPost && method != http.MethodDelete {
		return nothing
	}
	match := apiPath.FindStringSubmatch(path)
	switch {
	case match == nil:
		return nothing
	case method == http.MethodDelete && match[1] == "registered-models/alias":
		return moveModel
	case method == http.MethodDelete:
		return nothing
	}
	switch match[1] {
	case "runs/create":
		return createRun
	case "runs/update":
		return updateRun
	case "model-versions/create":
		return createVersion
	case "registered-models/rename":
		return renameModel
	case "registered-models/alias", "model-versions/transition-stage":
		return moveModel
	case "experiments/update":
		return renameExperiment
	}
	return nothing
}

// rewrite makes the request that goes on of the one that came.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	out := pr.Out
	out.URL.Scheme, out.URL.Host, out.URL.Path, out.URL.RawPath = x.target.Scheme, x.target.Host, x.target.Path, x.target.RawPath
	out.URL.RawQuery = pr.In.URL.RawQuery // also what is no proper query
	out.Host = x.target.Host
	if x.server.PreserveHost {
		out.Host = pr.In.Host
	}
	pr.SetXForwarded()
	out.Header.Set("X-Forwarded-Prefix", x.prefix)
	out.Trailer = pr.In.Trailer // whose values are there once the body is read
	if x.change != nothing {
		out.Header.Set("Accept-Encoding", "identity") // its answer is read
	}
	ownCookies(out.Header)
}

// ownCookies takes from a request the cookies that are for this server itself: it has
// the same host, and they are no business of the one behind it.
func ownCookies(h http.Header) {
	const mark = "carillon-"
	for i, line := range h["Cookie"] {
		if !strings.Contains(line, mark) {
			continue
		}
		var kept []string
		for cookie := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(cookie), "=")
			if !strings.HasPrefix(strings.TrimPrefix(name, "__Host-"), mark) {
				kept = append(kept, strings.TrimSpace(cookie))
			}
		}
		h["Cookie"][i] = strings.Join(kept, "; ")
	}
	h["Cookie"] = slices.DeleteFunc(h["Cookie"], func(line string) bool { return line == "" })
	if len(h["Cookie"]) == 0 {
		h.Del("Cookie")
	}
}

// flight counts the requests that change one run at the same time. Which of them the
// server did last is not in their answers.
type flight struct {
	under int
	mixed bool // there was more than one at once
}

type flightKey struct {
	server resource.UID
	object Object
}

// watch reads what a request asks for, and writes down that it was asked.
func (p *Proxy) watch(x *exchange, r *http.Request) error {
	body, whole, err := readSome(r.Body)
	if err != nil {
		return err
	}
	if whole {
		r.ContentLength, r.TransferEncoding = int64(len(body)), nil
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	} else {
		r.Body = rest{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	}
	var asked struct {
		RunID        string          `json:"run_id"`
		RunUUID      string          `json:"run_uuid"`
		Status       json.RawMessage `json:"status"`
		Name         string          `json:"name"`
		NewName      string          `json:"new_name"`
		ExperimentID json.RawMessage `json:"experiment_id"`
	}
	if whole {
		_ = json.Unmarshal(body, &asked) // what is not understood is for the server to refuse
	}
	x.asked = x.change == createRun || len(asked.Status) > 0 && string(asked.Status) != "null"
	uid := x.server.UID
	switch x.change {
	case updateRun:
		if x.object.Run = asked.RunID; x.object.Run == "" {
			x.object.Run = asked.RunUUID
		}
	case createVersion, moveModel:
		x.object.Model = asked.Name
	case renameModel:
		x.object.Model = asked.NewName
	case renameExperiment:
		x.object.Experiment = strings.Trim(string(asked.ExperimentID), `"`)
	}
	if x.object != (Object{}) && (x.asked || x.object.Model != "") {
		x.end = p.intents.begin(uid, x.object)
	}
	if x.change == updateRun {
		x.flight = p.takeOff(flightKey{uid, x.object})
	}
	if q := p.service.looksOf(uid); q != nil {
		x.after = q.lastSaid(x.object)
	}
	x.mark = p.service.cfg.Ledger.Mark() // after lastSaid: what is not told of there is before it
	return nil
}

func (p *Proxy) takeOff(k flightKey) *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flights[k]
	if f == nil {
		f = &flight{}
		p.flights[k] = f
	}
	f.under++
	f.mixed = f.mixed || f.under > 1
	return f
}

// land reports whether there was another one at the same time.
func (p *Proxy) land(k flightKey, f *flight) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.under--; f.under == 0 {
		delete(p.flights, k)
	}
	return f.mixed
}

// readSome reads a body, or its first watchLimit bytes.
func readSome(body io.Reader) (raw []byte, whole bool, err error) {
	raw, err = io.ReadAll(io.LimitReader(body, watchLimit))
	if err != nil || len(raw) < watchLimit {
		return raw, err == nil, err
	}
	var next [1]byte
	n, err := io.ReadFull(body, next[:])
	if errors.Is(err, io.EOF) {
		return raw, true, nil
	}
	return append(raw, next[:n]...), false, err
}

// rest reads what was read already and goes on.
type rest struct {
	io.Reader
	io.Closer
}

// outcome is what became of a request.
type outcome struct {
	known  bool // whether it changed anything can be told
	answer []byte
}

// Outcomes without an answer to read.
var (
	refused = outcome{known: true} // nothing was changed
	unclear = outcome{}            // it was, or was not
)

// answered is called with the head of an answer. It changes nothing of it.
func (p *Proxy) answered(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	p.metrics.request(x.change, res.StatusCode)
	if x.change == nothing {
		return nil
	}
	switch {
	case res.StatusCode >= 500:
		p.settle(x, unclear)
	case res.StatusCode < 200 || res.StatusCode > 299:
		p.settle(x, refused)
	case res.Header.Get("Content-Encoding") != "" && !strings.EqualFold(res.Header.Get("Content-Encoding"), "identity"):
		p.settle(x, unclear)
	default:
		body, whole, err := readSome(res.Body)
		if err != nil {
			res.Body = rest{io.MultiReader(bytes.NewReader(body), failingReader{err}), res.Body}
		} else {
			res.Body = rest{io.MultiReader(bytes.NewReader(body), res.Body), res.Body}
		}
		if err != nil || !whole {
			p.settle(x, unclear)
		} else {
			p.settle(x, outcome{known: true, answer: body})
		}
	}
	return nil
}

// failingReader ends a body as it ended for us.
type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// unanswered is called when there is no answer.
func (p *Proxy) unanswered(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	p.metrics.request(x.change, 0)
	if x.change != nothing {
		p.settle(x, unclear)
	}
	telemetry.RecordOf(r.Context()).SetError(shown(err))
	fault.Write(w, r, fault.New(fault.BadGateway, "MLflowUnreachable",
		"The MLflow server that the workspace '%s' follows did not answer. The log of this server says why.", x.server.Workspace.Name()))
}

// settle has the ledger told what became of a request, once.
func (p *Proxy) settle(x *exchange, o outcome) {
	x.once.Do(func() {
		mixed := x.flight != nil && p.land(flightKey{x.server.UID, x.object}, x.flight)
		if o.known && o.answer == nil {
			x.end()
			return
		}
		q := p.service.looksOf(x.server.UID)
		if q == nil { // detached meanwhile
			x.end()
			return
		}
		object, what := x.read(o.answer)
		switch {
		case what != nil && !mixed:
			what.mark, what.after, what.asked = x.mark, x.after, x.asked
			p.metrics.observed.WithLabelValues("told").Inc()
			q.tell(object, what, x.end)
		case object != (Object{}):
			p.metrics.observed.WithLabelValues("asked").Inc()
			q.add(object, x.end)
		case x.change == createRun: // a round finds it
			x.end()
		default: // something was changed, and nothing says what
			p.metrics.observed.WithLabelValues("asked").Inc()
			q.known.due.Store(true)
			x.end()
		}
	})
}

// read returns what an answer says, nil when it does not, and of which object.
func (x *exchange) read(answer []byte) (Object, *said) {
	var a struct {
		Run     *run          `json:"run"`
		RunInfo *runInfo      `json:"run_info"`
		Version *modelVersion `json:"model_version"`
		Model   struct {
			Name string `json:"name"`
		} `json:"registered_model"`
	}
	if answer == nil || json.Unmarshal(answer, &a) != nil {
		return x.object, nil
	}
	switch x.change {
	case createRun:
		if a.Run != nil && a.Run.id() != "" && a.Run.Info.ExperimentID != "" {
			return Object{Run: a.Run.id()}, &said{run: a.Run, tags: true}
		}
	case updateRun:
		if a.RunInfo == nil {
			break
		}
		r := &run{Info: *a.RunInfo}
		if r.id() != "" && (x.object.Run == "" || x.object.Run == r.id()) {
			if r.Info.ExperimentID == "" || r.Info.Status == "" {
				return Object{Run: r.id()}, nil
			}
			return Object{Run: r.id()}, &said{run: r}
		}
	case createVersion:
		if v := a.Version; v != nil && v.Name != "" && v.Version != "" && v.Created > 0 {
			return Object{Model: v.Name}, &said{version: v}
		}
	case renameModel:
		if x.object.Model == "" {
			return Object{Model: a.Model.Name}, nil
		}
	}
	return x.object, nil
}

// silence is how long a client may send nothing of a body.
const silence = 2 * time.Minute

// slowBody is the body of a request that may take as long as it likes while it moves.
// The server's own bound is for a whole request, and an upload may take hours.
type slowBody struct {
	io.ReadCloser
	control *http.ResponseController

	mu    sync.Mutex
	until time.Time
	ended bool
}

// unhurried takes the bounds in time from a request.
func unhurried(w http.ResponseWriter, r *http.Request) *slowBody {
	b := &slowBody{ReadCloser: r.Body, control: http.NewResponseController(w)}
	_ = b.control.SetReadDeadline(time.Time{}) // where there is none, there is no bound either
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = b
	}
	return b
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.bound(time.Now().Add(silence))
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.bound(time.Time{})
	}
	return n, err
}

// bound sets until when the client has to send something; half of silence is certain.
func (b *slowBody) bound(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || !until.IsZero() && until.Sub(b.until) < silence/2 {
		return
	}
	b.until = until
	_ = b.control.SetReadDeadline(until)
}

// end stops bounding: the connection is for the next request.
func (b *slowBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// buffers lends what answers are copied with.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[64 << 10]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[64 << 10]byte)(b)) }

// copyErrors takes net/http's complaints, about peers that went away in the middle.
type copyErrors struct{ log *slog.Logger }

func (c copyErrors) Write(p []byte) (int, error) {
	c.log.Debug("MLflow proxy", "message", secret.Redact(strings.TrimSpace(string(p))))
	return len(p), nil
}
