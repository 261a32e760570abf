package openlineage

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// Ledger decides what reports mean. *workspace.Service satisfies it.
type Ledger interface {
	ObserveExperiment(ctx context.Context, ws resource.Workspace, id, name string, by resource.Stamp) error
	ReportRun(ctx context.Context, ws resource.Workspace, o workspace.RunReport, by resource.Stamp) (workspace.Observed, error)
}

// Config holds what a Handler needs. Every field is needed unless it says so.
type Config struct {
	Store  *resource.Store
	Ledger Ledger
	// Keys opens the keys of a workspace.
	Keys         func(*resource.LineageKeys) ([2]string, error)
	Authenticate func(*http.Request) (access.Caller, error)
	Authorizer   *access.Authorizer
	Registerer   prometheus.Registerer // optional
}

// Handler answers the requests of producers.
type Handler struct {
	cfg     Config
	metrics *metrics
	places  chan struct{} // of large bodies that are held at once
}

// Bounds of a request.
const (
	maxBody   = 8 << 20  // bytes, as sent and unpacked
	maxEvents = 1000     // of a batch
	smallBody = 64 << 10 // bytes of a body that waits for nobody
	maxBodies = 8        // larger ones held at once; more wait
)

// New makes a Handler.
func New(c Config) *Handler {
	return &Handler{cfg: c, metrics: newMetrics(c.Registerer), places: make(chan struct{}, maxBodies)}
}

// ActionWrite is what a principal needs at a workspace to report runs.
const ActionWrite = "Microsoft.MachineLearningServices/workspaces/experiments/runs/write"

// Path begins the addresses that name a workspace by its name alone.
const Path = "/openlineage/"

// Extension stands behind the id of a workspace in the addresses that have it.
const Extension = "/providers/Carillon.OpenLineage"

const (
	endpoint = "/api/v1/lineage"
	batch    = "/batch"
)

// Endpoint is what clients add to the origin of a server to reach a workspace.
func Endpoint(ws resource.ID) string { return Path[1:] + ws.Name() + endpoint }

// Serves reports whether a path is one for this package.
func Serves(path string) bool {
	path = strings.ToLower(path)
	return strings.HasPrefix(path, Path) || strings.Contains(path, strings.ToLower(Extension+endpoint))
}

// place is where a request goes to.
type place struct {
	name  string      // of a workspace
	id    resource.ID // of it instead, when the path has it
	batch bool
}

func placeOf(path string) (at place, ok bool) {
	path = strings.TrimSuffix(path, "/")
	fold := func(suffix string) bool {
		cut := len(path) - len(suffix)
		if cut < 0 || !strings.EqualFold(path[cut:], suffix) {
			return false
		}
		path = path[:cut]
		return true
	}
	at.batch = fold(batch)
	if !fold(endpoint) {
		return at, false
	}
	if fold(Extension) {
		id, err := resource.ParseID(path)
		at.id = id
		return at, err == nil && id.IsType(resource.TypeWorkspace)
	}
	if len(path) <= len(Path) || !strings.EqualFold(path[:len(Path)], Path) {
		return at, false
	}
	at.name = path[len(Path):]
	return at, !strings.Contains(at.name, "/")
}

