package servertest

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

// rawHandler is a webhook of any delivery schema that keeps what it was sent, to the
// byte, by path.
type rawHandler struct {
	*httptest.Server
	status func(path string) int

	mu   sync.Mutex
	sent map[string][]rawDelivery
	more chan struct{}
}

type rawDelivery struct {
	body   string
	header http.Header
}

func newRawHandler(t *testing.T, status func(path string) int) *rawHandler {
	h := &rawHandler{status: status, sent: map[string][]rawDelivery{}, more: make(chan struct{})}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *rawHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions {
		w.Header().Set("WebHook-Allowed-Origin", "*")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Header.Get("aeg-event-type") == "SubscriptionValidation" {
		_, code, _ := strings.Cut(string(body), `"validationCode":"`)
		code, _, _ = strings.Cut(code, `"`)
		_, _ = io.WriteString(w, `{"validationResponse":"`+code+`"}`)
		return
	}
	h.mu.Lock()
	h.sent[r.URL.Path] = append(h.sent[r.URL.Path], rawDelivery{string(body), r.Header})
	close(h.more)
	h.more = make(chan struct{})
	h.mu.Unlock()
	w.WriteHeader(h.status(r.URL.Path))
}

// wait returns what came to a path once that is n different requests, in the order of
// their bodies, those of replays last. A kill may repeat a request.
func (h *rawHandler) wait(t *testing.T, path string, n int) []rawDelivery {
	t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		sent, more := slices.Clone(h.sent[path]), h.more
		h.mu.Unlock()
		replay := func(d rawDelivery) string { return d.header.Get("carillon-replay") }
		slices.SortFunc(sent, func(a, b rawDelivery) int {
			return cmp.Or(strings.Compare(a.body, b.body), strings.Compare(replay(a), replay(b)))
		})
		sent = slices.CompactFunc(sent, func(a, b rawDelivery) bool { return a.body == b.body && replay(a) == replay(b) })
		if len(sent) >= n {
			return sent
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("%d of %d requests came to %s", len(sent), n, path)
		}
	}
}

