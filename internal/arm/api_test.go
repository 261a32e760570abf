package arm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/resource"
)

const v = "?api-version=2025-02-15"

// The ten traps of spec/management.md section 14, one by one.
func TestTraps(t *testing.T) {
	s := newStack(t)
	topic, hook := grids+"/topics/orders", grids+"/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	domain := grids + "/domains/shops"
	status := func(method, target, body string, want int) *httptest.ResponseRecorder {
		t.Helper()
		w := s.do("owner", method, target+v, body)
		if w.Code != want {
			t.Errorf("%s %s: %d, want %d; %s", method, target, w.Code, want, w.Body)
		}
		return w
	}
	t.Run("1 PUT is 201 on create and replace", func(t *testing.T) {
		for range 2 {
			status("PUT", topic, `{"location":"local"}`, 201)
			status("PUT", domain, `{"location":"local"}`, 201)
			status("PUT", domain+"/topics/berlin", "", 201)
			status("PUT", hook, hookBody, 201)
			for _, parent := range []string{topic, domain, domain + "/topics/berlin"} {
				status("PUT", parent+"/eventSubscriptions/es2", hookBody, 201)
			}
			status("PUT", grids+"/systemTopics/default", `{"location":"local","properties":{"source":"`+wsID+`","topicType":"Microsoft.MachineLearningServices.Workspaces"}}`, 201)
		}
	})
	t.Run("3 PATCH is 201 and flat", func(t *testing.T) {
		w := status("PATCH", hook, `{"labels":["flat"]}`, 201)
		if !strings.Contains(w.Body.String(), `"labels":["flat"]`) {
			t.Errorf("body %s", w.Body)
		}
		status("PATCH", domain+"/topics/berlin/eventSubscriptions/es2", `{"labels":["flat"]}`, 201)
		w = status("PATCH", hook, `{"properties":{"labels":["enveloped"]}}`, 201)
		if !strings.Contains(w.Body.String(), `"labels":["enveloped"]`) {
			t.Errorf("body %s", w.Body)
		}
	})
	t.Run("4 workspaces and groups are the reverse", func(t *testing.T) {
		ws := local + "/providers/Microsoft.MachineLearningServices/workspaces/other"
		for range 2 {
			status("PUT", ws, `{"location":"local"}`, 200)
		}
		status("PATCH", ws, `{"tags":{}}`, 200)
		status("PUT", sub+"/resourceGroups/gone", `{"location":"local"}`, 201)
		status("DELETE", sub+"/resourceGroups/gone", "", 200)
	})
	t.Run("5 no redirects", func(t *testing.T) {
		for _, target := range []string{
			"/" + hook, "//" + strings.TrimPrefix(hook, "/"), strings.ReplaceAll(hook, "/", "//"), hook + "/",
			strings.ToLower(hook), strings.ToUpper(hook), strings.Replace(hook, "es1", "%65s1", 1), strings.Replace(hook, "local", "l%6Fcal", 1),
		} {
			w := status("GET", target, "", 200)
			var got struct{ ID string }
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.ID != hook {
				t.Errorf("GET %s shows id %q, %v", target, got.ID, err)
			}
		}
		w := s.do("owner", "GET", "/"+hook+"/?api-version=2025-02-15&", "")
		if w.Code != 200 {
			t.Errorf("trailing slash and empty query member: %d", w.Code)
		}
	})
	t.Run("6 getFullUrl", func(t *testing.T) {
		w := status("POST", hook+"/getFullUrl", "", 200)
		if w.Body.String() != `{"endpointUrl":"https://h.example/in?code=s3cret"}`+"\n" {
			t.Errorf("body %s", w.Body)
		}
		// Destinations other than webhooks come later; the operation itself is held.
		item, _ := s.plane.Store.EventSubscriptions.Get(resource.EventSubscriptionKey(resource.MustID(topic), "es2"))
		es := item.Value
		es.Destination = resource.Destination{Type: "EventHub"}
		if _, err := s.plane.Store.EventSubscriptions.Update(context.Background(), item.Key, es, item.Revision); err != nil {
			t.Fatal(err)
		}
		w = status("POST", topic+"/eventSubscriptions/es2/getFullUrl", "", 400)
		if !strings.Contains(w.Body.String(), "EventHub") || w.Header().Get("x-ms-error-code") != "InvalidRequest" {
			t.Errorf("body %s", w.Body)
		}
	})
	t.Run("7 an echoed null keeps the URL", func(t *testing.T) {
		var shown struct{ Properties map[string]json.RawMessage }
		w := status("GET", hook, "", 200)
		if err := json.Unmarshal(w.Body.Bytes(), &shown); err != nil || !strings.Contains(string(shown.Properties["destination"]), `"endpointUrl":null`) {
			t.Fatalf("GET shows %s, %v", shown.Properties["destination"], err)
		}
		status("PATCH", hook, `{"destination":`+string(shown.Properties["destination"])+`}`, 201)
		status("PUT", hook, `{"properties":{"destination":`+string(shown.Properties["destination"])+`}}`, 201)
		w = status("POST", hook+"/getFullUrl", "", 200)
		if !strings.Contains(w.Body.String(), "code=s3cret") {
			t.Errorf("URL is now %s", w.Body)
		}
	})
	t.Run("8 nextLink is absent at the end", func(t *testing.T) {
		if w := status("GET", grids+"/topics", "", 200); strings.Contains(w.Body.String(), "nextLink") {
			t.Errorf("body %s", w.Body)
		}
	})
	t.Run("9 metadata without trailing slashes", func(t *testing.T) {
		w := s.do("-", "GET", "/metadata/endpoints?api-version=2022-09-01", "")
		var cloud map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &cloud); err != nil {
			t.Fatalf("not one object: %v", err)
		}
		if strings.Contains(strings.ReplaceAll(w.Body.String(), "windows.net/", ""), `/"`) {
			t.Errorf("an address ends in a slash: %s", w.Body)
		}
	})
	t.Run("10 what there is to poll is done, near and without a pause", func(t *testing.T) {
		for _, w := range []*httptest.ResponseRecorder{status("PUT", topic, `{"location":"local"}`, 201), status("PUT", hook, hookBody, 201), status("PATCH", hook, `{"labels":["a"]}`, 201)} {
			if !strings.Contains(w.Body.String(), `"provisioningState":"Succeeded"`) || w.Header().Get("Retry-After") != "0" || w.Header().Get("Location") != "" {
				t.Errorf("header %v, body %s", w.Header(), w.Body)
			}
			if polled, operation := s.follow("owner", w.Header().Get("Azure-AsyncOperation")); operation.Status != "Succeeded" {
				t.Errorf("the operation: %d %s", polled.Code, polled.Body)
			}
		}
		for _, w := range []*httptest.ResponseRecorder{
			status("PUT", grids+"/topics/soon-gone", `{"location":"local"}`, 201), status("DELETE", grids+"/topics/soon-gone", "", 204), status("POST", topic+"/listKeys", "", 200),
		} {
			if w.Header().Get("X-Go-Azure-Sdk-Skip-Polling-Delay") != "true" {
				t.Errorf("Terraform waits ten seconds after an answer with the headers %v", w.Header())
			}
		}
	})
	t.Run("2 DELETE of a topic is not 200", func(t *testing.T) {
		for range 2 {
			status("DELETE", hook, "", 204)
			status("DELETE", topic, "", 204)
			status("DELETE", domain+"/topics/berlin", "", 204)
			status("DELETE", domain, "", 204)
		}
	})
}

