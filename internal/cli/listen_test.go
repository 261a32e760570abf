package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startListen runs "carillon listen" with more arguments and returns the URL that
// its first line tells, its later lines, and a stop that returns the exit code.
func startListen(t *testing.T, env map[string]string, args ...string) (url string, lines <-chan []byte, stop func() int) {
	t.Helper()
	return startListenTelling(t, env, io.Discard, args...)
}

// startListenTelling is startListen where it matters what is told beside the events.
func startListenTelling(t *testing.T, env map[string]string, stderr io.Writer, args ...string) (url string, lines <-chan []byte, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, append([]string{"listen"}, args...), strings.NewReader(""), in, stderr, func(k string) string { return env[k] })
		_ = in.Close()
	}()
	lines = goRead(bufio.NewReader(out))
	stop = func() int {
		cancel()
		return <-code
	}
	t.Cleanup(cancel)
	first := <-lines
	if url = text(first, "listening"); url == "" {
		t.Fatalf("the first line is %q, not the address", first)
	}
	return url, lines, stop
}

// A terminal that closes ends a command as Ctrl-C does: what it made is removed.
func TestListenEndsWithItsTerminal(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("started with nohup: a terminal that closes ends nothing")
	}
	_, lines, stop := startListen(t, nil, "-o", "json")
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for line := range lines { // until it has ended
		t.Errorf("printed %s", line)
	}
	if code := stop(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

func exchange(t *testing.T, method, url, body string, header map[string]string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

const delivered = `[{"id":"e-1","topic":"/subscriptions/s/x","subject":"models/churn:3","eventType":"Microsoft.MachineLearningServices.ModelRegistered","eventTime":"2026-03-01T10:00:00Z","data":{"modelName":"churn","n":12.50},"dataVersion":"2","metadataVersion":"1"}]`

// Source: spec/delivery.md section 1.2.
func TestListenAnswersTheValidationEvent(t *testing.T) {
	url, lines, stop := startListen(t, nil, "-o", "json", "--status", "503")
	const asks = `[{"id":"1","topic":"/t","subject":"","data":{"validationCode":"7F1C","validationUrl":"https://x"},
		"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","eventTime":"2026-03-01T10:00:00.1234567Z","metadataVersion":"1","dataVersion":"2"}]`
	for _, header := range []map[string]string{{"aeg-event-type": "SubscriptionValidation", "aeg-subscription-name": "ONE"}, {"aeg-subscription-name": "ONE"}} {
		resp := exchange(t, http.MethodPost, url, asks, header)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK || text(body, "validationResponse") != "7F1C" {
			t.Errorf("%v: answer %d %s, want 200 with the code; --status is for deliveries only", header, resp.StatusCode, body)
		}
		if line := <-lines; text(line, "handshake") != "SubscriptionValidation" || text(line, "detail") != "event subscription ONE" {
			t.Errorf("%v: line is %s", header, line)
		}
	}
	// One that is delivered was published by somebody.
	if resp := exchange(t, http.MethodPost, url, asks, map[string]string{"aeg-event-type": "Notification"}); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a delivery is answered %d", resp.StatusCode)
	}
	if line := <-lines; text(line, "handshake") != "" || !strings.Contains(string(line), "validationCode") {
		t.Errorf("line is %s", line)
	}
	if code := stop(); code != exitDone {
		t.Errorf("exit code %d after the end of the context", code)
	}
}

// goRead reads lines while the test goes on.
func goRead(lines *bufio.Reader) <-chan []byte {
	out := make(chan []byte, 16)
	go func() {
		defer close(out)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			out <- line
		}
	}()
	return out
}

