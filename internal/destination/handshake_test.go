package destination

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// How a handshake ended.
type ending int

const (
	failed ending = iota
	waits
	validated
)

const (
	testCode = "7F1C0A55-5B0E-4F0B-9C55-0D2A2F6F7A11"
	testLink = "https://carillon.example/validate?id=1&token=l1nk"
)

func validation(schema event.Schema, url string) manage.ValidationRequest {
	return manage.ValidationRequest{
		URL: url + "/ml/events?code=s3cret", Name: "model-registered-to-ci", Schema: schema, Code: testCode, ValidationURL: testLink, Rate: 120,
		TopicID: "/subscriptions/S/resourceGroups/RG/providers/Microsoft.MachineLearningServices/workspaces/WS",
	}
}

func reply(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Add(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// checkFault fails unless err is the documented fault, without secrets.
func checkFault(t *testing.T, err error, parts ...string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Invalid || f.Code != "Url validation" || f.Target != endpointField {
		t.Fatalf("error %v, want a fault of kind invalid and code \"Url validation\"", err)
	}
	for _, part := range append(parts, "Webhook validation handshake failed for http", "https://aka.ms/esvalidation.") {
		if !strings.Contains(f.Message, part) {
			t.Errorf("message %q has no %q", f.Message, part)
		}
	}
	for _, secret := range []string{"s3cret", "l1nk", testCode, "?"} {
		if strings.Contains(f.Error(), secret) {
			t.Errorf("error shows %q: %v", secret, f)
		}
	}
}

// Source: spec/delivery.md section 1.2.
func TestEventGridHandshake(t *testing.T) {
	good := `{"validationResponse":"` + testCode + `"}`
	tests := []struct {
		name    string
		handler http.HandlerFunc
		state   ending
		message []string // of the result or the fault
	}{
		{"the code", reply(200, good), validated, nil},
		{"the code among others", reply(200, "\n{\"a\":[1],\"validationResponse\":\""+testCode+"\",\"validationresponse\":\"x\"}\n"), validated, nil},
		{"nothing", reply(200, ""), waits, []string{"answered with OK", "without the validation code", "GET is expected on the validation url within 10 minutes."}},
		{"not JSON", reply(200, "ok s3cret"), waits, []string{"without the validation code"}},
		{"another code", reply(200, `{"validationResponse":"s3cret"}`), waits, []string{"with another validation code"}},
		{"the code in other case", reply(200, `{"validationResponse":"`+strings.ToLower(testCode)+`"}`), waits, []string{"with another validation code"}},
		{"not a string", reply(200, `{"validationResponse":7}`), waits, []string{"must be a string"}},
		{"wrong spelling", reply(200, `{"ValidationResponse":"`+testCode+`"}`), waits, []string{"must be spelled validationResponse"}},
		{"an array", reply(200, "["+good+"]"), waits, []string{"not an array"}},
		{"too long", reply(200, `{"a":"`+strings.Repeat("x", mostAnswer)+`","validationResponse":"`+testCode+`"}`), waits, nil},
		{"201 with the code", reply(201, good), waits, []string{"answered with Created", "not with 200"}},
		{"202 with the code", reply(202, good), waits, []string{"answered with Accepted"}},
		{"203", reply(203, good), waits, []string{"answered with NonAuthoritativeInformation"}},
		{"204", reply(204, ""), waits, []string{"answered with NoContent"}},
		{"205", reply(205, ""), failed, []string{"Http POST request failed with response code ResetContent"}},
		{"302", reply(302, "", "Location", "https://127.0.0.1/?s3cret"), failed, []string{"response code Found", "redirects are not followed"}},
		{"400", reply(400, "s3cret"), failed, []string{"response code BadRequest", "the endpoint answered 400"}},
		{"401", reply(401, good), failed, []string{"response code Unauthorized"}},
		{"404", reply(404, ""), failed, []string{"response code NotFound"}},
		{"409", reply(409, ""), failed, []string{"response code Conflict"}},
		{"500", reply(500, good), failed, []string{"response code InternalServerError"}},
		{"599", reply(599, ""), failed, []string{"response code 599"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				tt.handler(w, r)
			}))
			defer srv.Close()
			got, err := NewHandshaker(loopback, nil).Validate(t.Context(), validation(event.EventGridSchema, srv.URL))
			checkHandshake(t, got, err, tt.state, tt.message)
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times, want once: every answer is final", n)
			}
		})
	}
}

func checkHandshake(t *testing.T, got manage.ValidationResult, err error, state ending, message []string) {
	t.Helper()
	if state == failed {
		checkFault(t, err, message...)
		return
	}
	if err != nil || got.Validated != (state == validated) || got.Validated != (got.Message == "") {
		t.Fatalf("%+v, %v; want %v", got, err, state)
	}
	for _, part := range message {
		if !strings.Contains(got.Message, part) {
			t.Errorf("message %q has no %q", got.Message, part)
		}
	}
	if strings.Contains(got.Message, "s3cret") || strings.Contains(got.Message, "l1nk") {
		t.Errorf("message shows a secret: %s", got.Message)
	}
}

