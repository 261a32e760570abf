package arm

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// follow reads the address that a change answered with, and returns the answer with the
// status in it.
func (s *stack) follow(caller, address string) (*httptest.ResponseRecorder, operationStatusBody) {
	s.t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Scheme+"://"+u.Host != "http://localhost:7443" {
		s.t.Fatalf("the address of the operation is %q, %v: want one on the origin of the request", address, err)
	}
	w := s.do(caller, "GET", u.RequestURI(), "")
	var body operationStatusBody
	if w.Code == 200 {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			s.t.Fatal(err)
		}
	}
	return w, body
}

// An operation stands as its event subscription does, from the request on until the
// link of the handshake was opened, or the endpoint refused.
func TestOperationOfAHandshake(t *testing.T) {
	s := newStack(t)
	hook := wsID + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	made := s.must("owner", "PUT", hook+v, strings.Replace(hookBody, "/in?", "/silent?", 1))
	if made.Header().Get("Retry-After") != "1" || !strings.Contains(made.Body.String(), `"AwaitingManualAction"`) {
		t.Fatalf("%v %s", made.Header(), made.Body)
	}
	address := made.Header().Get("Azure-AsyncOperation")
	w, status := s.follow("owner", address)
	if status.Status != "InProgress" || status.Error != nil || w.Header().Get("Retry-After") != "1" {
		t.Errorf("while the link waits: %s, Retry-After %q", w.Body, w.Header().Get("Retry-After"))
	}
	result := strings.Replace(address, "operationsStatus", "operationResults", 1)
	if w, _ := s.follow("owner", result); w.Code != 202 || w.Header().Get("Location") != result || w.Body.Len() != 0 {
		t.Errorf("the result while the link waits: %d %v %s", w.Code, w.Header(), w.Body)
	}

	s.must("-", "GET", s.link, "")
	if w, status = s.follow("owner", address); status.Status != "Succeeded" || w.Header().Get("Retry-After") != "" {
		t.Errorf("after the link was opened: %s", w.Body)
	}
	if w, _ := s.follow("owner", result); w.Code != 200 || !strings.Contains(w.Body.String(), `"id":"`+hook+`"`) {
		t.Errorf("the result after the link was opened: %d %s", w.Code, w.Body)
	}

	refused := s.do("owner", "PATCH", hook+v, `{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/refuse"}}}`)
	if refused.Code != 400 || refused.Header().Get("Azure-AsyncOperation") != "" {
		t.Fatalf("a refused change: %d %v", refused.Code, refused.Header())
	}
	if w, status = s.follow("owner", address); status.Status != "Failed" || status.Error == nil || status.Error.Code != "Url validation" ||
		!strings.HasPrefix(status.Error.Message, "Webhook validation handshake failed for https://h.example/refuse.") {
		t.Errorf("after the endpoint refused: %s", w.Body)
	}
}

func TestOperationAddresses(t *testing.T) {
	s := newStack(t)
	topic := grids + "/topics/orders"
	address := s.must("owner", "PUT", topic+v, `{"location":"local"}`).Header().Get("Azure-AsyncOperation")
	nested := s.must("owner", "PUT", topic+"/eventSubscriptions/es1"+v, hookBody).Header().Get("Azure-AsyncOperation")
	domain := s.must("owner", "PUT", grids+"/domains/shops"+v, `{"location":"local"}`).Header().Get("Azure-AsyncOperation")
	for _, c := range []struct {
		what, caller, address string
		status                int
	}{
		{"of the topic", "reader", address, 200},
		{"in another case", "owner", strings.Replace(strings.ToUpper(address[:strings.Index(address, "?")])+address[strings.Index(address, "?"):], "HTTP://LOCALHOST", "http://localhost", 1), 200},
		{"the topic itself", "owner", strings.Replace(address, "operationsStatus", "operationResults", 1), 200},
		{"of a domain", "reader", domain, 200},
		{"the domain itself", "owner", strings.Replace(domain, "operationsStatus", "operationResults", 1), 200},
		{"of the nested form", "owner", nested, 200},
		{"for who may not read the topic", "nobody", address, 403},
		{"for nobody", "-", address, 401},
		{"without the resource", "owner", address[:strings.Index(address, "&resource=")], 404},
		{"of another resource", "owner", address[:strings.Index(address, "&resource=")] + nested[strings.Index(nested, "&resource="):], 404},
		{"of something else", "owner", address[:strings.Index(address, "&resource=")] + "&resource=" + url.QueryEscape("b3JkZXJz"), 404},
	} {
		if w, _ := s.follow(c.caller, c.address); w.Code != c.status {
			t.Errorf("%s: %d %s, want %d", c.what, w.Code, w.Body, c.status)
		}
	}
	s.must("owner", "DELETE", topic+v, "")
	s.must("owner", "PUT", topic+v, `{"location":"local"}`)
	if w, _ := s.follow("owner", address); w.Code != 404 {
		t.Errorf("of a topic of the same name, made before: %d %s", w.Code, w.Body)
	}
}
