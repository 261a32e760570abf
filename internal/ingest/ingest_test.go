package ingest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	key1   = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	key2   = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA="
	prefix = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.EventGrid/topics/"

	gridEvent    = `{"id":"1","subject":"orders/7","eventType":"Orders.Placed","eventTime":"2024-05-01T10:00:00Z","data":{"total":12.50}}`
	customObject = `{"trackingId":"a1","at":"2024-05-01T10:00:00Z","kind":"Orders.Placed","total":12.50}`
	cloudEvent   = `{"specversion":"1.0","type":"Orders.Placed","source":"/shop","id":"1","data":{"total":12.50}}`
)

// forTenant is an event for one topic of a domain.
func forTenant(topic string) string {
	return strings.Replace(gridEvent, `"id"`, `"topic":"`+topic+`","id"`, 1)
}

// world stands for the topics and the broker.
type world struct {
	topics    map[string]Topic
	findErr   error
	err       error
	published []string
	windows   []time.Duration // of PublishOnce
	asked     []string        // of what is received
	reception *broker.Reception
}

// A topic that leaves out duplicates says so to the publisher; others do not.
func TestDuplicateWindow(t *testing.T) {
	w := newWorld()
	once := w.topics["orders"]
	once.DuplicateWindow = 10 * time.Minute
	w.topics["once"] = once
	h := w.handler()
	for _, name := range []string{"orders", "once"} {
		r := httptest.NewRequest("POST", "http://localhost/topics/"+name+"/api/events", strings.NewReader("["+gridEvent+"]"))
		r.Header.Set("aeg-sas-key", key1)
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		if h.ServeHTTP(rec, r); rec.Code != 200 {
			t.Fatalf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	if len(w.published) != 2 || !slices.Equal(w.windows, []time.Duration{10 * time.Minute}) {
		t.Errorf("published %d, windows %v", len(w.published), w.windows)
	}
}

func newWorld() *world {
	topic := func(uid resource.UID, name string, schema event.Schema) Topic {
		return Topic{UID: uid, ID: resource.MustID(prefix + name), Schema: schema, Keys: [2]AccessKey{NewAccessKey(key1), NewAccessKey(key2)}}
	}
	lenient := topic(3, "lenient", event.CloudEventSchemaV1_0)
	lenient.Lenient = true
	keyless := topic(4, "keyless", event.EventGridSchema)
	keyless.Keys = [2]AccessKey{NewAccessKey("")}
	keysOff := topic(7, "keys-off", event.EventGridSchema)
	keysOff.KeysOff = true
	closed := topic(8, "closed", event.EventGridSchema)
	closed.From = []netip.Prefix{}
	inside := topic(9, "inside", event.EventGridSchema)
	inside.From = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	custom := topic(6, "custom", event.CustomEventSchema)
	custom.Mapping = &event.Mapping{
		ID: event.MappedAttribute{SourceField: "trackingId"}, Time: event.MappedAttribute{SourceField: "at"}, Type: event.MappedAttribute{SourceField: "kind"},
		Subject: event.MappedAttribute{DefaultValue: "none"}, DataVersion: event.MappedAttribute{DefaultValue: "1.0"},
	}
	domain := func(uid resource.UID, name string, like Topic) Topic {
		like.UID, like.ID, like.Domain = uid, resource.MustID(strings.Replace(prefix, "/topics/", "/domains/", 1)+name), true
		return like
	}
	byTenant := topic(0, "any", event.CustomEventSchema)
	byTenant.Mapping = &event.Mapping{
		ID: event.MappedAttribute{SourceField: "trackingId"}, Topic: event.MappedAttribute{SourceField: "kind"}, Time: event.MappedAttribute{SourceField: "at"},
		Type: event.MappedAttribute{DefaultValue: "Order"}, Subject: event.MappedAttribute{DefaultValue: "none"},
	}
	return &world{topics: map[string]Topic{
		"shops": domain(10, "shops", topic(0, "any", event.EventGridSchema)), "cloud-shops": domain(11, "cloud-shops", topic(0, "any", event.CloudEventSchemaV1_0)),
		"custom-shops": domain(12, "custom-shops", byTenant),
		"custom":       custom, "keys-off": keysOff, "closed": closed, "inside": inside,
		"orders": topic(1, "orders", event.EventGridSchema), "shop": topic(2, "shop", event.CloudEventSchemaV1_0),
		"lenient": lenient, "keyless": keyless, "unknown-schema": topic(5, "unknown-schema", 9),
	}}
}

func (w *world) handler() *Handler {
	return New(Config{Topics: w, Publisher: w, Senders: w, Events: w, Origin: "https://grid.example:8443"})
}

// Tokens that the world knows; every other one does not hold.
const (
	tokenOfSender = "token-of-a-sender"
	tokenOfReader = "token-of-a-reader"
	tokenOfNobody = "token-that-breaks-the-directory"
)

func (w *world) AuthorizeSender(_ context.Context, token string, topic resource.ID) (string, error) {
	switch token {
	case tokenOfSender:
		return "11111111-0000-0000-0000-000000000000", nil
	case tokenOfReader:
		return "", fault.New(fault.Forbidden, "AuthorizationFailed", "The client may not send events to '%s'.", topic)
	case tokenOfNobody:
		return "", errors.New("the directory is closed")
	}
	f := fault.New(fault.Unauthenticated, "InvalidAuthenticationToken", "The access token is invalid.")
	f.Challenge = w.Challenge() + `, error="invalid_token", error_description="The access token is invalid."`
	return "", f
}

func (w *world) AuthorizeReceiver(ctx context.Context, token string, es, _ resource.ID) (string, error) {
	return w.AuthorizeSender(ctx, token, es)
}

func (w *world) Challenge() string {
	return `Bearer authorization_uri="https://grid.example:8443/tenant"`
}

func (w *world) FindTopic(_ context.Context, name, region string) (*Topic, bool, error) {
	if w.findErr != nil {
		return nil, false, w.findErr
	}
	t, ok := w.topics[strings.ToLower(name)]
	return &t, ok && (region == "" || strings.EqualFold(region, "local")), nil
}

func (w *world) PublishOnce(ctx context.Context, topic resource.UID, window time.Duration, events []event.Event) error {
	w.windows = append(w.windows, window)
	return w.Publish(ctx, topic, events)
}

func (w *world) Publish(_ context.Context, topic resource.UID, events []event.Event) error {
	if w.err != nil {
		return w.err
	}
	for i := range events {
		to := fmt.Sprint(uint64(topic))
		if events[i].DomainTopic != nil {
			to += "/" + string(events[i].DomainTopic)
		}
		w.published = append(w.published, fmt.Sprintf("%s %s", to, events[i].Raw))
	}
	return nil
}

// exchange is one request and where its rule stands. The answer, and what was
// published, are compared with testdata/{name}.txt.
type exchange struct {
	name, source string
	method       string // POST unless given
	target       string // /topics/orders/api/events unless given
	host         string
	remote       string   // address of the client; 192.0.2.1 unless given
	header       []string // "name: value"; the first key is added unless there is a header here or bare is set
	bare         bool     // no header is added
	body         string
	chunked      bool // the length is not known beforehand
	err          error
	findErr      error
}

var exchanges = []exchange{
	{name: "success", source: "8.2", body: "[" + gridEvent + "]"},
	{name: "success-second-key", source: "8.4", header: []string{"aeg-sas-key: " + key2}, body: "[" + gridEvent + "]"},
	{name: "success-key-in-query", source: "8.4", target: "/topics/orders/api/events?api-version=2018-01-01&aeg-sas-key=" + strings.ReplaceAll(key1, "=", "%3D"), bare: true, body: "[" + gridEvent + "]"},
	{name: "success-api-version", source: "8.1", target: "/topics/orders/api/events?api-version=2018-01-01", body: "[" + gridEvent + "]"},
	{name: "success-path-in-any-case", source: "8.1", target: "/Topics/ORDERS/API/Events/", body: "[" + gridEvent + "]"},
	{name: "success-own-host", source: "8.1", host: "orders.local-1.eventgrid.localhost:7443", target: "/api/events", body: "[" + gridEvent + "]"},
	{name: "success-own-host-in-any-case", source: "8.1", host: "Orders.Local-1.EventGrid.localhost", target: "/API/EVENTS/", body: "[" + gridEvent + "]"},
	{name: "success-form-content-type", source: "8.1, ignored for the Event Grid schema", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/x-www-form-urlencoded"}, body: "[" + gridEvent + "]"},
	{name: "success-chunked", source: "8.2", chunked: true, body: "[" + gridEvent + "," + gridEvent + "]"},
	{name: "success-cloud-batch", source: "2.2", target: "/topics/shop/api/events", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/cloudevents-batch+json; charset=utf-8"}, body: "[" + cloudEvent + "]"},
	{name: "success-cloud-binary", source: "2.2", target: "/topics/shop/api/events", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/json",
		"ce-specversion: 1.0", "ce-id: 1", "ce-source: /shop", "ce-type: Orders.Placed"}, body: `{"total":12.50}`},
	{name: "success-lenient", source: "2.2", target: "/topics/lenient/api/events", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/json"}, body: `{"id":1,"type":"t"}`},
	{name: "success-any-valid-credential", source: "8.4", header: []string{"Authorization: Bearer x", "Authorization: Basic y", "aeg-sas-key: wrong", "aeg-sas-key: " + key1}, body: "[" + gridEvent + "]"},
	{name: "success-custom", source: "3", target: "/topics/custom/api/events", body: "[" + customObject + "]"},
	{name: "success-custom-form-content-type", source: "3, any content type", target: "/topics/custom/api/events",
		header: []string{"aeg-sas-key: " + key1, "Content-Type: application/x-www-form-urlencoded"}, body: "[" + customObject + ", " + customObject + "]"},
	{name: "success-custom-one-object", source: "3", target: "/topics/custom/api/events", body: customObject},
	{name: "custom-missing-type", source: "3", target: "/topics/custom/api/events", body: "[" + customObject + `,{"trackingId":"a2"}]`},
	{name: "custom-not-an-object", source: "3", target: "/topics/custom/api/events", body: "[1]"},
	{name: "custom-malformed", source: "8.6", target: "/topics/custom/api/events", body: "[" + customObject + ",]"},
	{name: "custom-event-too-large", source: "8.6", target: "/topics/custom/api/events", body: strings.Replace("["+customObject+"]", "12.50", `"`+strings.Repeat("x", event.MaxEventBytes)+`"`, 1)},
	{name: "options-custom", source: "8.3", method: "OPTIONS", target: "/topics/custom/api/events"},

	{name: "options", source: "8.3", method: "OPTIONS"},
	{name: "options-cloud", source: "8.3", method: "OPTIONS", target: "/topics/shop/api/events"},
	{name: "head", source: "8.3", method: "HEAD"},
	{name: "get", source: "8.3", method: "GET"},
	{name: "put", source: "8.3", method: "PUT", body: "[" + gridEvent + "]"},
	{name: "delete", source: "8.3", method: "DELETE"},
	{name: "unknown-path", source: "8.3", target: "/topics/orders/api/other", body: "[" + gridEvent + "]"},
	{name: "unknown-path-of-own-host", source: "8.3", host: "orders.local-1.eventgrid.localhost", target: "/api", body: "[" + gridEvent + "]"},
	{name: "unknown-topic", source: "8.6", target: "/topics/nobody/api/events", body: "[" + gridEvent + "]"},
	{name: "unknown-region", source: "8.6", host: "orders.westus2-1.eventgrid.localhost", target: "/api/events", body: "[" + gridEvent + "]"},
	{name: "topic-with-slash", source: "8.6", target: "/topics/a%2Fb/api/events", body: "[" + gridEvent + "]"},

	{name: "no-credential", source: "8.6", bare: true, body: "[" + gridEvent + "]"},
	{name: "wrong-key", source: "8.6", header: []string{"aeg-sas-key: " + key1[1:]}, body: "[" + gridEvent + "]"},
	{name: "empty-key", source: "8.6", header: []string{"aeg-sas-key: "}, body: "[" + gridEvent + "]"},
	{name: "empty-key-of-a-topic-without-keys", source: "8.6", target: "/topics/keyless/api/events?aeg-sas-key=", bare: true, body: "[" + gridEvent + "]"},
	{name: "wrong-key-in-query", source: "8.6", target: "/topics/orders/api/events?AEG-SAS-KEY=x", bare: true, body: "[" + gridEvent + "]"},
	{name: "sas-token", source: "8.4", header: []string{"aeg-sas-token: r=https%3a%2f%2fx&e=6%2f15%2f2030&s=abc"}, body: "[" + gridEvent + "]"},
	{name: "sas-authorization", source: "8.4", header: []string{"Authorization: SharedAccessSignature r=https%3a%2f%2fx&e=6%2f15%2f2030&s=abc"}, body: "[" + gridEvent + "]"},
	{name: "sas-malformed", source: "8.6", header: []string{"aeg-sas-token: r=https%3a%2f%2fx&s=abc"}, body: "[" + gridEvent + "]"},
	{name: "success-sas-token", source: "8.5", header: []string{"aeg-sas-token: " + signed("http://127.0.0.1:7443/topics/orders/api/events", "12/31/2099 6:20:15 PM", key1)}, body: "[" + gridEvent + "]"},
	{name: "success-sas-second-key", source: "8.5", header: []string{"Authorization: sharedaccesssignature " + signed("http://127.0.0.1:7443/topics/orders/api/events", "2099-12-31T18:20:15Z", key2)}, body: "[" + gridEvent + "]"},
	{name: "success-sas-public-address", source: "8.5", header: []string{"aeg-sas-token: " + signed("https://grid.example:8443/topics/orders/api/events", "12/31/2099 6:20:15 PM", key1)}, body: "[" + gridEvent + "]"},
	{name: "sas-expired", source: "8.6", header: []string{"aeg-sas-token: " + signed("http://127.0.0.1:7443/topics/orders/api/events", "6/15/2020 6:20:15 PM", key1)}, body: "[" + gridEvent + "]"},
	{name: "sas-expiry-unknown", source: "8.6", header: []string{"aeg-sas-token: " + signed("http://127.0.0.1:7443/topics/orders/api/events", "tomorrow", key1)}, body: "[" + gridEvent + "]"},
	{name: "sas-of-another-topic", source: "8.6", header: []string{"aeg-sas-token: " + signed("http://127.0.0.1:7443/topics/shop/api/events", "12/31/2099 6:20:15 PM", key1)}, body: "[" + gridEvent + "]"},
	{name: "bearer", source: "8.4", header: []string{"Authorization: Bearer abc.def.ghi"}, body: "[" + gridEvent + "]"},
	{name: "success-bearer", source: "8.4", header: []string{"Authorization: bearer " + tokenOfSender}, body: "[" + gridEvent + "]"},
	{name: "success-bearer-goes-first", source: "8.4", header: []string{"Authorization: Bearer " + tokenOfSender, "aeg-sas-key: wrong"}, body: "[" + gridEvent + "]"},
	{name: "success-key-beside-a-bearer-without-role", source: "8.4, any one valid credential suffices", header: []string{"Authorization: Bearer " + tokenOfReader, "aeg-sas-key: " + key1}, body: "[" + gridEvent + "]"},
	{name: "bearer-without-role", source: "8.6", header: []string{"Authorization: Bearer " + tokenOfReader}, body: "[" + gridEvent + "]"},
	{name: "bearer-cannot-be-looked-up", source: "8.6, server trouble", header: []string{"Authorization: Bearer " + tokenOfNobody}, body: "[" + gridEvent + "]"},
	{name: "keys-off-key", source: "8.4, disableLocalAuth", target: "/topics/keys-off/api/events", body: "[" + gridEvent + "]"},
	{name: "keys-off-empty-key", source: "8.4, disableLocalAuth", target: "/topics/keys-off/api/events?aeg-sas-key=", bare: true, body: "[" + gridEvent + "]"},
	{name: "keys-off-sas", source: "8.4, disableLocalAuth", target: "/topics/keys-off/api/events",
		header: []string{"aeg-sas-token: " + signed("http://127.0.0.1:7443/topics/keys-off/api/events", "12/31/2099 6:20:15 PM", key1)}, body: "[" + gridEvent + "]"},
	{name: "keys-off-no-credential", source: "8.4, disableLocalAuth", target: "/topics/keys-off/api/events", bare: true, body: "[" + gridEvent + "]"},
	{name: "success-keys-off-bearer", source: "8.4, disableLocalAuth", target: "/topics/keys-off/api/events", header: []string{"Authorization: Bearer " + tokenOfSender}, body: "[" + gridEvent + "]"},
	{name: "network-closed", source: "8.6", target: "/topics/closed/api/events", body: "[" + gridEvent + "]"},
	{name: "network-foreign", source: "8.6; access.md section 13, before authentication", target: "/topics/inside/api/events", bare: true, body: "[" + gridEvent + "]"},
	{name: "network-foreign-options", source: "8.6", target: "/topics/inside/api/events", method: "OPTIONS", remote: "11.0.0.1:999"},
	{name: "network-no-address", source: "8.6", target: "/topics/inside/api/events", remote: "@", body: "[" + gridEvent + "]"},
	{name: "success-network", source: "8.6", target: "/topics/inside/api/events", remote: "10.255.0.1:999", body: "[" + gridEvent + "]"},
	{name: "success-network-mapped", source: "8.6", target: "/topics/inside/api/events", remote: "[::ffff:10.1.2.3]:999", body: "[" + gridEvent + "]"},
	{name: "success-network-ipv6", source: "8.6", target: "/topics/inside/api/events", remote: "[2001:db8:ffff::1%eth0]:999", body: "[" + gridEvent + "]"},
	{name: "basic", source: "8.6, unsupported Authorization scheme", header: []string{"Authorization: Basic dTpw"}, body: "[" + gridEvent + "]"},
	{name: "credential-goes-first", source: "8.6, check order", header: []string{"aeg-sas-key: wrong"}, target: "/topics/orders/api/events?api-version=2020-01-01", body: "not json"},
	{name: "api-version", source: "8.1", target: "/topics/orders/api/events?api-version=2020-01-01", body: "[" + gridEvent + "]"},

	{name: "request-too-large", source: "8.6", body: "[" + strings.Repeat(" ", event.MaxRequestBytes) + "]"},
	{name: "request-too-large-chunked", source: "8.6", chunked: true, body: "[" + strings.Repeat(" ", event.MaxRequestBytes) + "]"},
	{name: "size-goes-before-content-type", source: "8.6, check order", target: "/topics/shop/api/events", body: strings.Repeat(" ", event.MaxRequestBytes+1)},
	{name: "event-too-large", source: "8.6", body: strings.Replace("["+gridEvent+"]", "12.50", `"`+strings.Repeat("x", event.MaxEventBytes)+`"`, 1)},
	{name: "content-type", source: "8.6", target: "/topics/shop/api/events", body: cloudEvent},
	{name: "content-type-goes-before-json", source: "8.6, check order", target: "/topics/shop/api/events", body: "not json"},
	{name: "empty-body", source: "8.6"},
	{name: "empty-array", source: "1", body: "[]"},
	{name: "malformed", source: "8.6", body: "[{]"},
	{name: "unknown-property", source: "1", body: strings.Replace("["+gridEvent+"]", `"data"`, `"sas_url"`, 1)},
	{name: "missing-subject", source: "1", body: strings.Replace("["+gridEvent+"]", `"subject":"orders/7",`, "", 1)},
	{name: "foreign-topic", source: "1", body: strings.Replace("["+gridEvent+"]", `"id"`, `"topic":"`+prefix+`other","id"`, 1)},
	{name: "own-topic", source: "1", body: strings.Replace("["+gridEvent+"]", `"id"`, `"topic":"`+strings.ToUpper(prefix)+`Orders","id"`, 1)},
	{name: "cloud-header-missing", source: "2.2", target: "/topics/shop/api/events", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/json", "ce-id: 1"}, body: "{}"},
	{name: "all-or-nothing", source: "8.6", body: "[" + gridEvent + `,{"id":"2"}]`},
	{name: "unknown-schema", source: "8.6, server trouble", target: "/topics/unknown-schema/api/events", body: "[" + gridEvent + "]"},

	{name: "success-domain", source: "8.7", target: "/domains/shops/api/events", body: "[" + forTenant("tenant-a") + "," + forTenant("Tenant-B") + "," + forTenant("tenant-a") + "]"},
	{name: "success-domain-own-host", source: "8.7", host: "shops.local-1.eventgrid.localhost", target: "/api/events", body: "[" + forTenant("tenant-a") + "]"},
	{name: "success-domain-path-in-any-case", source: "8.7", target: "/Domains/SHOPS/API/Events/", body: "[" + forTenant("tenant-a") + "]"},
	{name: "success-domain-cloud", source: "8.7", target: "/domains/cloud-shops/api/events", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/cloudevents-batch+json"},
		body: "[" + strings.Replace(cloudEvent, "/shop", "tenant-a", 1) + "]"},
	{name: "success-domain-custom", source: "8.7", target: "/domains/custom-shops/api/events", body: "[" + strings.Replace(customObject, "Orders.Placed", "tenant-a", 1) + "]"},
	{name: "success-domain-sas", source: "8.5, 8.7", target: "/domains/shops/api/events", header: []string{"aeg-sas-token: " + signed("http://127.0.0.1:7443/domains/shops/api/events", "12/31/2099 6:20:15 PM", key1)}, body: "[" + forTenant("tenant-a") + "]"},
	{name: "success-domain-bearer", source: "8.4, 8.7", target: "/domains/shops/api/events", header: []string{"Authorization: Bearer " + tokenOfSender}, body: "[" + forTenant("tenant-a") + "]"},
	{name: "domain-without-topic", source: "8.7", target: "/domains/shops/api/events", body: "[" + forTenant("tenant-a") + "," + gridEvent + "]"},
	{name: "domain-cloud-uri", source: "8.7", target: "/domains/cloud-shops/api/events", header: []string{"aeg-sas-key: " + key1, "Content-Type: application/cloudevents-batch+json"}, body: "[" + cloudEvent + "]"},
	{name: "domain-bearer-without-role", source: "8.6", target: "/domains/shops/api/events", header: []string{"Authorization: Bearer " + tokenOfReader}, body: "[" + forTenant("tenant-a") + "]"},
	{name: "domain-as-topic", source: "8.6", target: "/topics/shops/api/events", body: "[" + gridEvent + "]"},
	{name: "topic-as-domain", source: "8.6", target: "/domains/orders/api/events", body: "[" + gridEvent + "]"},
	{name: "options-domain", source: "8.3", method: "OPTIONS", target: "/domains/shops/api/events"},

	{name: "log-full", source: "8.6", body: "[" + gridEvent + "]", err: fault.New(fault.Unavailable, "ServiceUnavailable", "The event log is full.").After(2500 * time.Millisecond)},
	{name: "too-many-events", source: "8.6", body: "[" + gridEvent + "]", err: fault.New(fault.TooMany, "TooManyRequests", "The topic takes 5000 events per second.").After(time.Second)},
	{name: "publish-fails", source: "8.6, server trouble", body: "[" + gridEvent + "]", err: errors.New("disk on fire at /var/lib")},
	{name: "look-up-fails", source: "8.6, server trouble", body: "[" + gridEvent + "]", findErr: errors.New("table is closed")},
}

var guid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestExchanges(t *testing.T) {
	for _, x := range exchanges {
		t.Run(x.name, func(t *testing.T) {
			w := newWorld()
			w.err, w.findErr = x.err, x.findErr
			answer := do(w.handler(), x)
			got := fmt.Sprintf("# Source: spec/events.md section %s\n", x.source)
			got += fmt.Sprintf("%d %s\n", answer.StatusCode, http.StatusText(answer.StatusCode))
			if id := answer.Header.Get("x-ms-request-id"); !guid.MatchString(id) {
				t.Errorf("x-ms-request-id is %q", id)
			}
			answer.Header.Del("x-ms-request-id")
			for _, name := range slices.Sorted(maps.Keys(answer.Header)) {
				got += strings.ToLower(name) + ": " + strings.Join(answer.Header[name], ", ") + "\n"
			}
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			got += "\n" + string(body)
			for _, raw := range w.published {
				got += "-- published to " + raw + "\n"
			}
			if (answer.StatusCode == http.StatusOK && answer.Header.Get("Allow") == "") != (len(w.published) > 0) {
				t.Errorf("answered %d and published %d events", answer.StatusCode, len(w.published))
			}
			path := "testdata/" + x.name + ".txt"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("answer is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// do sends one exchange straight to the handler.
func do(h http.Handler, x exchange) *http.Response {
	method, target := x.method, x.target
	if method == "" {
		method = http.MethodPost
	}
	if target == "" {
		target = "/topics/orders/api/events"
	}
	var body io.Reader = strings.NewReader(x.body)
	if x.chunked {
		body = io.MultiReader(body) // httptest cannot tell its length
	}
	r := httptest.NewRequest(method, target, body)
	r.Host = "127.0.0.1:7443"
	if x.host != "" {
		r.Host = x.host
	}
	if x.remote != "" {
		r.RemoteAddr = x.remote
	}
	if len(x.header) == 0 && !x.bare {
		r.Header.Set("aeg-sas-key", key1)
	}
	for _, line := range x.header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// TestBodyIsNotReadBeforeTheCredentialHolds: an unknown sender must not be able to
// make the server read.
func TestBodyIsNotReadBeforeTheCredentialHolds(t *testing.T) {
	w := newWorld()
	body := &countingReader{Reader: strings.NewReader("[" + gridEvent + "]")}
	r := httptest.NewRequest(http.MethodPost, "/topics/orders/api/events", body)
	r.Header.Set("aeg-sas-key", "wrong")
	answer := httptest.NewRecorder()
	w.handler().ServeHTTP(answer, r)
	if answer.Code != http.StatusUnauthorized || body.reads != 0 {
		t.Errorf("answered %d after %d reads", answer.Code, body.reads)
	}
}

type countingReader struct {
	io.Reader
	reads int
}

func (c *countingReader) Read(p []byte) (int, error) {
	c.reads++
	return c.Reader.Read(p)
}

func TestBodyEndsEarly(t *testing.T) {
	w := newWorld()
	r := httptest.NewRequest(http.MethodPost, "/topics/orders/api/events", io.MultiReader(strings.NewReader("[{"), brokenReader{}))
	r.Header.Set("aeg-sas-key", key1)
	answer := httptest.NewRecorder()
	w.handler().ServeHTTP(answer, r)
	if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), "ended after 2 bytes") || len(w.published) > 0 {
		t.Errorf("answered %d %s", answer.Code, answer.Body)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestPooledBodies publishes bodies of very different sizes one after the other
// through one pool and holds every stored event to what was sent.
func TestPooledBodies(t *testing.T) {
	w := newWorld()
	h := w.handler()
	var want []string
	for i, size := range []int{10, 1_000_000, 5, 70_000, 100} {
		data := strings.Repeat(string(rune('a'+i)), size)
		answer := do(h, exchange{body: strings.Replace("["+gridEvent+"]", "12.50", `"`+data+`"`, 1), chunked: i%2 == 1})
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("answered %d", answer.StatusCode)
		}
		want = append(want, data)
	}
	for i, raw := range w.published {
		if !strings.Contains(raw, `{"total":"`+want[i]+`"}`) {
			t.Errorf("event %d is %.200s", i, raw)
		}
	}
}

func TestServes(t *testing.T) {
	tests := []struct {
		host, path string
		want       bool
	}{
		{"127.0.0.1:7443", "/topics/orders/api/events", true},
		{"localhost", "/TOPICS/x", true},
		{"orders.local-1.eventgrid.localhost:7443", "/anything", true},
		{"orders.local-1.eventgrid.localhost", "/", true},
		{"orders.local.eventgrid.localhost", "/", false},
		{"local-1.eventgrid.localhost", "/", false},
		{"a.b.local-1.eventgrid.localhost", "/", false},
		{"eventgrid.localhost", "/", false},
		{"127.0.0.1:7443", "/subscriptions/x", false},
		{"127.0.0.1:7443", "/topicsx", false},
		{"localhost", "/Domains/x", true},
		{"localhost", "/domainsx", false},
		{"[::1]:7443", "/portal/", false},
	}
	for _, c := range tests {
		t.Run(c.host+c.path, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, c.path, nil)
			r.Host = c.host
			if got := Serves(r); got != c.want {
				t.Errorf("Serves is %v", got)
			}
		})
	}
}

// TestSecretsStayInside sends each credential in a way that fails and looks for it
// in the answer.
func TestSecretsStayInside(t *testing.T) {
	w := newWorld()
	h := w.handler()
	for _, header := range []string{"aeg-sas-key: hunter2", "aeg-sas-token: hunter2", "Authorization: Bearer hunter2", "Authorization: hunter2"} {
		answer := do(h, exchange{header: []string{header}, body: "[" + gridEvent + "]"})
		body, _ := io.ReadAll(answer.Body)
		if answer.StatusCode < 400 || bytes.Contains(body, []byte("hunter2")) || bytes.Contains(body, []byte(key1)) {
			t.Errorf("%s is answered %d %s", header, answer.StatusCode, body)
		}
	}
}

func TestRefusalsAreCounted(t *testing.T) {
	w := newWorld()
	registry := prometheus.NewRegistry()
	h := New(Config{Topics: w, Publisher: w, Senders: w, Registerer: registry})
	do(h, exchange{body: "[]"})
	do(h, exchange{body: "[]"})
	do(h, exchange{header: []string{"aeg-sas-key: wrong"}})
	do(h, exchange{body: "[" + gridEvent + "]"})
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	got := map[string]float64{}
	for _, m := range families[0].Metric {
		got[m.Label[0].GetValue()] = m.Counter.GetValue()
	}
	if want := map[string]float64{"InputJsonInvalid": 2, "Unauthorized": 1}; !maps.Equal(got, want) {
		t.Errorf("%s counts %v, want %v", families[0].GetName(), got, want)
	}
}

// FuzzCredential shows everything but a valid key: nothing may be published.
func FuzzCredential(f *testing.F) {
	f.Add("r=a&e=b&s=c", "Bearer x", "api-version=2018-01-01&aeg-sas-key=y")
	f.Add("", "SharedAccessSignature r=&e=&s=", "aeg-sas-key=%")
	f.Add(vectors[0].token, "SharedAccessSignature "+vectors[4].token, "")
	f.Fuzz(func(t *testing.T, token, authorization, query string) {
		if values, _ := url.ParseQuery(query); strings.Contains(fmt.Sprint(values), key1) || strings.Contains(fmt.Sprint(values), key2) {
			return
		}
		w := newWorld()
		r := httptest.NewRequest(http.MethodPost, "/topics/orders/api/events", strings.NewReader("["+gridEvent+"]"))
		r.URL.RawQuery = query
		r.Header["Aeg-Sas-Token"] = []string{token}
		r.Header["Authorization"] = []string{authorization}
		answer := httptest.NewRecorder()
		w.handler().ServeHTTP(answer, r)
		if answer.Code != http.StatusUnauthorized && answer.Code != http.StatusBadRequest || len(w.published) > 0 {
			t.Fatalf("answered %d", answer.Code)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	w := newWorld()
	h := New(Config{Topics: &one{w.topics["orders"]}, Publisher: discard{}, Senders: w})
	body := []byte("[" + gridEvent + "]")
	r := httptest.NewRequest(http.MethodPost, "/topics/orders/api/events?api-version=2018-01-01", nil)
	r.Header.Set("aeg-sas-key", key1)
	r.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		if answer.Code != http.StatusOK {
			b.Fatal(answer.Code)
		}
	}
}

// one finds the same topic always, as cheaply as the server does.
type one struct{ topic Topic }

func (o *one) FindTopic(context.Context, string, string) (*Topic, bool, error) {
	return &o.topic, true, nil
}

type discard struct{}

func (d discard) PublishOnce(ctx context.Context, topic resource.UID, _ time.Duration, events []event.Event) error {
	return d.Publish(ctx, topic, events)
}

func (discard) Publish(context.Context, resource.UID, []event.Event) error { return nil }
