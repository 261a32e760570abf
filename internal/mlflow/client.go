package mlflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/carillon-events/carillon/internal/secret"
)

// Connection says where an MLflow server is and what it is told of the caller.
type Connection struct {
	URL          string // http or https, with the path that stands before /api
	StaticPrefix string // of mlflow server --static-prefix; "" for none
	Workspace    string // of the MLflow server; "" for its default one
	Username     string // with Password for Basic authentication
	Password     secret.String
	Token        secret.String // for Bearer authentication; goes before a password
}

// Client speaks the REST API of one MLflow server.
// Source: spec/workspace.md sections 4.1 to 4.4; mlflow/protos/service.proto and
// model_registry.proto.
type Client struct {
	connection Connection
	base       string // before the path of an RPC
	http       *http.Client
	asked      func()       // called for each request
	further    func() error // called before each page of a list but the first; an error ends the list
}

// answerLimit bounds what is read of one answer. A search that would exceed it is
// asked for in smaller pages.
const answerLimit = 32 << 20

// NewClient makes a client whose connections c dials.
func NewClient(connection Connection, c *http.Client) *Client {
	base := strings.TrimRight(connection.URL, "/")
	if prefix := strings.Trim(connection.StaticPrefix, "/"); prefix != "" {
		base += "/" + prefix + "/ajax-api/2.0" // the plain API never has the prefix
	} else {
		base += "/api/2.0"
	}
	return &Client{connection: connection, base: base, http: c, asked: func() {}, further: func() error { return nil }}
}

// APIError is an answer that says no.
type APIError struct {
	Status  int
	Code    string // MLflow's error_code, "" where the answer had none
	Message string // of the server, cut; it never holds what we sent as credentials
}

// Error satisfies error.
func (e *APIError) Error() string {
	text := "the MLflow server answered " + strconv.Itoa(e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Refused reports whether err says that the server does not take the credentials.
func Refused(err error) bool {
	e, ok := errors.AsType[*APIError](err)
	return ok && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden)
}

// absent reports whether err says that the object does not exist.
func absent(err error) bool {
	e, ok := errors.AsType[*APIError](err)
	return ok && e.Code == "RESOURCE_DOES_NOT_EXIST"
}

// invalid reports whether err says that the request is not understood.
func invalid(err error) bool {
	e, ok := errors.AsType[*APIError](err)
	return ok && e.Status == http.StatusBadRequest
}

// errTooMany is a list that goes on and on.
var errTooMany = fmt.Errorf("the MLflow server lists more than %d experiments or registered models, the most that are followed", mostObjects)

// errAgain is a list that goes round in a circle.
var errAgain = errors.New("the MLflow server gave the token of a page for the second time: its list has no end")

// errTooLarge is an answer of more than answerLimit bytes.
var errTooLarge = errors.New("the MLflow server's answer is too large")

// tooLarge is errTooLarge with the beginning of the answer.
type tooLarge struct{ read []byte }

// Error satisfies error.
func (*tooLarge) Error() string { return errTooLarge.Error() }

// Unwrap makes it errTooLarge.
func (*tooLarge) Unwrap() error { return errTooLarge }

// firstRun is what an answer to a search says of its first run, of which it need not hold
// the rest: what a run is stands before what was recorded of it. No id where it does not say.
func (l *tooLarge) firstRun() runInfo {
	d := json.NewDecoder(bytes.NewReader(l.read))
	// within goes into an object, to the value of a member, or into a list, to its first one.
	within := func(open json.Delim, member string) bool {
		if t, err := d.Token(); err != nil || t != open {
			return false
		}
		for open == '{' && d.More() {
			key, err := d.Token()
			if err != nil || key == member {
				return err == nil
			}
			var other json.RawMessage
			if d.Decode(&other) != nil {
				return false
			}
		}
		return open == '['
	}
	var first run
	if within('{', "runs") && within('[', "") && within('{', "info") && d.Decode(&first.Info) == nil {
		first.Info.RunID = first.id()
		return first.Info
	}
	return runInfo{}
}

// call makes one request and reads its answer into out. A body of nil is a GET.
func (c *Client) call(ctx context.Context, path string, query url.Values, body, out any) error {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	return c.send(ctx, method, path, query, body, out)
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, body, out any) error {
	c.asked()
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode a request of %s: %w", path, err)
		}
		content = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return fmt.Errorf("make a request of %s: %w", path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "carillon-mlflow")
	switch {
	case c.connection.Token != "":
		request.Header.Set("Authorization", "Bearer "+c.connection.Token.Reveal())
	case c.connection.Username != "":
		request.SetBasicAuth(c.connection.Username, c.connection.Password.Reveal())
	}
	if c.connection.Workspace != "" {
		request.Header.Set("X-MLFLOW-WORKSPACE", c.connection.Workspace)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the whole URL helps nobody
		}
		return fmt.Errorf("ask %s of the MLflow server: %w", path, err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer to %s: %w", path, err)
	case response.StatusCode < 200 || response.StatusCode > 299:
		return c.refusal(response.StatusCode, raw)
	case len(raw) > answerLimit:
		return &tooLarge{raw}
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the answer to %s is not MLflow's: %w", path, err)
	}
	return nil
}