func TestAnswersHaveManagementHeaders(t *testing.T) {
	s := newStack(t)
	for _, target := range []string{grids + "/topics" + v, "/nowhere" + v} {
		h := s.do("owner", "GET", target, "").Header()
		for name, want := range map[string]string{
			"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json; charset=utf-8",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s = %q, want %q", target, name, h.Get(name), want)
			}
		}
	}
}

func TestBadPaths(t *testing.T) {
	s := newStack(t)
	for target, want := range map[string]int{
		local + "/providers/Microsoft.EventGrid/topics/a%2Fb":     400,
		local + "/providers/Microsoft.EventGrid/topics/a%00b":     400,
		local + "/providers/Microsoft.EventGrid/topics/a%3Fb":     400,
		local + "/providers/Microsoft.EventGrid/topics/%E4":       404, // a name that nothing has
		"/subscriptions/x/y/providers/Microsoft.EventGrid/topics": 404,
		local + "/providers":                     404,
		local + "/providers/Microsoft.EventGrid": 404,
		"/providers/providers/providers":         404,
		"/":                                      404,
		"/subscriptions/%20":                     404,
	} {
		if w := s.do("owner", "GET", target+v, ""); w.Code != want || w.Header().Get("x-ms-error-code") == "" {
			t.Errorf("GET %s: %d %s", target, w.Code, w.Body)
		}
	}
	if w := s.do("owner", "GET", grids+"/topics?api-version=2025-02-15&a=%zz", ""); w.Code != 400 {
		t.Errorf("bad query: %d", w.Code)
	}
}

