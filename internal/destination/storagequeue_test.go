package destination

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/internal/broker"
)

// queueServer answers as the queue service does. The real one's stand-in, Azurite, runs
// in interop. Source: spec/handlers.md section 8.
type queueServer struct {
	*httptest.Server
	mu       sync.Mutex
	messages []string
	lives    map[string]int // by messagettl
}

func newQueueServer(t *testing.T) *queueServer {
	s := &queueServer{lives: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, code string) {
			w.Header().Set("x-ms-error-code", code)
			w.WriteHeader(status)
			fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, suiteSecret)
		}
		queue, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		switch {
		case queue == "missing":
			refuse(http.StatusNotFound, "QueueNotFound")
		case queue == "forbidden":
			refuse(http.StatusForbidden, "AuthorizationFailure")
		case queue == "unknown-key":
			refuse(http.StatusUnauthorized, "InvalidAuthenticationInfo")
		case queue == "busy":
			refuse(http.StatusServiceUnavailable, "ServerBusy")
		case r.Method == http.MethodGet:
			w.WriteHeader(http.StatusOK)
		case rest != "messages" || r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Authorization"), "SharedKey acct:"):
			refuse(http.StatusBadRequest, "InvalidRequest")
		default:
			raw, _ := io.ReadAll(r.Body)
			var m struct{ MessageText string }
			if err := xml.Unmarshal(raw, &m); err != nil {
				refuse(http.StatusBadRequest, "InvalidXmlDocument")
				return
			}
			if len(m.MessageText) > 64<<10 {
				refuse(http.StatusRequestEntityTooLarge, "RequestBodyTooLarge")
				return
			}
			s.mu.Lock()
			s.messages = append(s.messages, m.MessageText)
			s.lives[r.URL.Query().Get("messagettl")]++
			s.mu.Unlock()
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `<?xml version="1.0" encoding="utf-8"?><QueueMessagesList/>`)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func queueConnections(t *testing.T, url string) *Connections {
	t.Helper()
	text := "DefaultEndpointsProtocol=http;AccountName=acct;AccountKey=" + base64.StdEncoding.EncodeToString([]byte(suiteSecret)) + ";QueueEndpoint=" + url + ";"
	c := connectionsTo(t, account("acct"), text)
	return c
}

func TestStorageQueue(t *testing.T) {
	srv := newQueueServer(t)
	values := map[string]any{"resourceId": account("acct").String(), "queueName": "ml-events", "queueMessageTimeToLiveInSeconds": 3600}
	testTarget(t, "StorageQueue", queueConnections(t, srv.URL), counterpart{
		values: values,
		at: func(t *testing.T, address string) (map[string]any, *Connections) {
			return values, queueConnections(t, "http://"+address)
		},
		received: func(t *testing.T, n int) (out []arrived) {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			for _, m := range srv.messages {
				body, err := base64.StdEncoding.DecodeString(m)
				if err != nil {
					t.Error(err)
				}
				out = append(out, arrived{body: string(body)})
			}
			if srv.lives["3600"] != n {
				t.Errorf("lives %v", srv.lives)
			}
			return out
		},
		cases: []counterCase{
			{name: "no queue", values: with(values, "queueName", "missing"), want: broker.NotFound, again: true, probed: "no queue missing"},
			{name: "forbidden", values: with(values, "queueName", "forbidden"), want: broker.Forbidden},
			{name: "unknown key", values: with(values, "queueName", "unknown-key"), want: broker.Unauthorized, again: true, probed: "401"},
			{name: "busy", values: with(values, "queueName", "busy"), want: broker.Busy, again: true, probed: "503"},
			{name: "too large", body: `"` + strings.Repeat("x", 49<<10) + `"`, want: broker.PayloadTooLarge},
		},
	})
	t.Run("settings", func(t *testing.T) {
		c := queueConnections(t, srv.URL)
		for _, tt := range []struct {
			values map[string]any
			want   string
		}{
			{with(values, "queueName", "Upper"), "Upper"},
			{with(values, "queueName", "ab"), "3 to 63"},
			{with(values, "queueName", "a--b"), "single hyphens"},
			{with(values, "queueMessageTimeToLiveInSeconds", 0), "0 seconds"},
			{with(values, "resourceId", account("other").String()), "no connection"},
		} {
			err := checkOf("StorageQueue", tt.values, c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: %v, want %q", tt.values, err, tt.want)
			}
		}
	})
}