// Source: spec/delivery.md section 1.4.
func TestCloudEventsHandshake(t *testing.T) {
	const allowed, rate = "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"
	tests := []struct {
		name    string
		handler http.HandlerFunc
		state   ending
		message []string
	}{
		{"our origin", reply(200, "", allowed, "eventgrid.azure.net"), validated, nil},
		{"our origin in other case", reply(200, "", "webhook-allowed-origin", "EventGrid.Azure.Net"), validated, nil},
		{"any origin", reply(204, "", allowed, "*"), validated, nil},
		{"among others", reply(200, "", allowed, "a.example, eventgrid.azure.net"), validated, nil},
		{"in a second header", reply(200, "", allowed, "a.example", allowed, "*"), validated, nil},
		{"with a rate", reply(200, "", allowed, "*", rate, "60"), validated, nil},
		{"with any rate", reply(200, "", allowed, "*", rate, "*"), validated, nil},
		{"with a bad rate", reply(200, "", allowed, "*", rate, "-1"), validated, nil},
		{"any 2xx", reply(299, "", allowed, "*"), validated, nil},
		{"no origin", reply(200, "", "Allow", "POST"), waits, []string{"Http OPTIONS request was answered with OK", "without WebHook-Allowed-Origin"}},
		{"only the request header", reply(200, "", "WebHook-Request-Origin", "*"), waits, nil},
		{"another origin", reply(200, "", allowed, "a.example"), failed, []string{"Http OPTIONS request failed with response code OK", "allows other origins"}},
		{"no success", reply(409, "", allowed, "*"), failed, []string{"response code Conflict"}},
		{"not found", reply(404, "s3cret"), failed, []string{"response code NotFound"}},
		{"redirect", reply(307, "", allowed, "*", "Location", "/s3cret"), failed, []string{"redirects are not followed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.handler)
			defer srv.Close()
			got, err := NewHandshaker(loopback, nil).Validate(t.Context(), validation(event.CloudEventSchemaV1_0, srv.URL))
			checkHandshake(t, got, err, tt.state, tt.message)
		})
	}
}

// The static delivery attributes come with both forms, and no error shows them.
// Source: spec/delivery.md section 1.2.
func TestHandshakeWithDeliveryAttributes(t *testing.T) {
	got := make(chan http.Header, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		w.WriteHeader(http.StatusTeapot)
	}))
	defer srv.Close()
	for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
		v := validation(schema, srv.URL)
		v.Headers = []manage.Header{{Name: "x-team", Value: "mlops"}, {Name: "authorization", Value: "Bearer s3cret"}, {Name: "USER-AGENT", Value: "mine"}}
		_, err := NewHandshaker(loopback, nil).Validate(t.Context(), v)
		checkFault(t, err, "Imateapot")
		h := <-got
		for name, want := range map[string]string{"X-Team": "mlops", "Authorization": "Bearer s3cret", "User-Agent": "mine"} {
			if values := h[name]; len(values) != 1 || values[0] != want {
				t.Errorf("%s: %s is %q, want %q", schema, name, values, want)
			}
		}
	}
}

// Without a link nobody can consent later.
func TestHandshakeWithoutLink(t *testing.T) {
	srv := httptest.NewServer(reply(200, ""))
	defer srv.Close()
	for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
		v := validation(schema, srv.URL)
		v.ValidationURL = ""
		_, err := NewHandshaker(loopback, nil).Validate(t.Context(), v)
		checkFault(t, err)
	}
}

func TestHandshakeWithoutConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	cut := strings.TrimSuffix(rawServer(t, func(_ int, c net.Conn) {
		_, _ = readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
	}), "/in?code=s3cret")
	for name, tt := range map[string]struct{ url, reason string }{
		"refused":           {"http://" + closed, "response code Unknown. For troubleshooting, visit https://aka.ms/esvalidation. Reason: " + closed + ": the connection was refused."},
		"no TLS there":      {"https" + plain.URL[4:], "does not speak TLS"},
		"unknown authority": {secure.URL, "can add it with --destination-ca."},
		"broken off":        {cut, "Reason: the answer broke off."},
	} {
		t.Run(name, func(t *testing.T) {
			for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
				_, err := NewHandshaker(loopback, nil).Validate(t.Context(), validation(schema, tt.url))
				checkFault(t, err, tt.reason)
			}
		})
	}
}

func TestHandshakeRefusesDestination(t *testing.T) {
	for url, reason := range map[string]string{
		"https://10.0.0.1/?s3cret":         "--allow-destination 10.0.0.0/8",
		"http://hooks.example.org/?s3cret": "use https://",
		"https://me:s3cret@8.8.8.8/":       "user information",
		"ftp://8.8.8.8/s3cret":             "must start with https://",
		"https://h\x00/s3cret":             "not a URL",
	} {
		_, err := NewHandshaker(egress.New(egress.Options{}), nil).Validate(t.Context(), manage.ValidationRequest{URL: url, Schema: event.EventGridSchema})
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Kind != fault.Invalid || f.Target != endpointField || !strings.Contains(f.Message, reason) || strings.Contains(f.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", url, err, reason)
		}
	}
}