// ServeHTTP answers one request. Errors have the management API's shape.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	record := telemetry.RecordOf(r.Context())
	if err := h.serve(w, r); err != nil {
		h.metrics.refuse(err)
		record.SetError(err)
		fault.Write(w, r, err)
		return
	}
	record.SetLevel(slog.LevelDebug)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	at, ok := placeOf(r.URL.Path)
	if !ok {
		return fault.New(fault.NotFound, "ResourceNotFound",
			"No OpenLineage events are taken at '%.200s': they go to %sWORKSPACE%s, batches to %[3]s%[4]s behind it. Set OPENLINEAGE_URL to the address of the server alone, and OPENLINEAGE_ENDPOINT to the rest: clients differ in how they join them.",
			r.URL.Path, Path, endpoint, batch)
	}
	if r.Method != http.MethodPost {
		f := fault.New(fault.MethodNotAllowed, "MethodNotAllowed", "Method %s is not allowed here: events are sent with POST.", r.Method)
		f.Allow = http.MethodPost
		return f
	}
	ws, by, err := h.admit(r, at)
	if err != nil {
		return err
	}
	telemetry.RecordOf(r.Context()).Add(slog.String(telemetry.Workspace, ws.ID.String()))
	body, release, err := h.read(w, r)
	if err != nil {
		return err
	}
	defer release()
	if at.batch {
		return h.takeBatch(r.Context(), w, ws, by, body)
	}
	if err := h.take(r.Context(), ws, by, body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// admit finds the workspace of a request and who sends it. Somebody who proves nothing
// does not learn which workspaces there are.
func (h *Handler) admit(r *http.Request, at place) (ws resource.Workspace, by resource.Stamp, err error) {
	ws, missing := h.find(at)
	if missing == nil {
		which, err := h.key(r, ws)
		if err != nil {
			return ws, by, err
		}
		if which != "" {
			telemetry.RecordOf(r.Context()).SetPrincipal(telemetry.Identity{Name: which})
			return ws, resource.Stamp{By: which, Kind: "Application"}, nil
		}
	}
	caller, err := h.cfg.Authenticate(r)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Unauthenticated {
		own := *f
		own.Message += " OpenLineage events take one of the workspace's keys as API key (carillon openlineage key list), or a bearer token of a principal that may write runs."
		err = &own
	}
	if err == nil {
		err = missing
	}
	if err != nil {
		return ws, by, err
	}
	telemetry.RecordOf(r.Context()).Add(slog.String(telemetry.Action, ActionWrite))
	return ws, caller.Stamp(time.Now()), h.cfg.Authorizer.Check(caller, ActionWrite, ws.ID)
}

func (h *Handler) find(at place) (resource.Workspace, error) {
	if at.name == "" {
		item, ok := h.cfg.Store.Workspaces.Get(at.id.Key())
		if !ok {
			return item.Value, fault.New(fault.NotFound, "ResourceNotFound", "There is no workspace '%s'.", at.id)
		}
		return item.Value, nil
	}
	item, err := h.cfg.Store.WorkspaceNamed(at.name)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == resource.CodeAmbiguousWorkspace {
		f.Message += " Or send to its full id, with " + Extension + endpoint + " behind it."
	}
	return item.Value, err
}

// key returns the name of the key that a request shows, "" for none.
func (h *Handler) key(r *http.Request, ws resource.Workspace) (string, error) {
	values := r.Header.Values("Authorization")
	item, ok := h.cfg.Store.LineageKeys.Get(ws.ID.Key())
	if !ok || len(values) != 1 {
		return "", nil
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	keys, err := h.cfg.Keys(&item.Value)
	if err != nil {
		return "", err
	}
	shown, which := sha256.Sum256([]byte(strings.TrimSpace(text))), ""
	for i, key := range keys {
		if digest := sha256.Sum256([]byte(key)); key != "" && subtle.ConstantTimeCompare(shown[:], digest[:]) == 1 {
			which = fmt.Sprintf("OpenLineage key%d", i+1)
		}
	}
	return which, nil
}

// read reads a body, unpacked, within bounds. One that is large has a place, until release
// is called: so those that are sent slowly hold up no small ones.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	var from io.Reader = http.MaxBytesReader(w, r.Body, maxBody)
	switch encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(from)
		if err != nil {
			return nil, nil, unreadable(err)
		}
		from = unpacked
	default:
		return nil, nil, fault.New(fault.UnsupportedMedia, "UnsupportedMediaType", "The Content-Encoding '%.40s' is not taken: use gzip, or none.", encoding)
	}
	release = func() {}
	body, err = io.ReadAll(io.LimitReader(from, smallBody))
	if err == nil && len(body) == smallBody {
		select {
		case h.places <- struct{}{}:
		case <-r.Context().Done():
			return nil, nil, r.Context().Err()
		}
		release = func() { <-h.places }
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(from, maxBody+1-smallBody))
		body = append(body, rest...)
	}
	switch {
	case len(body) > maxBody:
		err = tooLarge()
	case err != nil:
		err = unreadable(err)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return body, release, nil
}