// refusal reads an answer that says no. What servers and proxies write there is not
// ours to trust: credentials that came back are left out.
func (c *Client) refusal(status int, raw []byte) error {
	const most = 300
	var said struct {
		Code    json.RawMessage `json:"error_code"`
		Message string          `json:"message"`
	}
	e := &APIError{Status: status}
	if json.Unmarshal(raw, &said) == nil {
		_ = json.Unmarshal(said.Code, &e.Code) // a number in some backends, which says nothing
		e.Message = said.Message
	}
	for _, word := range []secret.String{c.connection.Password, c.connection.Token} {
		if word != "" {
			e.Message = strings.ReplaceAll(e.Message, word.Reveal(), secret.Hidden)
			e.Code = strings.ReplaceAll(e.Code, word.Reveal(), secret.Hidden)
		}
	}
	e.Code, e.Message = cut(e.Code, most), cut(secret.Redact(e.Message), most)
	return e
}

// cut shortens a text to n bytes of whole characters on one line.
func cut(text string, n int) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n], "") + "…"
	}
	return text
}

// whole is a 64-bit integer, which MLflow writes as a number and plain protobuf JSON
// as a string.
type whole int64

// UnmarshalJSON satisfies json.Unmarshaler.
func (w *whole) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "null" || text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return errors.New("a time is not a whole number") // what it is instead is not ours to show
	}
	*w = whole(n)
	return nil
}

// Bounds of lists in an answer.
const (
	mostListed  = 10_000  // objects of a page; the server was asked for 2,000 at most
	mostLabels  = 10_000  // tags, parameters or metrics of an object; further ones are left out
	mostObjects = 100_000 // experiments or registered models of a server
)

// page is a list that a server was asked for a part of. One that is much longer is none:
// what it says in 32 MiB can take gigabytes to hold.
type page[T any] []T

// UnmarshalJSON satisfies json.Unmarshaler.
func (p *page[T]) UnmarshalJSON(raw []byte) error {
	if firstOf(raw, mostListed) != len(raw) {
		return fmt.Errorf("a list has more than %d objects, and fewer were asked for", mostListed)
	}
	return json.Unmarshal(raw, (*[]T)(p))
}

// labels is a list of which the first ones count.
type labels[T any] []T

// UnmarshalJSON satisfies json.Unmarshaler.
func (l *labels[T]) UnmarshalJSON(raw []byte) error {
	if n := firstOf(raw, mostLabels); n != len(raw) {
		raw = append(raw[:n:n], ']')
	}
	return json.Unmarshal(raw, (*[]T)(l))
}

// firstOf is how many bytes of a JSON list its first n items take, or the length of all
// where it has no more, or is no list.
func firstOf(raw []byte, n int) int {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 1 && raw[0] == '[':
			if n--; n == 0 {
				return i
			}
		}
	}
	return len(raw)
}