func FuzzPaths(f *testing.F) {
	f.Add("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/t")
	f.Add("//providers/a/providers/b/c/register")
	f.Add("/eventsubscriptions/1/validate")
	f.Fuzz(func(t *testing.T, path string) {
		segments, err := splitPath(path)
		if err != nil {
			return
		}
		r := &request{}
		if ops, err := find(r, segments); err == nil && len(ops) == 0 {
			t.Errorf("%q leads nowhere without an error", path)
		}
	})
}

func TestPaging(t *testing.T) {
	s := newStack(t)
	const all = 45
	for i := range all {
		s.must("owner", "PUT", fmt.Sprintf("%s/topics/topic-%03d%s", grids, i, v), `{"location":"local"}`)
	}
	for query, pages := range map[string]int{"": 3, "&$top=100": 1, "&$TOP=44": 2, "&$top=45": 1, "&$filter=contains(name,'-00')": 1} {
		t.Run(query, func(t *testing.T) {
			var names []string
			target, n := grids+"/topics"+v+query, 0
			for target != "" {
				n++
				var p struct {
					Value    []struct{ Name string }
					NextLink *string
				}
				if err := json.Unmarshal(s.must("owner", "GET", target, "").Body.Bytes(), &p); err != nil {
					t.Fatal(err)
				}
				for _, one := range p.Value {
					names = append(names, one.Name)
				}
				target = ""
				if p.NextLink != nil {
					u, err := url.Parse(*p.NextLink)
					if err != nil || u.Scheme+"://"+u.Host != "http://localhost:7443" || u.Query().Get("api-version") != "2025-02-15" {
						t.Fatalf("nextLink %q, %v", *p.NextLink, err)
					}
					target = u.RequestURI()
				}
			}
			want := all
			if strings.Contains(query, "filter") {
				want = 10
			}
			if n != pages || len(names) != want {
				t.Errorf("%d pages with %d topics, want %d with %d", n, len(names), pages, want)
			}
			for i, name := range names {
				if name != fmt.Sprintf("topic-%03d", i) {
					t.Fatalf("entry %d is %s", i, name)
				}
			}
		})
	}
}

func FuzzResourceFilter(f *testing.F) {
	f.Add("resourceGroup eq 'a' and tagName eq 'b' and tagValue eq 'c'")
	f.Add("substringof('it''s',name) and name ne 'x'")
	f.Fuzz(func(t *testing.T, text string) {
		keep, err := parseResourceFilter(text)
		if (keep == nil) == (err == nil) {
			t.Fatalf("%q: %v", text, err)
		}
		if err == nil {
			keep(trackedBody{ID: grids + "/topics/x", Name: "x", Tags: map[string]string{"b": "c"}})
		}
	})
}

