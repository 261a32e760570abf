package arm

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestDeadLetterDestinations: what is shown is what was given, in the member it was
// given in. Source: spec/delivery.md section 7.1, spec/management.md section 5.5.
func TestDeadLetterDestinations(t *testing.T) {
	const account = local + "/providers/Microsoft.Storage/storageAccounts/dl"
	const blob = `{"endpointType":"StorageBlob","properties":{"resourceId":"` + account + `","blobContainerName":"letters"}}`
	const identity = `"identity":{"type":"UserAssigned","userAssignedIdentity":"` + local + `/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"}`
	for _, tt := range []struct {
		name, members string
		plain, other  string // shown members, "" = absent or null
		problem       string // target and part of the message
	}{
		{"none", ``, "null", "", ""},
		{"null, as Terraform sends it", `"deadLetterDestination":null,"deadLetterWithResourceIdentity":null`, "null", "", ""},
		{"empty", `"deadLetterDestination":{}`, "null", "", ""},
		{"blobs", `"deadLetterDestination":` + blob, blob, "", ""},
		{"another case", `"deadLetterDestination":` + strings.Replace(blob, "StorageBlob", "storageblob", 1), blob, "", ""},
		{"directory", `"deadLetterDestination":{"endpointType":"LocalDirectory","properties":{"directory":"team/letters"}}`,
			`{"endpointType":"LocalDirectory","properties":{"directory":"team/letters"}}`, "", ""},
		{"with an identity", `"deadLetterWithResourceIdentity":{` + identity + `,"deadLetterDestination":` + blob + `}`, "null", `{` + identity + `,"deadLetterDestination":` + blob + `}`, ""},
		{"both", `"deadLetterDestination":` + blob + `,"deadLetterWithResourceIdentity":{` + identity + `,"deadLetterDestination":` + blob + `}`, "", "",
			"properties.deadLetterWithResourceIdentity: Dead letters go to one destination"},
		{"identity alone", `"deadLetterWithResourceIdentity":{` + identity + `}`, "", "", "properties.deadLetterWithResourceIdentity.deadLetterDestination: "},
		{"a wrong type", `"deadLetterDestination":{"endpointType":"StorageBlob","properties":{"resourceId":7}}`, "", "", "properties.deadLetterDestination.properties.resourceId: "},
		{"not one of the operator's", `"deadLetterDestination":` + strings.Replace(blob, "letters", "unknown", 1), "", "", "properties.deadLetterDestination: The dead-letter destination cannot be used: the operator has given no connection."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStack(t)
			s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
			target := grids + "/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1" + v
			var sent map[string]map[string]json.RawMessage
			if err := json.Unmarshal([]byte(hookBody), &sent); err != nil {
				t.Fatal(err)
			}
			var members map[string]json.RawMessage
			if err := json.Unmarshal([]byte("{"+tt.members+"}"), &members); err != nil {
				t.Fatal(err)
			}
			for name, value := range members {
				sent["properties"][name] = value
			}
			body, _ := json.Marshal(sent)
			w := s.do("owner", "PUT", target, string(body))
			if tt.problem != "" {
				var got struct {
					Error struct {
						Target, Message string
						Details         []struct{ Target, Message string }
					}
				}
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 400 {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
				found := strings.HasPrefix(got.Error.Target+": "+got.Error.Message, tt.problem)
				for _, d := range got.Error.Details {
					found = found || strings.HasPrefix(d.Target+": "+d.Message, tt.problem)
				}
				if !found {
					t.Errorf("%s, want %s", w.Body, tt.problem)
				}
				return
			}
			if w.Code != 201 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			for _, shown := range []string{w.Body.String(), s.must("owner", "GET", target, "").Body.String(), s.must("owner", "PATCH", target, `{"labels":["x"]}`).Body.String()} {
				var got struct{ Properties map[string]json.RawMessage }
				if err := json.Unmarshal([]byte(shown), &got); err != nil {
					t.Fatal(err)
				}
				if plain, other := string(got.Properties["deadLetterDestination"]), string(got.Properties["deadLetterWithResourceIdentity"]); plain != tt.plain || !sameJSON(other, tt.other) {
					t.Errorf("shown %s and %s, want %s and %s", plain, other, tt.plain, tt.other)
				}
			}
		})
	}
}