// pages reads a list page by page, from a token on, "" for the first page, up to a page
// that leads on to none, or is empty. Who gives tokens may give them for ever: of those
// that were read one is kept, ever later ones, and so each circle is found.
func pages[T any](c *Client, token string, ask func(token string) ([]T, string, error)) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		kept := token
		for n := 1; ; n++ {
			var page []T
			next, err := "", error(nil)
			if token != "" {
				err = c.further()
			}
			if err == nil {
				page, next, err = ask(token)
			}
			if !yield(page, err) || err != nil || next == "" || len(page) == 0 {
				return
			}
			if next == kept {
				yield(nil, errAgain)
				return
			}
			if n&(n-1) == 0 {
				kept = next
			}
			token = next
		}
	}
}

// pair is a tag or a parameter.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// metric is the newest value of a metric.
type metric struct {
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"` // a number, or a text such as "NaN"
	Timestamp whole           `json:"timestamp"`
	Step      whole           `json:"step"`
}

type runInfo struct {
	RunID          string `json:"run_id"`
	RunUUID        string `json:"run_uuid"` // what old servers call it
	RunName        string `json:"run_name"`
	ExperimentID   string `json:"experiment_id"`
	UserID         string `json:"user_id"`
	Status         string `json:"status"`
	StartTime      whole  `json:"start_time"`
	EndTime        whole  `json:"end_time"`
	ArtifactURI    string `json:"artifact_uri"`
	LifecycleStage string `json:"lifecycle_stage"`
}

type run struct {
	Info runInfo `json:"info"`
	Data struct {
		Params  labels[pair]   `json:"params"`
		Tags    labels[pair]   `json:"tags"`
		Metrics labels[metric] `json:"metrics"`
	} `json:"data"`
}

func (r *run) id() string {
	if r.Info.RunID == "" {
		return r.Info.RunUUID
	}
	return r.Info.RunID
}

func (r *run) deleted() bool { return r.Info.LifecycleStage == "deleted" }

type experiment struct {
	ID   string `json:"experiment_id"`
	Name string `json:"name"`
}

type registeredModel struct {
	Name        string               `json:"name"`
	LastUpdated whole                `json:"last_updated_timestamp"`
	Tags        labels[pair]         `json:"tags"`
	Aliases     labels[modelAlias]   `json:"aliases"`
	Latest      labels[modelVersion] `json:"latest_versions"` // of each stage
}

type modelAlias struct {
	Alias   string `json:"alias"`
	Version string `json:"version"`
}

type modelVersion struct {
	Name        string         `json:"name"`
	Version     string         `json:"version"`
	Created     whole          `json:"creation_timestamp"`
	UserID      string         `json:"user_id"`
	Stage       string         `json:"current_stage"`
	Description string         `json:"description"`
	Source      string         `json:"source"`
	RunID       string         `json:"run_id"`
	Status      string         `json:"status"`
	Tags        labels[pair]   `json:"tags"`
	Aliases     labels[string] `json:"aliases"`
	ModelID     string         `json:"model_id"`
}

// Check asks the server something small: whether it is there, and takes the
// credentials.
func (c *Client) Check(ctx context.Context) error {
	var answer struct{}
	return c.call(ctx, "/mlflow/experiments/search", nil, map[string]any{"max_results": 1, "view_type": "ALL"}, &answer)
}

// experiments returns all experiments, deleted ones too.
func (c *Client) experiments(ctx context.Context) ([]experiment, error) {
	var all []experiment
	for part, err := range pages(c, "", func(token string) ([]experiment, string, error) {
		var answer struct {
			Experiments page[experiment] `json:"experiments"`
			Next        string           `json:"next_page_token"`
		}
		body := map[string]any{"max_results": 1000, "view_type": "ALL", "order_by": []string{"experiment_id ASC"}}
		if token != "" {
			body["page_token"] = token
		}
		err := c.call(ctx, "/mlflow/experiments/search", nil, body, &answer)
		return answer.Experiments, answer.Next, err
	}) {
		if err != nil {
			return nil, err
		}
		if all = append(all, part...); len(all) > mostObjects {
			return nil, errTooMany
		}
	}
	return all, nil
}