// Source: spec/delivery.md section 1.4.
func TestListenConsentsToOptions(t *testing.T) {
	url, lines, _ := startListen(t, nil, "-o", "json")
	resp := exchange(t, http.MethodOptions, url, "", map[string]string{"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "120"})
	if resp.StatusCode != http.StatusOK || resp.Header.Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" ||
		resp.Header.Get("WebHook-Allowed-Rate") != "*" || !strings.Contains(resp.Header.Get("Allow"), "POST") {
		t.Errorf("answer %d %v", resp.StatusCode, resp.Header)
	}
	if line := <-lines; text(line, "handshake") != "CloudEvents OPTIONS" {
		t.Errorf("line is %s", line)
	}
	if plain := exchange(t, http.MethodOptions, url, "", nil); plain.Header.Get("WebHook-Allowed-Origin") != "" {
		t.Error("an OPTIONS request without an origin got consent")
	}
}

func TestListenPrintsDeliveries(t *testing.T) {
	for _, test := range []struct {
		name, body string
		header     map[string]string
		status     string
		want       []string // one line each, without receivedTime
	}{
		{"Event Grid schema", delivered, map[string]string{"aeg-event-type": "Notification", "aeg-subscription-name": "ONE", "aeg-delivery-count": "0", "Content-Type": "application/json; charset=utf-8", "X-Other": "left out"}, "200", []string{
			`{"event":` + delivered[1:len(delivered)-1] + `,"headers":{"aeg-delivery-count":"0","aeg-event-type":"Notification","aeg-subscription-name":"ONE","content-type":"application/json; charset=utf-8"}}`}},
		{"CloudEvents object", `{"specversion":"1.0","id":"1","type":"t","source":"/s"}`, map[string]string{"Content-Type": "application/cloudevents+json; charset=utf-8"}, "503", []string{
			`{"event":{"specversion":"1.0","id":"1","type":"t","source":"/s"},"headers":{"content-type":"application/cloudevents+json; charset=utf-8"}}`}},
		{"batch", `[{"id":"1"},{"id":"2"}]`, nil, "200", []string{`{"event":{"id":"1"},"headers":{}}`, `{"event":{"id":"2"},"headers":{}}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			url, lines, _ := startListen(t, nil, "-o", "json", "--path", "/hooks", "--status", test.status)
			resp := exchange(t, http.MethodPost, url, test.body, test.header)
			if got := resp.Status[:3]; got != test.status {
				t.Errorf("answered %s, want %s", got, test.status)
			}
			for _, want := range test.want {
				line := <-lines
				var members map[string]json.RawMessage
				if err := json.Unmarshal(line, &members); err != nil {
					t.Fatalf("line %s: %v", line, err)
				}
				if _, err := time.Parse(time.RFC3339Nano, text(line, "receivedTime")); err != nil {
					t.Errorf("receivedTime of %s: %v", line, err)
				}
				delete(members, "receivedTime")
				got, _ := encodeJSON(members)
				if string(got) != want {
					t.Errorf("line\n got %s\nwant %s", got, want)
				}
			}
			if wrong := exchange(t, http.MethodPost, strings.TrimSuffix(url, "hooks")+"elsewhere", test.body, nil); wrong.StatusCode != http.StatusNotFound {
				t.Errorf("another path was answered %s", wrong.Status)
			}
		})
	}
}

func TestListenRefusesWhatIsNoDelivery(t *testing.T) {
	url, _, _ := startListen(t, nil, "-o", "json")
	for _, test := range []struct {
		name, method, body string
		status             int
	}{
		{"not JSON", http.MethodPost, "hello", http.StatusBadRequest},
		{"empty", http.MethodPost, "", http.StatusBadRequest},
		{"put", http.MethodPut, "{}", http.StatusMethodNotAllowed},
		{"get", http.MethodGet, "", http.StatusOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			if resp := exchange(t, test.method, url, test.body, nil); resp.StatusCode != test.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, test.status)
			}
		})
	}
}

// TestListenSubscribesItself: listen makes its event subscription and removes it at the
// end, unless it leads elsewhere or is another one by then, or is to be kept. One that is
// there already it joins where its events come to listen anyway, and never changes.
func TestListenSubscribesItself(t *testing.T) {
	const path = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/churn/providers/Microsoft.EventGrid/eventSubscriptions/mine"
	filter := []string{"--included-event-types", "A", "B"}
	listening, gone := httptest.NewServer(http.NotFoundHandler()), httptest.NewServer(http.NotFoundHandler())
	defer listening.Close()
	gone.Close()
	deserted := gone.URL + "/"
	for _, test := range []struct {
		name    string
		before  string // where it led before; "here" is to listen, "" that it was not there
		label   string // that it had before
		moved   bool   // it leads elsewhere at the end
		anew    bool   // it is another one at the end
		refused bool   // it cannot be made
		args    []string
		code    int
		put     bool
		gone    bool
	}{
		{name: "its own", args: filter, put: true, gone: true},
		{name: "leads elsewhere", args: filter, moved: true, put: true},
		{name: "made by another", args: filter, anew: true, put: true},
		{name: "kept", args: append(filter, "--keep"), put: true},
		{name: "not made", args: filter, refused: true, put: true, code: exitFailed},
		{name: "there before", before: "http://elsewhere/", args: filter, code: exitFailed},
		{name: "there before, no filter", before: "http://elsewhere/", code: exitFailed},
		{name: "left by one that was killed", before: deserted, label: listenLabel + "0", args: filter, put: true, gone: true},
		{name: "left at this address", before: "here", label: listenLabel + "0", args: filter, put: true, gone: true},
		{name: "of one that listens", before: listening.URL + "/", label: listenLabel + "0", args: filter, code: exitFailed},
		{name: "of one elsewhere", before: "http://elsewhere:9/", label: listenLabel + "0", args: filter, code: exitFailed},
		{name: "not of a listener", before: deserted, label: "mine", args: filter, code: exitFailed},
		{name: "joined", before: "here"},
		{name: "joined with another filter", before: "here", args: filter, code: exitFailed},
		{name: "joined with another schema", before: "here", args: []string{"--event-delivery-schema", "CloudEventSchemaV1_0"}, code: exitFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			put, deleted := make(chan string, 1), make(chan string, 1)
			known := make(chan struct{}) // closed when the test knows where listen listens
			var here string
			var mu sync.Mutex
			made := ""
			fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				<-known
				mu.Lock()
				defer mu.Unlock()
				endpoint, created, label := test.before, "2026-03-01T10:00:00Z", test.label
				switch {
				case r.Method == http.MethodDelete:
					deleted <- r.URL.Path + " " + r.Header.Get("If-Match")
					w.WriteHeader(http.StatusNoContent)
					return
				case r.Method == http.MethodPut && test.refused:
					put <- r.Header.Get("If-None-Match") + " " + r.URL.Path + " " + string(body)
					w.WriteHeader(http.StatusForbidden)
					_, _ = io.WriteString(w, `{"error":{"code":"AuthorizationFailed","message":"It may not."}}`)
					return
				case r.Method == http.MethodPut:
					put <- r.Header.Get("If-None-Match") + r.Header.Get("If-Match") + " " + r.URL.Path + " " + string(body)
					made = text(body, "properties.destination.properties.endpointUrl")
					endpoint = made
					w.WriteHeader(http.StatusCreated)
				case made != "" && test.moved:
					endpoint = "http://elsewhere/"
				case made != "" && test.anew:
					endpoint, created = made, "2026-03-01T10:00:01Z"
				case made != "":
					endpoint = made
				case test.before == "here":
					endpoint = here
				case test.before == "":
					w.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(w, `{"error":{"code":"ResourceNotFound","message":"It is not there."}}`)
					return
				}
				fmt.Fprintf(w, `{"etag":"7","systemData":{"createdAt":%q},"properties":{"provisioningState":"Succeeded","labels":[%q],"destination":{"properties":{"endpointBaseUrl":%q}}}}`, created, label, endpoint)
			}))
			defer fake.Close()
			out, in := io.Pipe()
			defer in.Close()
			url, lines, stop := startListenTelling(t, map[string]string{"CARILLON_URL": fake.URL, "CARILLON_TOKEN": "t", "CARILLON_WORKSPACE": "churn"}, in,
				append([]string{"-o=json", "--subscribe", "mine"}, test.args...)...)
			here = url
			close(known)
			told, _ := bufio.NewReader(out).ReadString('\n') // it has its event subscription, or not
			go func() { _, _ = io.Copy(io.Discard, out) }()
			if !strings.Contains(told, "event subscription mine") && test.code == exitDone ||
				strings.Contains(told, "goes by itself when none has run for 2 hours") != (test.label != "" && test.label != "mine" && !test.put) {
				t.Errorf("told %q", told)
			}
			if test.put {
				lease := regexp.MustCompile(`,"expirationTimeUtc":"([^"]*)"(.*),"labels":\["` + listenLabel + `[0-9a-f]{8}"\]`)
				etag := "* "
				if test.label != "" {
					etag = `"7" `
				}
				want := etag + path + ` {"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"` + url + `"}},"eventDeliverySchema":"EventGridSchema","filter":{"includedEventTypes":["A","B"]}}}`
				got := <-put
				leased := lease.FindStringSubmatch(got)
				if (leased == nil) != slices.Contains(test.args, "--keep") {
					t.Errorf("subscribed for good or not: %s", got)
				}
				if leased != nil {
					if ends, err := time.Parse(time.RFC3339, leased[1]); err != nil || time.Until(ends) > listenLease || time.Until(ends) < listenLease-time.Minute {
						t.Errorf("it ends at %s", leased[1])
					}
				}
				if got = lease.ReplaceAllString(got, "$2"); got != want {
					t.Errorf("subscribed with\n got %s\nwant %s", got, want)
				}
			}
			if test.code != exitDone {
				for range lines { // until it ends by itself
				}
			}
			if code := stop(); code != test.code {
				t.Errorf("exit %d, want %d", code, test.code)
			}
			select {
			case got := <-deleted:
				if !test.gone || got != path+` "7"` {
					t.Errorf("deleted %s", got)
				}
			case got := <-put:
				t.Errorf("put %s", got)
			default:
				if test.gone {
					t.Error("it was left behind")
				}
			}
		})
	}
}