// TestCustomInput takes custom input from a topic with a mapping to four handlers:
// as it was published, mapped, as CloudEvents, and to one that refuses it; past a kill,
// and back from its dead letter.
func TestCustomInput(t *testing.T) {
	s := New(t)
	var mu sync.Mutex
	refusing := http.StatusBadRequest
	h := newRawHandler(t, func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		if path == "/refusing" {
			return refusing
		}
		return http.StatusOK
	})
	id := Group + "/providers/Microsoft.EventGrid/topics/shop"
	s.Must("PUT", id, map[string]any{"location": "local", "properties": json.RawMessage(`{"inputSchema":"CustomEventSchema","inputSchemaMapping":{
		"inputSchemaMappingType":"Json","properties":{"id":{"sourceField":"trackingId"},"eventTime":{"sourceField":"at"},"eventType":{"sourceField":"meta.kind"},
		"subject":{"sourceField":"path","defaultValue":"none"},"dataVersion":{"defaultValue":"1.0"}}}}`)}, nil)
	_, publish := s.Topic("shop") // a PUT that says nothing of the schema changes nothing of it
	filter := func(raw string) json.RawMessage { return json.RawMessage(raw) }
	s.Subscribe(id, "as-published", h.URL+"/raw", map[string]any{"eventDeliverySchema": "CustomInputSchema",
		"filter": filter(`{"includedEventTypes":["Shop.OrderPlaced"],"advancedFilters":[{"operatorType":"NumberGreaterThan","key":"total","value":10}]}`)})
	s.Subscribe(id, "mapped", h.URL+"/mapped", map[string]any{
		"filter": filter(`{"subjectBeginsWith":"orders/","advancedFilters":[{"operatorType":"StringIn","key":"data.meta.kind","values":["shop.orderplaced"]}]}`)})
	s.Subscribe(id, "as-cloud-events", h.URL+"/cloud", map[string]any{"eventDeliverySchema": "CloudEventSchemaV1_0",
		"filter": filter(`{"advancedFilters":[{"operatorType":"StringIn","key":"subject","values":["none"]},{"operatorType":"StringIn","key":"id","values":["a3"]}]}`)})
	s.Subscribe(id, "refusing", h.URL+"/refusing", map[string]any{"eventDeliverySchema": "CustomInputSchema",
		"filter": filter(`{"subjectEndsWith":"/8"}`)})
	_, err := s.Do(t.Context(), "PUT", Workspace+"/providers/Microsoft.EventGrid/eventSubscriptions/never", nil, map[string]any{"properties": map[string]any{
		"destination":         map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": h.URL + "/never"}},
		"eventDeliverySchema": "CustomInputSchema"}}, nil, nil)
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("CustomInputSchema on a workspace: %v", err)
	}

	const (
		first  = `{ "trackingId":"a1", "at":"2024-05-01T10:00:00Z", "meta":{"kind":"Shop.OrderPlaced"}, "path":"orders/7", "total":12.50 }`
		second = `{"trackingId":2,"at":"2024-05-01T10:00:00Z","meta":{"kind":"Shop.OrderPlaced"},"path":"orders/8","total":3}`
		third  = `{"trackingId":"a3","at":"2024-05-01T10:00:00Z","meta":{"kind":"Shop.StockLow"},"total":99}`
		after  = `{"trackingId":"a4","meta":{"kind":"Shop.OrderPlaced"},"total":11}`
	)
	if err := publish("[" + first + "," + second + `,{"trackingId":"a5"}]`); err == nil || !strings.Contains(err.Error(), "Event 2: property 'meta.kind' of schema CustomInputEvent is required") {
		t.Errorf("an object without its type: %v", err)
	}
	if err := publish("[" + first + "," + second + "," + third + "]"); err != nil {
		t.Fatal(err)
	}
	envelope := func(id, subject, object string) string {
		return `"topic":"` + Group + `/providers/Microsoft.EventGrid/topics/shop","subject":"` + subject + `","eventType":"Shop.OrderPlaced","eventTime":"2024-05-01T10:00:00Z","id":"` + id +
			`","dataVersion":"1.0","metadataVersion":"1","data":` + object
	}
	check := func(path string, got []rawDelivery, contentType, dataVersion, metadataVersion string, want ...string) {
		t.Helper()
		for i, d := range got {
			if i >= len(want) || d.body != want[i] {
				t.Errorf("%s got %s, want %q", path, d.body, want)
				continue
			}
			for name, value := range map[string]string{"Content-Type": contentType, "aeg-event-type": "Notification", "aeg-data-version": dataVersion, "aeg-metadata-version": metadataVersion} {
				if d.header.Get(name) != value {
					t.Errorf("%s: header %s is %q, want %q", path, name, d.header.Get(name), value)
				}
			}
		}
	}
	const events = "application/json; charset=utf-8"
	check("/raw", h.wait(t, "/raw", 1), events, "1.0", "1", "["+first+"]")
	check("/mapped", h.wait(t, "/mapped", 2), events, "1.0", "1", "[{"+envelope("a1", "orders/7", first)+"}]", "[{"+envelope("2", "orders/8", second)+"}]")
	check("/cloud", h.wait(t, "/cloud", 1), "application/cloudevents+json; charset=utf-8", "", "1.0",
		`{"specversion":"1.0","type":"Shop.StockLow","source":"`+id+`","subject":"none","time":"2024-05-01T10:00:00Z","id":"a3","dataschema":"#1.0","data":`+third+`}`)
	check("/refusing", h.wait(t, "/refusing", 1), events, "1.0", "1", "["+second+"]")

	letter := s.deadLetter(t, id+"/providers/Microsoft.EventGrid/eventSubscriptions/refusing")
	if letter.Event.ID != "2" || letter.Event.Subject != "orders/8" || string(letter.Event.Data) != second {
		t.Errorf("dead letter %+v", letter)
	}
	s.Kill()
	s.Restart()
	mu.Lock()
	refusing = http.StatusOK
	mu.Unlock()
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		_, err := s.Do(t.Context(), "POST", id+"/providers/Microsoft.EventGrid/eventSubscriptions/refusing"+arm.DeadLettersPath+"/replay", nil, map[string]any{"ids": []string{letter.ID}}, nil, nil)
		if err == nil {
			break
		}
		if !fault.Is(err, fault.Conflict) || time.Now().After(deadline) { // it may be stored anew after the kill
			t.Fatal(err)
		}
	}
	got := h.wait(t, "/refusing", 2)
	check("/refusing", got, events, "1.0", "1", "["+second+"]", "["+second+"]")
	if id := got[1].header.Get("carillon-replay"); id != letter.ID {
		t.Errorf("the replay says that it is one of %q, want %q", id, letter.ID)
	}
	if err := publish(after); err != nil { // one object is as good as an array of one
		t.Fatal(err)
	}
	got = h.wait(t, "/raw", 2)
	check("/raw after the kill", got, events, "1.0", "1", "["+first+"]", "["+after+"]")
}

// letterShown is a dead letter as the API shows it, as far as TestCustomInput reads it.
type letterShown struct {
	ID    string
	Event struct {
		ID, Subject string
		Data        json.RawMessage
	}
}

// deadLetter waits for the dead letter of an event subscription.
func (s *Server) deadLetter(t *testing.T, es string) (letter letterShown) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		for raw, err := range s.List(t.Context(), es+arm.DeadLettersPath, nil) {
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &letter); err != nil {
				t.Fatal(err)
			}
			return letter
		}
	}
	t.Fatalf("no dead letter of %s", es)
	return letter
}
