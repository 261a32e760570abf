package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Topic is what publishing needs to know of a custom topic or a domain.
type Topic struct {
	UID     resource.UID
	Domain  bool // each event names the one of its topics that it is for
	ID      resource.ID
	Schema  event.Schema
	Mapping *event.Mapping // of custom input
	Keys    [2]AccessKey   // both are valid
	KeysOff bool           // neither keys nor shared access signatures are taken
	From    []netip.Prefix // networks that publishers may be in; nil = any, empty = none
	Lenient bool           // see event.DecodeOptions

	DuplicateWindow time.Duration // for how long an event is not taken again; 0 = it always is
}

// Topics finds custom topics and domains by name; no two have one name. A name is
// compared ignoring case; region is empty where the address does not name it. Nobody changes a topic that was found: one
// that changes is another.
type Topics interface {
	FindTopic(ctx context.Context, name, region string) (topic *Topic, found bool, err error)
}

// Publisher stores the events of one request, all or none, and returns nil once
// they are durable at the configured level. It may keep the events.
type Publisher interface {
	Publish(ctx context.Context, topic resource.UID, events []event.Event) error
	// PublishOnce is Publish without the events that the topic took within window. A
	// request that fails may be stored in part; sent again, the rest is.
	PublishOnce(ctx context.Context, topic resource.UID, window time.Duration, events []event.Event) error
}

// APIVersion is the only version of the publish API.
const APIVersion = "2018-01-01"

// Handler answers the requests of the data plane.
type Handler struct {
	topics     Topics
	publisher  Publisher
	senders    Senders
	events     Events
	done       <-chan struct{}
	origin     origin
	signatures signatures
	metrics    *metrics
}

// Config is what a Handler works with.
type Config struct {
	Topics     Topics
	Publisher  Publisher
	Senders    Senders
	Events     Events                // nil: none are received here
	Done       <-chan struct{}       // closed when the server stops; nil for never
	Origin     string                // scheme, host and port under which publishers reach the server, whatever is between
	Registerer prometheus.Registerer // may be nil
}

// New returns a handler.
func New(c Config) *Handler {
	h := &Handler{topics: c.Topics, publisher: c.Publisher, senders: c.Senders, events: c.Events, done: c.Done, metrics: newMetrics(c.Registerer)}
	if u, err := url.Parse(c.Origin); err == nil {
		h.origin = originOf(u)
	}
	return h
}

// ServeHTTP answers one request. Source: spec/events.md sections 8.1 to 8.3.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header["Api-Supported-Versions"] = supportedVersions
	if header["X-Ms-Request-Id"] == nil {
		header["X-Ms-Request-Id"] = []string{telemetry.NewID()}
	}
	if r.TLS != nil {
		header["Strict-Transport-Security"] = transportSecurity
	}
	record := telemetry.RecordOf(r.Context())
	count, err := h.metrics.refuse, error(nil)
	if op, ok := operationOf(r.URL.Path); ok {
		header["Api-Supported-Versions"] = receiveVersions
		count, err = h.metrics.refuseReceiver, h.serveOperation(w, r, op)
	} else {
		err = h.serve(w, r)
	}
	if err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Unauthenticated && f.Challenge == "" {
			f.Challenge = h.senders.Challenge()
		}
		count(err)
		record.SetError(err)
		fault.WritePublish(w, r, err)
		return
	}
	record.SetLevel(slog.LevelDebug)
}

var (
	supportedVersions = []string{APIVersion}
	transportSecurity = []string{"max-age=31536000; includeSubDomains"}
)

// serve answers a request that nothing is wrong with, and otherwise returns what is.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	at, ok := placeOf(r)
	if name, verb, is := strings.Cut(r.URL.Path, ":"); !ok && is && strings.Contains(strings.ToLower(name), "/eventsubscriptions/") {
		return fault.New(fault.NotFound, "ResourceNotFound", "There is no operation '%s' of an event subscription: use receive, acknowledge, release, reject or renewLock.", verb)
	}
	if !ok {
		return fault.New(fault.NotFound, "ResourceNotFound", "Nothing is published at '%s' of host '%s': events go to /api/events of a topic or a domain.", r.URL.Path, r.Host)
	}
	topic, found, err := h.topics.FindTopic(r.Context(), at.name, at.region)
	if err != nil {
		return fmt.Errorf("find topic %s: %w", at.name, err)
	}
	if !found || at.kind != "" && topic.Domain != (at.kind == kindDomain) || r.Method == http.MethodHead {
		return fault.New(fault.NotFound, "ResourceNotFound", "The %s '%s' is not found%s.", cmp.Or(at.kind, kindTopic), at.name, inRegion(at.region))
	}
	if err := admit(r, topic); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodPost:
		return h.publish(r, topic)
	case http.MethodOptions:
		// The documented way to learn the input schema. It tells nothing secret and
		// asks for no credential.
		w.Header()["Allow"] = []string{allowed}
		w.Header()["Aeg-Input-Event-Schema"] = []string{topic.Schema.InputName()}
		return nil
	default:
		f := fault.New(fault.MethodNotAllowed, "MethodNotAllowed", "Method %s is not allowed here: events are published with POST.", r.Method)
		f.Allow = allowed
		return f
	}
}