func TestPrintEvent(t *testing.T) {
	at := time.Date(2026, 3, 1, 10, 0, 1, 250e6, time.UTC)
	for _, test := range []struct {
		name, raw string
		paint     paint
		want      string
	}{
		{"plain", delivered[1 : len(delivered)-1], false, `10:00:01.250  Microsoft.MachineLearningServices.ModelRegistered
  subject  models/churn:3
  id       e-1
  time     2026-03-01T10:00:00Z
  topic    /subscriptions/s/x
  delivery for ONE, attempt 1
  data     {
             "modelName": "churn",
             "n": 12.50
           }
`},
		{"coloured", `{"specversion":"1.0","type":"t","data":1}`, true, "\x1b[2m10:00:01.250\x1b[0m  \x1b[1;32mt\x1b[0m\n  \x1b[2mdelivery\x1b[0m for ONE, attempt 1\n  \x1b[2mdata    \x1b[0m 1\n"},
		{"control characters", "{\"specversion\":\"1.0\",\"type\":\"a\\u001b[2Jb\",\"data\":\"c\u009bd\"}", false, "10:00:01.250  a?[2Jb\n  delivery for ONE, attempt 1\n  data     \"c?d\"\n"},
		{"custom input", `{"type":"t","id":7,"data":{"n":12.50}}`, false, `10:00:01.250  (custom input)
  delivery for ONE, attempt 1
  object   {
             "type": "t",
             "id": 7,
             "data": {
               "n": 12.50
             }
           }
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			printEvent(&b, test.paint, at, json.RawMessage(test.raw), "for ONE", "attempt 1")
			if b.String() != test.want {
				t.Errorf("got\n%q\nwant\n%q", b.String(), test.want)
			}
		})
	}
}