func TestNextLinkStartsWithTheConfiguredOrigin(t *testing.T) {
	a := &api{Config{Origin: "https://grid.example"}}
	r := httptest.NewRequest("GET", "http://10.0.0.1//subscriptions/s//providers/x?api-version=1&$skiptoken=old&$top=2", nil)
	got := a.nextLink(&request{http: r}, "key")
	if got != "https://grid.example/subscriptions/s//providers/x?%24skipToken=a2V5&%24top=2&api-version=1" {
		t.Errorf("nextLink %s", got)
	}
}

func TestNameFilter(t *testing.T) {
	tests := []struct {
		filter string
		yes    []string
		no     []string
	}{
		{"name eq 'a'", []string{"a", "A"}, []string{"b"}},
		{"NAME NE 'a'", []string{"b"}, []string{"a"}},
		{"CONTAINS(name,'x')", []string{"axb", "X"}, []string{"a"}},
		{"contains( name , 'x' ) and not name eq 'xx'", []string{"x"}, []string{"xx", "a"}},
		{"name eq 'a' or name eq 'b' and name eq 'c'", []string{"a"}, []string{"b", "c"}},
		{"(name eq 'a' or name eq 'b') and name ne 'b'", []string{"a"}, []string{"b"}},
		{"not not name eq 'a'", []string{"a"}, []string{"b"}},
		{"name eq 'it''s'", []string{"it's"}, []string{"its"}},
	}
	for _, tt := range tests {
		keep, err := parseNameFilter(tt.filter)
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		for _, n := range tt.yes {
			if !keep(n) {
				t.Errorf("%s leaves %s out", tt.filter, n)
			}
		}
		for _, n := range tt.no {
			if keep(n) {
				t.Errorf("%s keeps %s", tt.filter, n)
			}
		}
	}
	for _, bad := range []string{
		"name", "name eq", "name eq a", "name eq 'a", "name gt 'a'", "contains(name 'a')", "contains(id,'a')", "location eq 'a'",
		"name eq 'a' and", "name eq 'a' name eq 'b'", "(name eq 'a'", "nameeq 'a'", "name eq 'a')", strings.Repeat("(", 100) + "name eq 'a'",
	} {
		if _, err := parseNameFilter(bad); err == nil {
			t.Errorf("%.40s is taken", bad)
		}
	}
}

func FuzzNameFilter(f *testing.F) {
	f.Add("not (contains(name,'x') or name eq 'it''s') and name ne 'b'")
	f.Fuzz(func(_ *testing.T, text string) {
		if keep, err := parseNameFilter(text); err == nil {
			keep("name")
		}
	})
}

