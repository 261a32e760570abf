package consumer_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// FuzzHandler sends foreign bodies. Whatever they are, the answer is one that deliveries have,
// what reaches a function is of the expected topic and valid, and a second delivery reaches
// none.
func FuzzHandler(f *testing.F) {
	source := consumertest.NewSource(workspace)
	for _, e := range []consumertest.Event{source.Event(run("r")), source.Event(mlevent.DatasetDriftDetected{DataDriftID: "d", DriftCoefficient: 0.5}), source.Custom("T", "s", map[string]string{"sequencer": "1"})} {
		for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
			f.Add("Notification", "["+string(e.JSON(schema))+"]")
			f.Add("", string(e.JSON(schema)))
		}
	}
	f.Add("SubscriptionValidation", `[{"id":"1","topic":"`+workspace+`","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c"}}]`)
	f.Add("Notification", `{"id":"1","source":"`+workspace+`","type":"Microsoft.EventGrid.SubscriptionDeletedEvent","specversion":"1.0","data":"{\"eventSubscriptionId\":\"x\"}"}`)
	f.Add("Notification", `[{"id":"\u0031","topic":"`+workspace+`","eventType":"T","eventTime":"x","data":null,"subject":7}, [], 7]`)
	f.Fuzz(func(t *testing.T, kind, body string) {
		again, calls := false, 0
		check := func(e consumer.Envelope, data []byte) {
			if calls++; again {
				t.Errorf("%s is handled again", e.ID)
			}
			if e.Source != workspace || e.ID == "" || !json.Valid(e.Raw) || data != nil && !json.Valid(data) {
				t.Errorf("%+v reached a function", e)
			}
		}
		h := newHandler(t, consumer.OnOther(func(_ context.Context, e consumer.Event[json.RawMessage]) error {
			check(e.Envelope, e.Data)
			return nil
		}), consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
			check(e.Envelope, nil)
			return nil
		}))
		var first int
		for _, again = range []bool{false, true} {
			r := httptest.NewRequest("POST", "/", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			r.Header["Aeg-Event-Type"] = []string{kind}
			w := record(h, r)
			if w.Code != 200 && w.Code != 400 && w.Code != 403 {
				t.Errorf("answered %d", w.Code)
			}
			if again && w.Code != first {
				t.Errorf("answered %d, and %d before", w.Code, first)
			}
			first = w.Code
		}
		if s := h.Stats(); s.Panics+s.Failed+s.Busy != 0 || s.Handled != int64(calls) {
			t.Errorf("counted %+v after %d calls", s, calls)
		}
	})
}
