package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

func dynamic(name, field string) resource.DeliveryAttribute {
	return resource.DeliveryAttribute{Name: name, Type: resource.AttributeDynamic, SourceField: field}
}

func eventWith(id, subject, data string) event.Event {
	e := testEvent(id, subject)
	e.Raw = []byte(strings.Replace(string(e.Raw), `"data":{}`, `"data":`+data, 1))
	return e
}

func TestDynamicAttributes(t *testing.T) {
	attributes := []resource.DeliveryAttribute{
		{Name: "X-Static", Type: resource.AttributeStatic, Value: "not the broker's"},
		dynamic("X-Subject", "subject"), dynamic("X-Stage", "data.tags.stage"), dynamic("X-N", "data.n"), dynamic("X-On", "data.on"),
	}
	for _, tt := range []struct {
		name, data, want string
		schema           event.Schema
	}{
		{"text, number, boolean", `{"tags":{"stage":"prod"},"n":1.50,"on":true}`, "X-Subject=models/a,X-Stage=prod,X-N=1.50,X-On=true", event.EventGridSchema},
		{"delivered as CloudEvents", `{"tags":{"stage":"prod"}}`, "X-Subject=models/a,X-Stage=prod", event.CloudEventSchemaV1_0},
		{"missing", `{}`, "X-Subject=models/a", event.EventGridSchema},
		{"null, array, object", `{"tags":{"stage":null},"n":[1],"on":{"a":1}}`, "X-Subject=models/a", event.EventGridSchema},
		{"a line's end", `{"tags":{"stage":"a\r\nx: y"},"n":1}`, "X-Subject=models/a,X-N=1", event.EventGridSchema},
		{"not ASCII", `{"tags":{"stage":"Zoë"}}`, "X-Subject=models/a", event.EventGridSchema},
		{"blank at the end", `{"tags":{"stage":"a "}}`, "X-Subject=models/a", event.EventGridSchema},
		{"longest", `{"n":1,"tags":{"stage":"` + strings.Repeat("x", 4096) + `"}}`, "X-Subject=models/a,X-Stage=" + strings.Repeat("x", 4096) + ",X-N=1", event.EventGridSchema},
		{"too long", `{"n":1,"tags":{"stage":"` + strings.Repeat("x", 4097) + `"}}`, "X-Subject=models/a,X-N=1", event.EventGridSchema},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{}
			es := testSubscription(0, filter.Filter{})
			es.DeliverySchema = tt.schema
			es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{DeliveryAttributes: attributes}}
			p := one(t, h, es)
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{eventWith("1", "models/a", tt.data)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			got := h.got()
			if len(got) != 1 || attributesText(got[0].Attributes) != tt.want {
				t.Errorf("%d requests, got %.200s, want %.200s", len(got), attributesText(got[0].Attributes), tt.want)
			}
			finish(t, p)
		})
	}
}

func attributesText(attributes []Attribute) string {
	var out []string
	for _, a := range attributes {
		out = append(out, a.Name+"="+a.Value)
	}
	return strings.Join(out, ",")
}

// A batch has each header once, so its events agree on every one.
// Source: spec/delivery.md section 5.
func TestBatchesOfOneHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queued := make(chan struct{})
		failed := false
		h := &handler{answer: func(_ context.Context, a asked) Response {
			if a.ids[0] == "first" {
				<-queued
				return answerOK
			}
			if attributesText(a.Attributes) == "X-Team=b" && !failed {
				failed = true
				return answerFailed
			}
			return answerOK
		}}
		es := testSubscription(0, filter.Filter{})
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{
			MaxEventsPerBatch: 100, PreferredBatchSizeInKilobytes: 64,
			DeliveryAttributes: []resource.DeliveryAttribute{dynamic("X-Team", "data.team")},
		}}
		p := one(t, h, es)
		if err := p.Publish(t.Context(), testTopicUID, []event.Event{eventWith("first", "s", "{}")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var events []event.Event
		for i, team := range []string{`"a"`, `"b"`, `"a"`, "null", `"b"`, `"a"`, "null"} {
			events = append(events, eventWith(fmt.Sprint(i), "s", `{"team":`+team+`}`))
		}
		if err := p.Publish(t.Context(), testTopicUID, events); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		close(queued)
		synctest.Wait()
		var got []string
		for _, a := range h.got()[1:] {
			got = append(got, fmt.Sprintf("%d %s: %s", a.Count, attributesText(a.Attributes), strings.Join(a.ids, ",")))
		}
		slices.Sort(got)
		want := []string{"0 : 3,6", "0 X-Team=a: 0,2,5", "0 X-Team=b: 1,4"}
		if !slices.Equal(got, want) {
			t.Errorf("requests %q, want %q", got, want)
		}
		finish(t, p)
	})
}

// TestGivenBackExpires: an event that another one's attributes keep out of a batch
// is as tried as it was before: it is given up when its time is over.
func TestGivenBackExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: func(ctx context.Context, a asked) Response {
			if a.ids[0] != "2" && a.Count == 0 {
				return Response{Outcome: Busy, Status: 503, RetryAfter: 40 * time.Second}
			}
			return after(ctx, 20*time.Second, answerFailed)
		}}
		es := testSubscription(0, filter.Filter{})
		es.RetryPolicy.EventTimeToLive = 1
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{
			MaxEventsPerBatch: 10, PreferredBatchSizeInKilobytes: 64,
			DeliveryAttributes: []resource.DeliveryAttribute{dynamic("X-Team", "data.team")},
		}}
		p := one(t, h, es)
		send := func(id string) {
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{eventWith(id, "s", `{"team":"`+id+`"}`)}); err != nil {
				t.Fatal(err)
			}
		}
		send("0")
		send("1")
		time.Sleep(39 * time.Second)
		send("2") // keeps the only worker until the others are in line
		settleAll(t, p)
		if got := h.times(); got["0"]+got["1"] != 3 { // one goes alone at 59 s, and the time of the other ends at 60 s
			t.Errorf("requests %v", got)
		}
		for _, l := range letters(t, p.Broker) {
			if l.DeadLetterReason != ReasonTimeToLive {
				t.Errorf("letter %+v", l)
			}
		}
		finish(t, p)
	})
}