func sameJSON(a, b string) bool {
	if a == "" || b == "" {
		return a == b
	}
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

// TestDeadLetterFilters: each condition alone and all of them, page by page.
func TestDeadLetterFilters(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	onTopic := grids + "/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	s.must("owner", "PUT", onTopic+v, hookBody)
	item, _ := s.plane.Store.EventSubscriptions.Get(resource.MustID(onTopic).Key())
	begin := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for i := range 6 {
		l := s.broker.letters[s.broker.bury(&item.Value, i+1)]
		l.Event = json.RawMessage(fmt.Sprintf(`{"id":"e%d","topic":"t","subject":"Orders/%d","eventType":"Shop.%s","eventTime":"2026-01-01T00:00:00Z","data":{},"dataVersion":"1","metadataVersion":"1"}`,
			i, i%2, []string{"Placed", "Paid", "Sent"}[i%3]))
		l.DeadLetterReason = []broker.Reason{broker.ReasonMaxAttempts, broker.ReasonBadRequest}[i/3]
		l.LastDeliveryOutcome = []string{"Busy", "BadRequest"}[i/3]
		l.DeadLetterTime = begin.Add(time.Duration(i) * time.Hour)
	}
	list := func(query url.Values) (ids string, pages int) {
		t.Helper()
		next := onTopic + DeadLettersPath + v + "&" + query.Encode()
		for next != "" {
			var p struct {
				Value    []struct{ Event struct{ ID string } }
				NextLink string
			}
			if err := json.Unmarshal(s.must("owner", "GET", next, "").Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			for _, l := range p.Value {
				ids += l.Event.ID[1:]
			}
			pages++
			next = ""
			if p.NextLink != "" {
				u, err := url.Parse(p.NextLink)
				if err != nil {
					t.Fatal(err)
				}
				next = u.RequestURI()
			}
		}
		return ids, pages
	}
	for _, tt := range []struct {
		name  string
		query url.Values
		want  string
		pages int
	}{
		{"all", url.Values{}, "012345", 1},
		{"in pages", url.Values{"$top": {"2"}}, "012345", 3},
		{"reason", url.Values{"reason": {"undeliverableduetohttpbadrequest"}}, "345", 1},
		{"outcome", url.Values{"outcome": {"Busy"}}, "012", 1},
		{"event type", url.Values{"eventType": {"Shop.Paid"}}, "14", 1},
		{"subject", url.Values{"subjectBeginsWith": {"orders/1"}}, "135", 1},
		{"from", url.Values{"from": {"2026-03-01T13:00:00Z"}}, "345", 1},
		{"to, which is not in it", url.Values{"to": {"2026-03-01T13:00:00+01:00"}}, "01", 1},
		{"all of them, in pages", url.Values{"outcome": {"Busy"}, "from": {"2026-03-01T10:00:00Z"}, "to": {"2026-03-02T00:00:00Z"}, "subjectBeginsWith": {"Orders/0"}, "$top": {"1"}}, "02", 2},
		{"nothing", url.Values{"reason": {"TimeToLiveExceeded"}}, "", 1},
	} {
		if ids, pages := list(tt.query); ids != tt.want || pages < tt.pages || pages > tt.pages+1 {
			t.Errorf("%s: %q in %d pages, want %q in %d", tt.name, ids, pages, tt.want, tt.pages)
		}
	}
	for _, bad := range []string{"from=yesterday", "to=1", "reason=x", "reason=Replayed", "outcome=x", "$skiptoken=eA", "$filter=x", "reson=Busy"} {
		if w := s.do("owner", "GET", onTopic+DeadLettersPath+v+"&"+bad, ""); w.Code != 400 {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
}

// TestDeadLettersOfTheGone: the letters of an event subscription that was deleted are
// found by its name or id, at its source.
func TestDeadLettersOfTheGone(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	subscriptions := grids + "/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/"
	for _, name := range []string{"gone", "there"} {
		s.must("owner", "PUT", subscriptions+name+v, hookBody)
		item, _ := s.plane.Store.EventSubscriptions.Get(resource.MustID(subscriptions + name).Key())
		s.broker.bury(&item.Value, 1)
	}
	s.must("owner", "DELETE", subscriptions+"gone"+v, "")
	for _, tt := range []struct {
		name, scope string
		want        int
	}{
		{"gone", grids + "/topics/orders", 1},
		{"Gone", local, 1},
		{subscriptions + "gone", grids + "/topics/orders", 1},
		{"there", grids + "/topics/orders", 1},
		{"gone", wsID, 0},
		{"never", grids + "/topics/orders", 0},
	} {
		var p struct{ Value []broker.Letter }
		query := url.Values{"$filter": {"eventSubscription eq '" + tt.name + "'"}}
		if err := json.Unmarshal(s.must("owner", "GET", tt.scope+DeadLettersPath+v+"&"+query.Encode(), "").Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if len(p.Value) != tt.want {
			t.Errorf("%s at %s: %d letters, want %d", tt.name, tt.scope, len(p.Value), tt.want)
		}
	}
}

// TestDeadLetterRemoval: whoever may change event subscriptions may remove letters;
// one that is gone, or is not of the scope, is no error and no other is touched.
func TestDeadLetterRemoval(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	onTopic := grids + "/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	s.must("owner", "PUT", onTopic+v, hookBody)
	item, _ := s.plane.Store.EventSubscriptions.Get(resource.MustID(onTopic).Key())
	a, b := s.broker.bury(&item.Value, 1), s.broker.bury(&item.Value, 2)
	for _, tt := range []struct {
		caller, target string
		want, left     int
	}{
		{"reader", onTopic + DeadLettersPath + "/" + a, 403, 2},
		{"owner", wsID + DeadLettersPath + "/" + a, 204, 2},
		{"owner", onTopic + DeadLettersPath + "/" + a, 204, 1},
		{"owner", onTopic + DeadLettersPath + "/" + a, 204, 1},
		{"owner", local + DeadLettersPath + "/" + b, 204, 0},
	} {
		if w := s.do(tt.caller, "DELETE", tt.target+v, ""); w.Code != tt.want || len(s.broker.letters) != tt.left {
			t.Errorf("%s %s: %d, %d letters are left", tt.caller, tt.target, w.Code, len(s.broker.letters))
		}
	}
}