// piped returns a Handshaker that reaches serve over net.Pipe, whatever the URL.
func piped(t *testing.T, serve func(number int, r *http.Request, c net.Conn)) *Handshaker {
	t.Helper()
	var number atomic.Int32
	dial := func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		n := int(number.Add(1))
		go func() {
			defer server.Close()
			r, err := http.ReadRequest(bufio.NewReader(server))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			serve(n, r, server)
		}()
		return client, nil
	}
	return &Handshaker{
		check:  func(*url.URL) error { return nil },
		client: &http.Client{Transport: &http.Transport{DialContext: dial}},
	}
}

// hang keeps a connection until the other side leaves it.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// Source: spec/delivery.md section 1.2: 30 s, then again after 5 s.
func TestHandshakeTimes(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 61\r\n\r\n{\"validationResponse\":\"" + testCode + "\"}"
	tests := []struct {
		name  string
		serve func(n int, c net.Conn)
		took  time.Duration
		state ending
	}{
		{"answer in time", func(_ int, c net.Conn) {
			time.Sleep(29 * time.Second) // in the bubble's time
			_, _ = io.WriteString(c, ok)
		}, 29 * time.Second, validated},
		{"answer at the second try", func(n int, c net.Conn) {
			if n == 1 {
				hang(c)
				return
			}
			_, _ = io.WriteString(c, ok)
		}, 35 * time.Second, validated},
		{"half an answer counts as none", func(n int, c net.Conn) {
			if n < 3 {
				_, _ = io.WriteString(c, ok[:len(ok)-5])
				hang(c)
				return
			}
			_, _ = io.WriteString(c, ok)
		}, 70 * time.Second, validated},
		{"never", func(_ int, c net.Conn) { hang(c) }, 100 * time.Second, failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				h := piped(t, func(n int, _ *http.Request, c net.Conn) { tt.serve(n, c) })
				got, err := h.Validate(t.Context(), validation(event.EventGridSchema, "http://hooks.example.org"))
				if took := time.Since(begin); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				checkHandshake(t, got, err, tt.state, map[bool][]string{true: {"response code Unknown", "no complete answer within 30s, 3 times"}}[tt.state == failed])
				synctest.Wait()
			})
		})
	}
}

func TestHandshakeCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := errors.New("server stops")
		for _, after := range []time.Duration{10 * time.Second, 32 * time.Second} { // while asking, while pausing
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(after, func() { cancel(stopped) })
			begin := time.Now()
			_, err := piped(t, func(_ int, _ *http.Request, c net.Conn) { hang(c) }).Validate(ctx, validation(event.EventGridSchema, "http://hooks.example.org"))
			if took := time.Since(begin); took != after {
				t.Errorf("took %v, want %v", took, after)
			}
			if _, ok := errors.AsType[*fault.Error](err); ok || !errors.Is(err, stopped) {
				t.Errorf("error %v, want the cause", err)
			}
			synctest.Wait()
		}
	})
}

var (
	anyGUID = regexp.MustCompile(`"id":"[0-9a-f-]{36}"`)
	anyTime = regexp.MustCompile(`"eventTime":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z"`)
)

func TestHandshakeBytes(t *testing.T) {
	for name, schema := range map[string]event.Schema{
		"handshake_eventgrid": event.EventGridSchema, "handshake_custom": event.CustomEventSchema, "handshake_cloudevents": event.CloudEventSchemaV1_0,
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			url := strings.TrimSuffix(rawServer(t, func(_ int, c net.Conn) {
				raw, err := readRequest(c)
				if err != nil {
					t.Error(err)
				}
				got <- raw
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 61\r\n\r\n{\"validationResponse\":\"%s\"}", testCode)
			}), "/in?code=s3cret")
			result, err := NewHandshaker(loopback, nil).Validate(t.Context(), validation(schema, url))
			if err != nil || !result.Validated {
				t.Fatalf("%+v, %v", result, err)
			}
			raw := strings.ReplaceAll(<-got, strings.TrimPrefix(url, "http://"), "hooks.example.org")
			if body := raw[strings.Index(raw, "\r\n\r\n")+4:]; schema != event.CloudEventSchemaV1_0 && !json.Valid([]byte(body)) {
				t.Errorf("body is not JSON: %s", body)
			}
			raw = anyGUID.ReplaceAllString(raw, `"id":"GUID"`)
			raw = anyTime.ReplaceAllString(raw, `"eventTime":"TIME"`)
			golden(t, name+".http", "spec/delivery.md sections 1.2 and 1.4", raw)
		})
	}
}

func FuzzValidationResponse(f *testing.F) {
	f.Add(`{"validationResponse":"x"}`)
	f.Add(`[{"validationResponse":"x"}]`)
	f.Add(`{"ValidationResponse":"x"}`)
	f.Fuzz(func(t *testing.T, body string) {
		code, hint := validationResponse([]byte(body))
		if code != "" && (hint != "" || !json.Valid([]byte(body)) || strings.HasPrefix(strings.TrimSpace(body), "[")) {
			t.Errorf("%q: code %q, hint %q", body, code, hint)
		}
	})
}