func tooLarge() error {
	return fault.New(fault.TooLarge, "PayloadTooLarge", "The body has more than %d bytes unpacked: send fewer events at once, or turn off the facets that take most.", maxBody)
}

func unreadable(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge()
	}
	return fault.New(fault.Invalid, "InvalidRequestContent", "The body could not be read to its end, or is not gzip as its Content-Encoding says.").Because(err)
}

// take takes one event.
func (h *Handler) take(ctx context.Context, ws resource.Workspace, by resource.Stamp, raw []byte) error {
	var e wireEvent
	if err := json.Unmarshal(raw, &e); err != nil {
		if len(bytes.TrimLeft(raw, " \t\r\n")) > 0 && bytes.TrimLeft(raw, " \t\r\n")[0] == '[' {
			return fault.New(fault.Invalid, "InvalidRequestContent", "The body is an array: batches of events go to %s%s.", endpoint, batch)
		}
		return fault.New(fault.Invalid, "InvalidRequestContent", "The body is not an OpenLineage event: %v.", err)
	}
	if e.aside() {
		h.metrics.took("", 0)
		return nil
	}
	o, err := e.report(ws.ID)
	if err != nil {
		return err
	}
	if err := h.cfg.Ledger.ObserveExperiment(ctx, ws, o.ExperimentID, o.Experiment, by); err != nil {
		return err
	}
	out, err := h.cfg.Ledger.ReportRun(ctx, ws, o, by)
	if err == nil {
		h.metrics.took(strings.ToUpper(e.EventType), out.Events)
	}
	return err
}

// batchAnswer says of a batch what became of it, when some events of it are not good.
// Source: spec/workspace.md section 6.1.
type batchAnswer struct {
	Status  string        `json:"status"`
	Summary batchSummary  `json:"summary"`
	Failed  []failedEvent `json:"failed_events"`
}

type batchSummary struct {
	Received     int `json:"received"`
	Successful   int `json:"successful"`
	Failed       int `json:"failed"`
	Retriable    int `json:"retriable"`
	NonRetriable int `json:"non_retriable"`
}

type failedEvent struct {
	Index     int    `json:"index"`
	Reason    string `json:"reason"`
	Retriable bool   `json:"retriable"`
}

// takeBatch takes events one by one. Those that are not good are told of; when one could
// not be stored the request fails, for all of them may be sent again.
func (h *Handler) takeBatch(ctx context.Context, w http.ResponseWriter, ws resource.Workspace, by resource.Stamp, raw []byte) error {
	var all json.RawMessage // it is valid to its end
	if err := json.Unmarshal(raw, &all); err != nil {
		return fault.New(fault.Invalid, "InvalidRequestContent", "The body is not an array of OpenLineage events: %v.", err)
	}
	list, more, err := atMost[json.RawMessage](all, maxEvents)
	if err != nil {
		return fault.New(fault.Invalid, "InvalidRequestContent", "The body is not an array of OpenLineage events: %v.", err)
	}
	if more {
		return fault.New(fault.TooLarge, "PayloadTooLarge", "The batch has more events than are taken at once: at most %d are.", maxEvents)
	}
	telemetry.RecordOf(ctx).Add(slog.Int("reports", len(list)))
	out := batchAnswer{Status: "partial_success", Summary: batchSummary{Received: len(list)}, Failed: []failedEvent{}}
	var problems []*fault.Error
	for i, one := range list {
		err := h.take(ctx, ws, by, one)
		f, ok := errors.AsType[*fault.Error](err)
		switch {
		case err == nil:
			out.Summary.Successful++
		case ok && f.Kind == fault.Invalid:
			out.Failed = append(out.Failed, failedEvent{Index: i, Reason: f.Message})
			problems = append(problems, f)
		default:
			return err
		}
	}
	failed := len(out.Failed)
	switch {
	case failed == 0:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case failed == len(list): // clients look at no more than the status
		return fault.Join(problems...)
	}
	out.Summary.Failed, out.Summary.NonRetriable = failed, failed
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(out) // the client has gone if this fails
	return nil
}