func (c *Client) experiment(ctx context.Context, id string) (experiment, error) {
	var answer struct {
		Experiment experiment `json:"experiment"`
	}
	err := c.call(ctx, "/mlflow/experiments/get", url.Values{"experiment_id": {id}}, nil, &answer)
	return answer.Experiment, err
}

// runQuery is a search for runs.
type runQuery struct {
	ExperimentIDs []string `json:"experiment_ids"`
	Filter        string   `json:"filter,omitempty"`
	View          string   `json:"run_view_type,omitempty"` // ACTIVE_ONLY or ALL
	Max           int      `json:"max_results"`
	OrderBy       []string `json:"order_by,omitempty"`
	Token         string   `json:"page_token,omitempty"`
}

func (c *Client) searchRuns(ctx context.Context, q runQuery) (runs []run, next string, err error) {
	var answer struct {
		Runs page[run] `json:"runs"`
		Next string    `json:"next_page_token"`
	}
	err = c.call(ctx, "/mlflow/runs/search", nil, q, &answer)
	return answer.Runs, answer.Next, err
}

func (c *Client) run(ctx context.Context, id string) (run, error) {
	var answer struct {
		Run run `json:"run"`
	}
	err := c.call(ctx, "/mlflow/runs/get", url.Values{"run_id": {id}}, nil, &answer)
	return answer.Run, err
}

// registeredModels returns one page of at most so many registered models, those that
// changed last first.
func (c *Client) registeredModels(ctx context.Context, token string, most int) (models []registeredModel, next string, err error) {
	var answer struct {
		Models page[registeredModel] `json:"registered_models"`
		Next   string                `json:"next_page_token"`
	}
	err = c.call(ctx, "/mlflow/registered-models/search", paged(token, most, url.Values{"order_by": {"last_updated_timestamp DESC"}}), nil, &answer)
	return answer.Models, answer.Next, err
}

func (c *Client) registeredModel(ctx context.Context, name string) (registeredModel, error) {
	var answer struct {
		Model registeredModel `json:"registered_model"`
	}
	err := c.call(ctx, "/mlflow/registered-models/get", url.Values{"name": {name}}, nil, &answer)
	return answer.Model, err
}

// modelVersions returns one page of model versions, of all models or, highest number
// first, of one.
func (c *Client) modelVersions(ctx context.Context, model, token string) (versions []modelVersion, next string, err error) {
	query := url.Values{}
	if model != "" {
		filter, ok := equals("name", model)
		if !ok {
			return nil, "", nil // found by the sweep alone
		}
		query.Set("filter", filter)
		query.Set("order_by", "version_number DESC")
	} else {
		query["order_by"] = []string{"name ASC", "version_number ASC"}
	}
	var answer struct {
		Versions page[modelVersion] `json:"model_versions"`
		Next     string             `json:"next_page_token"`
	}
	err = c.call(ctx, "/mlflow/model-versions/search", paged(token, 1000, query), nil, &answer)
	return answer.Versions, answer.Next, err
}

func (c *Client) modelVersion(ctx context.Context, model, version string) (modelVersion, error) {
	var answer struct {
		Version modelVersion `json:"model_version"`
	}
	err := c.call(ctx, "/mlflow/model-versions/get", url.Values{"name": {model}, "version": {version}}, nil, &answer)
	return answer.Version, err
}

func paged(token string, most int, query url.Values) url.Values {
	query.Set("max_results", strconv.Itoa(most))
	if token != "" {
		query.Set("page_token", token)
	}
	return query
}

// equals is a comparison in the grammar of filters, which has two kinds of quotes and
// no way to escape them.
func equals(attribute, value string) (filter string, ok bool) {
	for _, quote := range []string{"'", `"`} {
		if !strings.Contains(value, quote) && !strings.Contains(value, `\`) {
			return attribute + "=" + quote + value + quote, true
		}
	}
	return "", false
}