// A secret leaves through listKeys, regenerateKey and getFullUrl, and nowhere else.
func TestSecretsStayInside(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	s.must("owner", "PUT", grids+"/topics/orders/eventSubscriptions/es1"+v, hookBody)
	var keys map[string]string
	if err := json.Unmarshal(s.must("owner", "POST", grids+"/topics/orders/listKeys"+v, "").Body.Bytes(), &keys); err != nil {
		t.Fatal(err)
	}
	silent := strings.Replace(hookBody, "h.example/in", "h.example/silent", 1)
	s.must("owner", "PUT", wsID+"/providers/Microsoft.EventGrid/eventSubscriptions/waits"+v, silent)
	token := strings.Split(s.link, "token=")[1]
	var made map[string]string
	if err := json.Unmarshal(s.must("owner", "POST", PrincipalsPath+v, `{"name":"ci"}`).Body.Bytes(), &made); err != nil {
		t.Fatal(err)
	}
	secrets := []string{"s3cret", keys["key1"], keys["key2"], token, made["password"]}
	for i, secret := range secrets {
		if len(secret) < 6 {
			t.Fatalf("secret %d is %q", i, secret)
		}
	}
	es := "/providers/Microsoft.EventGrid/eventSubscriptions"
	requests := []struct{ method, target, body string }{
		{"GET", grids + "/topics", ""}, {"GET", grids + "/topics/orders", ""}, {"GET", grids + "/topics/orders/eventSubscriptions", ""},
		{"GET", grids + "/topics/orders/eventSubscriptions/es1", ""}, {"GET", grids + "/topics/orders" + es, ""}, {"GET", wsID + es, ""},
		{"GET", wsID + es + "/waits", ""}, {"PATCH", wsID + es + "/waits", `{"labels":["x"]}`},
		{"PATCH", grids + "/topics/orders/eventSubscriptions/es1", `{"labels":["x"]}`}, {"PUT", grids + "/topics/orders/eventSubscriptions/es1", hookBody},
		{"GET", sub + "/providers/Microsoft.EventGrid/locations/local/eventSubscriptions", ""},
		{"GET", sub + DeliveryStatusPath, ""}, {"GET", sub + DeadLettersPath, ""}, {"GET", PrincipalsPath, ""},
		{"PUT", grids + "/topics/orders/eventSubscriptions/es2", strings.Replace(hookBody, "https", "http", 1)},
		{"PUT", grids + "/topics/orders/eventSubscriptions/es2", strings.Replace(hookBody, "/in", "/refuse", 1)},
		{"PUT", grids + "/topics/orders/eventSubscriptions/es2", strings.Replace(hookBody, "https://h.example", "::", 1)},
		{"PUT", grids + "/topics/orders/eventSubscriptions/es2", strings.Replace(hookBody, "s3cret", "s3cret bad", 1)},
		{"PUT", grids + "/topics/orders/eventSubscriptions/es2", strings.Replace(hookBody, "}}}}", "", 1)},
		{"PUT", grids + "/topics/missing/eventSubscriptions/es2", hookBody},
	}
	for _, r := range requests {
		w := s.do("owner", r.method, r.target+v, r.body)
		for i, secret := range secrets {
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("%s %s shows secret %d: %s", r.method, r.target, i, w.Body)
			}
		}
	}
	for key, value := range s.kv.Dump() {
		for i, secret := range secrets {
			if strings.Contains(value, secret) {
				t.Errorf("stored record %s holds secret %d", key, i)
			}
		}
	}
}