const allowed = "POST,OPTIONS"

func inRegion(region string) string {
	if region == "" {
		return ""
	}
	return " in region '" + region + "'"
}

// publish takes the events of one request. An answer without body is written by
// net/http.
func (h *Handler) publish(r *http.Request, topic *Topic) error {
	telemetry.RecordOf(r.Context()).Add(slog.String(telemetry.Topic, topic.ID.String()))
	if err := h.authenticate(r, topic); err != nil {
		return err
	}
	if err := checkVersion(r); err != nil {
		return err
	}
	return h.store(r, topic)
}

// store decodes the events of a request and hands them on.
func (h *Handler) store(r *http.Request, topic *Topic) error {
	events, err := decode(r, topic)
	if err != nil {
		return err
	}
	telemetry.RecordOf(r.Context()).Add(slog.Int(telemetry.Events, len(events)))
	if topic.DuplicateWindow > 0 {
		return h.publisher.PublishOnce(r.Context(), topic.UID, topic.DuplicateWindow, events)
	}
	return h.publisher.Publish(r.Context(), topic.UID, events)
}

// checkVersion accepts a missing api-version, as the service does though its own
// description requires one. Source: spec/events.md section 8.1.
func checkVersion(r *http.Request) error {
	if r.URL.RawQuery == "" || r.URL.RawQuery == "api-version="+APIVersion {
		return nil // what nearly every request has, without parsing
	}
	for name, values := range r.URL.Query() {
		if !strings.EqualFold(name, "api-version") {
			continue
		}
		for _, version := range values {
			if version != "" && version != APIVersion {
				return fault.New(fault.Invalid, "InvalidApiVersion", "The api-version '%s' is not supported: use %s.", version, APIVersion)
			}
		}
	}
	return nil
}

// HostSuffix is how the hosts of topics and domains end.
const HostSuffix = ".eventgrid.localhost"

const (
	topicsPath  = "/topics/"
	domainsPath = "/domains/"
	eventsPath  = "/api/events"
)

const (
	kindTopic  = "topic"
	kindDomain = "domain"
)

// place is where a request publishes to.
type place struct {
	name   string
	region string // "" where the address does not name it
	kind   string // kindTopic or kindDomain, "" where the address does not tell
}

// Serves reports whether a request is one for the data plane, so that a server
// can put its planes behind one port.
func Serves(r *http.Request) bool {
	_, _, ok := hostAddress(r.Host)
	return ok || hasPrefixFold(r.URL.Path, topicsPath) || hasPrefixFold(r.URL.Path, domainsPath) || hasPrefixFold(r.URL.Path, resource.ReceiveRoot+"/")
}

// placeOf reads where a request publishes to: by a topic's or a domain's own host, or by
// its path on any host. Paths are taken in any case and with a slash at the end.
// Source: spec/events.md section 8.1; design.md, "One binary, one port".
func placeOf(r *http.Request) (at place, ok bool) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if name, region, ok := hostAddress(r.Host); ok && strings.EqualFold(path, eventsPath) {
		return place{name: name, region: region}, true
	}
	prefix, kind := topicsPath, kindTopic
	if hasPrefixFold(path, domainsPath) {
		prefix, kind = domainsPath, kindDomain
	}
	end := len(path) - len(eventsPath)
	if end <= len(prefix) || !hasPrefixFold(path, prefix) || !strings.EqualFold(path[end:], eventsPath) {
		return place{}, false
	}
	name := path[len(prefix):end]
	return place{name: name, kind: kind}, !strings.Contains(name, "/")
}

// hostAddress takes a host of the form {topic}.{region}-1.eventgrid.localhost
// apart, with or without a port.
func hostAddress(host string) (topic, region string, ok bool) {
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 {
		host = host[:colon]
	}
	at := len(host) - len(HostSuffix)
	if at <= 0 || !strings.EqualFold(host[at:], HostSuffix) {
		return "", "", false
	}
	topic, region, _ = strings.Cut(host[:at], ".")
	region, numbered := strings.CutSuffix(region, "-1")
	return topic, region, numbered && topic != "" && region != "" && !strings.Contains(region, ".")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