func TestBodyLimit(t *testing.T) {
	s := newStack(t)
	w := s.do("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local","x":"`+strings.Repeat("x", maxBody)+`"}`)
	if w.Code != http.StatusRequestEntityTooLarge || w.Header().Get("x-ms-error-code") != "RequestContentTooLarge" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestVeryManyProblems: a body with nothing right in it is answered with the first of its
// problems, not with hundreds of times its size.
func TestVeryManyProblems(t *testing.T) {
	s := newStack(t)
	many := func(entry string, n int) string { return strings.TrimSuffix(strings.Repeat(entry+",", n), ",") }
	role := "/providers/Microsoft.Authorization/roleDefinitions/0a000000-0000-4000-8000-000000000001"
	wide := `"x":1`
	for i := range 10_000 {
		wide += fmt.Sprintf(`,"m%d":1`, i)
	}
	const head = `{"properties":{"roleName":"r","assignableScopes":["/"],"permissions":[`
	for name, c := range map[string]struct{ body, want string }{
		"wrong types":    {head + many("1", 10_000) + "]}}", "The member properties.permissions[99] is a number"},
		"too many":       {head + many("1", 10_001) + "]}}", "The member properties.permissions has 10001 entries, more than 10000."},
		"wide":           {`{"properties":{` + wide + `}}`, "The object has 10001 members, more than 10000."},
		"wrong actions":  {head + `{"actions":[` + many(`" "`, 10_000) + "]}]}}", "There are 9901 problems more."},
		"actions of 1.5": {head + `{"actions":[` + many(`1.5`, 10_000) + "]}]}}", "properties.permissions[0].actions[99] is a number"},
	} {
		t.Run(name, func(t *testing.T) {
			w := s.do("owner", "PUT", role+v, c.body)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), c.want) || w.Body.Len() > 100_000 {
				t.Errorf("%d with %d bytes: %.300s", w.Code, w.Body.Len(), w.Body)
			}
		})
	}
}

func TestDeliveries(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	onTopic, onWorkspace := grids+"/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1", wsID+"/providers/Microsoft.EventGrid/eventSubscriptions/es2"
	s.must("owner", "PUT", onTopic+v, hookBody)
	s.must("owner", "PUT", onWorkspace+v, hookBody)
	find := func(id string) resource.EventSubscription {
		parsed := resource.MustID(id)
		item, ok := s.plane.Store.EventSubscriptions.Get(parsed.Key())
		if !ok {
			t.Fatalf("%s is not stored", id)
		}
		return item.Value
	}
	es1, es2 := find(onTopic), find(onWorkspace)
	a, b, c := s.broker.bury(&es1, 1), s.broker.bury(&es1, 2), s.broker.bury(&es2, 3)
	gone := es1
	gone.UID, gone.Name = 99, "gone"
	d := s.broker.bury(&gone, 4)

	list := func(scope, query string) string {
		t.Helper()
		var p struct{ Value []struct{ ID string } }
		if err := json.Unmarshal(s.must("owner", "GET", scope+DeadLettersPath+v+query, "").Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		names := map[string]string{a: "a", b: "b", c: "c", d: "d"}
		out := map[string]bool{}
		for _, l := range p.Value {
			out[names[l.ID]] = true
		}
		text := ""
		for _, n := range []string{"a", "b", "c", "d"} {
			if out[n] {
				text += n
			}
		}
		return text
	}
	for _, tt := range []struct{ name, scope, query, want string }{
		{"one event subscription", onTopic, "", "ab"},
		{"the same below its topic", grids + "/topics/orders/eventSubscriptions/es1", "", "ab"},
		{"topic, also of what is gone", grids + "/topics/orders", "", "abd"},
		{"workspace", wsID, "", "c"},
		{"group", local, "", "abcd"},
		{"subscription", sub, "", "abcd"},
		{"filter by name", sub, "&$filter=eventSubscription eq 'es1'", "ab"},
		{"filter by id", sub, "&$filter=eventSubscription eq '" + strings.ToLower(onWorkspace) + "'", "c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := list(tt.scope, tt.query); got != tt.want {
				t.Errorf("letters %s, want %s", got, tt.want)
			}
		})
	}
	if w := s.do("owner", "GET", sub+DeadLettersPath+v+"&$filter=x", ""); w.Code != 400 {
		t.Errorf("bad filter: %d", w.Code)
	}
	if w := s.do("reader", "GET", local+DeadLettersPath+v, ""); w.Code != 403 {
		t.Errorf("reader reads events: %d", w.Code)
	}
	s.must("reader", "GET", local+DeliveryStatusPath+v, "")

	w := s.must("owner", "GET", onTopic+DeadLettersPath+"/"+a+v, "")
	for _, member := range []string{`"id":"` + a, `"eventSubscription":"` + onTopic, `"event":{"id":"e1"}`, `"deadLetterReason":"MaxDeliveryAttemptsExceeded"`, `"deliveryAttempts":3`, `"lastDeliveryOutcome":"NotFound"`, `"publishTime":`} {
		if !strings.Contains(w.Body.String(), member) {
			t.Errorf("letter without %s: %s", member, w.Body)
		}
	}
	if w := s.do("owner", "GET", wsID+DeadLettersPath+"/"+a+v, ""); w.Code != 404 {
		t.Errorf("letter of another scope: %d", w.Code)
	}

	w = s.must("owner", "POST", local+DeadLettersPath+"/replay"+v, `{"ids":["`+a+`","`+c+`","nonsense"]}`)
	if got := strings.TrimSpace(w.Body.String()); got != `{"replayed":2,"failed":[{"id":"nonsense","code":"DeadLetterNotFound","message":"Dead letter \"nonsense\" was not found."}]}` {
		t.Errorf("replay by ids: %s", got)
	}
	w = s.must("owner", "POST", onTopic+DeadLettersPath+"/replay"+v, "")
	if got := strings.TrimSpace(w.Body.String()); got != `{"replayed":2}` {
		t.Errorf("replay of an event subscription: %s", got)
	}
	if got := strings.Join(s.broker.replays, " "); got != strings.Join([]string{a, c, a, b}, " ") {
		t.Errorf("replayed %s", got)
	}
	for body, want := range map[string]int{"": 400, `{"ids":"x"}`: 400, `{"ids":["x"]}`: 404} {
		if w := s.do("owner", "POST", local+DeadLettersPath+"/replay"+v, body); w.Code != want {
			t.Errorf("replay %s: %d, want %d", body, w.Code, want)
		}
	}

	var status struct {
		Value []struct {
			ID, Name   string
			Properties struct {
				Live              bool
				EventSubscription string
				OpenDeliveries    int
			}
		}
	}
	if err := json.Unmarshal(s.must("owner", "GET", wsID+DeliveryStatusPath+v, "").Body.Bytes(), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Value) != 1 || status.Value[0].Name != "es2" || !status.Value[0].Properties.Live || status.Value[0].Properties.OpenDeliveries != 2 || status.Value[0].Properties.EventSubscription != onWorkspace {
		t.Errorf("status %+v", status)
	}
	s.must("owner", "GET", status.Value[0].ID+v, "")
}

// tailWriter is an answer that is read while it is written.
type tailWriter struct {
	header http.Header
	lines  chan string
}

func (w *tailWriter) Header() http.Header { return w.header }
func (w *tailWriter) WriteHeader(int)     {}
func (w *tailWriter) Flush()              {}
func (w *tailWriter) Write(p []byte) (int, error) {
	scanner := bufio.NewScanner(strings.NewReader(string(p)))
	for scanner.Scan() {
		w.lines <- scanner.Text()
	}
	return len(p), nil
}

// tail opens a live tail of the group; what ends it closes done.
func (s *stack) tail(ctx context.Context) (w *tailWriter, done chan struct{}) {
	w = &tailWriter{header: http.Header{}, lines: make(chan string, 16)}
	r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost"+local+LiveEventsPath+v, nil)
	r.Header.Set("Authorization", "Bearer owner")
	done = make(chan struct{})
	go func() { defer close(done); s.handler.ServeHTTP(w, r) }()
	return w, done
}

func TestTailEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStack(t)
		_, done := s.tail(context.Background())
		synctest.Wait()
		close(s.stopping)
		<-done
		if s.broker.stopped != 1 {
			t.Errorf("%d tails were stopped", s.broker.stopped)
		}
	})
}

func TestTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStack(t)
		s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
		if w := s.do("reader", "GET", wsID+LiveEventsPath+v, ""); w.Code != 403 {
			t.Errorf("reader: %d", w.Code)
		}
		ctx, leave := context.WithCancel(context.Background())
		w, done := s.tail(ctx)
		synctest.Wait()
		if len(s.broker.tails) != 2 {
			t.Fatalf("%d sources are watched, want topic and workspace", len(s.broker.tails))
		}
		ws, _ := s.plane.Store.Workspaces.Get(resource.MustID(wsID).Key())
		s.broker.tails[resource.Stream{Topic: ws.Value.TopicUID}] <- broker.TailEvent{Event: json.RawMessage(`{"id":"e1"}`), PublishTime: time.Now().UTC(), Sequencer: "0a"}
		synctest.Wait()
		if got, want := <-w.lines, `{"event":{"id":"e1"},"publishTime":"2000-01-01T00:00:00Z","sequencer":"0a"}`; got != want {
			t.Errorf("line %s, want %s", got, want)
		}
		time.Sleep(tailRest + time.Second)
		if got := <-w.lines; got != "" {
			t.Errorf("a quiet tail says %q", got)
		}
		if got := w.header.Get("Content-Type"); got != "application/x-ndjson; charset=utf-8" {
			t.Errorf("content type %s", got)
		}
		leave()
		<-done
		if s.broker.stopped != 2 {
			t.Errorf("%d tails were stopped", s.broker.stopped)
		}
	})
}
