package destination

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/manage"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

var loopback = egress.New(egress.Options{AllowLoopback: true})

func newWebhook(t testing.TB, c WebhookConfig) *Webhook {
	t.Helper()
	if c.Guard == nil {
		c.Guard = loopback
	}
	if c.Name == "" {
		c.Name = "model-registered"
	}
	if c.Schema == 0 {
		c.Schema = event.EventGridSchema
	}
	w, err := NewWebhook(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func request() *broker.Request {
	return &broker.Request{
		Body:        []byte(`[{"id":"1"}]`),
		ContentType: "application/json; charset=utf-8",
		Single:      &broker.SingleEvent{OutputID: "0f5b1c9a", DataVersion: "2", MetadataVersion: "1"},
		Hold:        10 * time.Second,
	}
}

// rawServer runs serve on each accepted connection, the first being number 1, and
// closes the connection after it.
func rawServer(t *testing.T, serve func(number int, c net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(n, c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "http://" + l.Addr().String() + "/in?code=s3cret"
}

// readRequest reads one request from c and returns its bytes.
func readRequest(c io.Reader) (string, error) {
	var raw bytes.Buffer
	r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &raw)))
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return raw.String(), err
}

// Source: spec/delivery.md sections 3.1 and 3.4.
func TestOutcomeOfEveryStatus(t *testing.T) {
	special := map[int]broker.Outcome{
		200: broker.Delivered, 201: broker.Delivered, 202: broker.Delivered, 203: broker.Delivered, 204: broker.Delivered,
		400: broker.BadRequest, 401: broker.Unauthorized, 403: broker.Forbidden, 404: broker.NotFound, 408: broker.TimedOut,
		410: broker.NotFound, 413: broker.PayloadTooLarge, 429: broker.Busy, 503: broker.Busy,
	}
	for status := 100; status < 600; status++ {
		want, ok := special[status]
		if !ok {
			want = broker.GenericError
		}
		if got := OutcomeOf(status); got != want {
			t.Errorf("%d: %v, want %v", status, got, want)
		}
	}
}

func TestAnswers(t *testing.T) {
	big := strings.Repeat("x", mostAnswer+1)
	tests := []struct {
		name, answer string
		outcome      broker.Outcome
		status       int
		retryAfter   time.Duration
		detail       string
		kept         bool
	}{
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", broker.Delivered, 200, 0, "", true},
		{"200 chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", broker.Delivered, 200, 0, "", true},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", broker.Delivered, 204, 0, "", true},
		{"203", "HTTP/1.1 203 Non-Authoritative Information\r\nContent-Length: 0\r\n\r\n", broker.Delivered, 203, 0, "", true},
		{"205", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", broker.GenericError, 205, 0, "the handler answered 205 Reset Content", true},
		{"206", "HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n", broker.GenericError, 206, 0, "the handler answered 206 Partial Content", true},
		{"302", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/s3cret\r\nContent-Length: 0\r\n\r\n", broker.GenericError, 302, 0, "the handler answered 302 Found: redirects are not followed", true},
		{"unknown status", "HTTP/1.1 599 s3cret\r\nContent-Length: 0\r\n\r\n", broker.GenericError, 599, 0, "the handler answered 599", true},
		{"429 in seconds", "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n", broker.Busy, 429, 17 * time.Second, "the handler answered 429 Too Many Requests", true},
		{"503 without", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", broker.Busy, 503, 0, "the handler answered 503 Service Unavailable", true},
		{"500 with Retry-After", "HTTP/1.1 500 Internal Server Error\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n", broker.GenericError, 500, 0, "the handler answered 500 Internal Server Error", true},
		{"body in the detail", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\ns3cret", broker.GenericError, 500, 0, "the handler answered 500 Internal Server Error", true},
		{"closing", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", broker.Delivered, 200, 0, "", false},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", broker.Delivered, 200, 0, "", false},
		{"up to the end", "HTTP/1.1 200 OK\r\n\r\nok", broker.Delivered, 200, 0, "", false},
		{"long body", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big), broker.Delivered, 200, 0, "", false},
		{"long chunked body", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), broker.Delivered, 200, 0, "", false},
		{"body that fits", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", mostAnswer, big[:mostAnswer]), broker.Delivered, 200, 0, "", true},
		{"cut in the body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", broker.Delivered, 200, 0, "", false},
		{"more than the body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\n\r\n", broker.Delivered, 200, 0, "", false},
		{"early hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", broker.Delivered, 200, 0, "", true},
		{"endless hints", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20), broker.GenericError, 0, 0, "the answer is not HTTP/1.1, or its head is longer than 16 KiB", false},
		{"101", "HTTP/1.1 101 Switching Protocols\r\n\r\n", broker.GenericError, 101, 0, "the handler answered 101 Switching Protocols", false},
		{"long head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead) + "\r\nContent-Length: 0\r\n\r\n", broker.GenericError, 0, 0, "the answer is not HTTP/1.1, or its head is longer than 16 KiB", false},
		{"not HTTP", "s3cret s3cret s3cret\r\n\r\n", broker.GenericError, 0, 0, "the answer is not HTTP/1.1, or its head is longer than 16 KiB", false},
		{"nothing", "", broker.SocketError, 0, 0, "the connection was closed without an answer", false},
		{"cut in the head", "HTTP/1.1 200 OK\r\nContent-Le", broker.SocketError, 0, 0, "the connection was closed without an answer", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kept := make(chan bool, 1)
			w := newWebhook(t, WebhookConfig{URL: rawServer(t, func(_ int, c net.Conn) {
				if _, err := readRequest(c); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(c, tt.answer)
				if !tt.kept {
					_ = c.(*net.TCPConn).CloseWrite()
				}
				<-kept
			})})
			got := w.Send(t.Context(), request())
			want := broker.Response{Outcome: tt.outcome, Status: tt.status, RetryAfter: tt.retryAfter, Detail: tt.detail}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			w.idle.mu.Lock()
			if idle := len(w.idle.idle); (idle == 1) != tt.kept {
				t.Errorf("%d connections kept, want kept %t", idle, tt.kept)
			}
			w.idle.mu.Unlock()
			kept <- true
		})
	}
}

// Source: spec/delivery.md section 4.3.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		" 120 ":                          2 * time.Minute,
		"-5":                             0,
		"1.5":                            0,
		"soon":                           0,
		"99999999999":                    maxRetryAfter,
		"99999999999999999999999":        0,
		"Sun, 01 Mar 2026 10:00:30 GMT":  30 * time.Second,
		"Sun, 01 Mar 2026 09:59:30 GMT":  0,
		"Sun, 01 Mar 2027 10:00:30 GMT":  maxRetryAfter,
		"Sunday, 01-Mar-26 10:00:30 GMT": 30 * time.Second,
	} {
		if got := RetryAfter([]byte(value), now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestConnectionIsKept(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", secure), func(t *testing.T) {
			var connections, requests atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				requests.Add(1)
				_, _ = w.Write(body)
			}))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					connections.Add(1)
				}
			}
			guard := loopback
			if secure {
				srv.StartTLS()
				roots := x509.NewCertPool()
				roots.AddCert(srv.Certificate())
				guard = egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})
			} else {
				srv.Start()
			}
			defer srv.Close()
			w := newWebhook(t, WebhookConfig{URL: srv.URL + "/in?code=s3cret", Guard: guard})
			r := request()
			for _, size := range []int{0, 1, 511, 512, 513, 20_000, 200_000} {
				r.Body = bytes.Repeat([]byte("x"), size)
				if got := w.Send(t.Context(), r); got.Outcome != broker.Delivered {
					t.Fatalf("%d bytes: %+v", size, got)
				}
			}
			// The last answer was longer than we read, so its connection was closed.
			if connections.Load() != 1 || requests.Load() != 7 {
				t.Errorf("%d requests over %d connections, want 7 over 1", requests.Load(), connections.Load())
			}
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					for range 20 {
						if got := w.Send(t.Context(), request()); got.Outcome != broker.Delivered {
							t.Errorf("%+v", got)
						}
					}
				})
			}
			wg.Wait()
			if n := connections.Load(); n > 17 {
				t.Errorf("16 attempts at a time made %d connections", n-1)
			}
		})
	}
}

// TestSharedConnections holds who delivers over whose connections, and that nobody's end
// takes those of the others along.
func TestSharedConnections(t *testing.T) {
	connections := map[net.Conn]bool{}
	var mu sync.Mutex
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch s {
		case http.StateNew:
			connections[c] = true
		case http.StateClosed:
			delete(connections, c)
		}
	}
	srv.Start()
	defer srv.Close()
	open := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(connections)
	}
	become := func(want int) {
		t.Helper()
		for ends := time.Now().Add(time.Minute); open() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(ends) {
				t.Fatalf("%d connections, want %d", open(), want)
			}
		}
	}
	pools := NewPools(nil)
	send := func(ctx context.Context, w *Webhook) {
		t.Helper()
		if got := w.Send(ctx, request()); got.Outcome != broker.Delivered {
			t.Fatalf("%+v", got)
		}
	}
	a := newWebhook(t, WebhookConfig{URL: srv.URL + "/a", Pools: pools})
	b := newWebhook(t, WebhookConfig{URL: srv.URL + "/b", Pools: pools})
	alone := newWebhook(t, WebhookConfig{URL: srv.URL + "/c"})
	ofA, deleteA := context.WithCancel(t.Context())
	for range 3 {
		send(ofA, a)
		send(t.Context(), b)
		send(t.Context(), alone)
	}
	if n := open(); n != 2 {
		t.Errorf("%d connections of two event subscriptions that share and one that does not", n)
	}
	send(ofA, a)
	deleteA() // it used the connection last
	become(1)
	a.Close()
	a.Close() // does not count twice
	for range 3 {
		send(t.Context(), b)
	}
	if n := open(); n != 2 {
		t.Errorf("%d connections after the end of one", n)
	}
	late := newWebhook(t, WebhookConfig{URL: srv.URL + "/d", Pools: pools})
	b.Close()
	send(t.Context(), late)
	if n := open(); n != 2 {
		t.Errorf("%d connections of the one that is left and the one alone", n)
	}
	late.Close()
	become(1)
	if len(pools.byServer) != 0 {
		t.Errorf("left: %v", pools.byServer)
	}
	w := newWebhook(t, WebhookConfig{URL: srv.URL + "/e", Pools: pools})
	send(t.Context(), w)
	cert := manage.Credentials{Certificate: new(tls.Certificate)}
	cert.Certificate.Leaf = new(x509.Certificate)
	for _, c := range []WebhookConfig{
		{URL: srv.URL, Pools: pools, Credentials: cert},
		{URL: strings.Replace(srv.URL, "http:", "https:", 1), Pools: pools},
		{URL: strings.Replace(srv.URL, "127.0.0.1", "localhost", 1), Pools: pools},
	} {
		if other := newWebhook(t, c); other.idle == w.idle {
			t.Errorf("%+v shares connections", c)
		}
	}
}

// A kept connection that the receiver closed meanwhile is replaced, once and
// within the attempt; a new one that fails is a failed attempt. Decision 32.
func TestStaleConnection(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	tests := []struct {
		name        string
		second      func(number int, c net.Conn) // what connections do after their first answer, or from the third on
		outcome     broker.Outcome
		connections int32
	}{
		{"closed while idle", nil, broker.Delivered, 2},
		{"closed after it read the request", func(n int, c net.Conn) {
			if n == 1 {
				_, _ = readRequest(c)
			}
		}, broker.Delivered, 2},
		{"fails after its first byte", func(n int, c net.Conn) {
			if n == 1 {
				_, _ = readRequest(c)
				_, _ = io.WriteString(c, "H")
			}
		}, broker.SocketError, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var connections atomic.Int32
			closed := make(chan struct{})
			w := newWebhook(t, WebhookConfig{URL: rawServer(t, func(n int, c net.Conn) {
				connections.Store(int32(n))
				if _, err := readRequest(c); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(c, ok)
				if n == 1 {
					if tt.second != nil {
						tt.second(n, c)
					} else {
						_ = c.Close()
						close(closed)
					}
				}
			})})
			if got := w.Send(t.Context(), request()); got.Outcome != broker.Delivered {
				t.Fatalf("first: %+v", got)
			}
			if tt.second == nil {
				<-closed
			}
			if got := w.Send(t.Context(), request()); got.Outcome != tt.outcome {
				t.Errorf("second: %+v, want %v", got, tt.outcome)
			}
			if n := connections.Load(); n != tt.connections {
				t.Errorf("%d connections, want %d", n, tt.connections)
			}
		})
	}
	t.Run("a new connection is no second chance", func(t *testing.T) {
		var connections atomic.Int32
		w := newWebhook(t, WebhookConfig{URL: rawServer(t, func(n int, c net.Conn) {
			connections.Store(int32(n))
			_, _ = readRequest(c)
		})})
		if got := w.Send(t.Context(), request()); got.Outcome != broker.SocketError {
			t.Errorf("%+v", got)
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

// TestUnaskedBytes holds that what a receiver sends behind its answer is never taken for the
// answer to another request, of whichever event subscription.
func TestUnaskedBytes(t *testing.T) {
	const taken = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	tests := []struct{ name, answer, behind string }{
		{"a second answer", taken, taken},
		{"the body of a 204", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", "ok"},
		{"more than the Content-Length", taken, "ok"},
	}
	for _, tt := range tests {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %t", tt.name, secure), func(t *testing.T) {
				sent := make(chan struct{})
				var connections atomic.Int32
				serve := func(n int, c net.Conn) {
					for n > 1 {
						if _, err := readRequest(c); err != nil {
							return
						}
						connections.Store(int32(n))
						_, _ = io.WriteString(c, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
					}
					if _, err := readRequest(c); err != nil {
						t.Error(err)
					}
					_, _ = io.WriteString(c, tt.answer)
					<-sent
					_, _ = io.WriteString(c, tt.behind)
					sent <- struct{}{}
					_, _ = io.Copy(io.Discard, c)
				}
				guard := loopback
				url := rawServer(t, serve)
				if secure {
					url, guard = rawTLSServer(t, serve)
				}
				var distrusted []string
				pools := NewPools(func(server string) { distrusted = append(distrusted, server) })
				first := newWebhook(t, WebhookConfig{URL: url, Guard: guard, Pools: pools})
				second := newWebhook(t, WebhookConfig{URL: url, Guard: guard, Pools: pools})
				if got := first.Send(t.Context(), request()); got.Outcome != broker.Delivered {
					t.Fatalf("first: %+v", got)
				}
				sent <- struct{}{}
				<-sent
				for first.idle.waits() {
					time.Sleep(time.Millisecond)
				}
				for want := int32(2); want <= 3; want++ { // none is kept any more
					if got := second.Send(t.Context(), request()); got.Status != http.StatusInternalServerError || connections.Load() != want {
						t.Errorf("second: %+v over connection %d, want what it was answered over connection %d", got, connections.Load(), want)
					}
				}
				if server, _, _ := strings.Cut(url, "/in"); !slices.Equal(distrusted, []string{server}) {
					t.Errorf("distrusted %q, want %s", distrusted, server)
				}
			})
		}
	}
}

// waits reports whether nothing came yet on the connection that is taken next.
func (p *pool) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle) > 0 && p.idle[len(p.idle)-1].silent()
}

// rawTLSServer is rawServer with TLS, and a guard that trusts it.
func rawTLSServer(t *testing.T, serve func(number int, c net.Conn)) (string, *egress.Guard) {
	t.Helper()
	known := httptest.NewTLSServer(nil) // for its certificate
	defer known.Close()
	roots := x509.NewCertPool()
	roots.AddCert(known.Certificate())
	url := rawServer(t, func(n int, c net.Conn) {
		secured := tls.Server(c, &tls.Config{Certificates: known.TLS.Certificates})
		defer secured.Close()
		serve(n, secured)
	})
	return strings.Replace(url, "http:", "https:", 1), egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})
}

// source is the body of a request, and how often it was made.
type source struct {
	body string
	made int
}

func (s *source) Encode(_ *broker.Request, dst []byte) ([]byte, error) {
	s.made++
	return append(dst, s.body...), nil
}

// TestBodyIsMadeLate holds that an attempt has its body only while it is written: not
// while it waits for a bearer token, a connection or an answer.
func TestBodyIsMadeLate(t *testing.T) {
	hang := make(chan struct{})
	var bodies, arrive atomic.Value // arrive is called when the body is here
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies.Store(string(body))
		switch {
		case r.Header.Get("Authorization") == "Bearer old":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("aeg-delivery-count") == "0":
			arrive.Load().(context.CancelFunc)()
			<-hang
		}
	}))
	defer srv.Close()
	defer close(hang)
	silent := rawServer(t, func(int, net.Conn) { <-hang })
	old := &heldToken{text: "old", expires: time.Now().Add(time.Hour), renew: time.Now().Add(time.Hour)}
	for _, tt := range []struct {
		name   string
		url    string
		before func(*testing.T, *Webhook)
		made   int
		want   broker.Outcome
	}{
		{"answer on a new connection", srv.URL, nil, 1, broker.Canceled},
		{"answer on one that may be stale", srv.URL, func(t *testing.T, w *Webhook) {
			r := request()
			r.Count = 1
			if got := w.Send(t.Context(), r); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
		}, 1, broker.Canceled},
		{"TLS handshake", strings.Replace(silent, "http:", "https:", 1), nil, 0, broker.SocketError},
		{"token", srv.URL, func(_ *testing.T, w *Webhook) {
			w.token, w.tokens = &wanted, tokensOf(&issuer{takes: time.Hour})
			w.tokens.client.Timeout = 50 * time.Millisecond
		}, 0, broker.TimedOut},
		{"refused token", srv.URL, func(_ *testing.T, w *Webhook) {
			w.token, w.tokens = &wanted, tokensOf(&issuer{life: time.Hour})
			w.tokens.held[wanted] = old
		}, 2, broker.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWebhook(t, WebhookConfig{URL: tt.url + "/in"})
			if tt.before != nil {
				tt.before(t, w)
			}
			bodies.Store("")
			from := &source{body: `[{"id":"late"}]`}
			r := request()
			r.Body, r.Source, r.Count = nil, from, 0
			if tt.made == 0 {
				r.Hold = 100 * time.Millisecond
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			arrive.Store(cancel)
			got := w.Send(ctx, r)
			if got.Outcome != tt.want || from.made != tt.made || r.Body != nil {
				t.Errorf("%+v, the body was made %d times, want %d, and %q is left of it", got, from.made, tt.made, r.Body)
			}
			if body := bodies.Load(); tt.made > 0 && body != from.body {
				t.Errorf("the handler got %q", body)
			}
		})
	}
}

func TestHold(t *testing.T) {
	arrived, answerNow := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.Header.Get("aeg-delivery-count") {
		case "0":
			<-r.Context().Done()
		case "1":
			close(arrived)
			<-answerNow
		}
	}))
	defer srv.Close()
	w := newWebhook(t, WebhookConfig{URL: srv.URL + "/in?code=s3cret"})
	r := request()
	r.Count = 2 // and the connection is there
	if got := w.Send(t.Context(), r); got.Outcome != broker.Delivered {
		t.Fatalf("%+v", got)
	}
	r.Count, r.Hold = 0, 30*time.Millisecond
	if got := w.Send(t.Context(), r); got.Outcome != broker.TimedOut || got.Status != 0 || got.Detail != "no answer within 30ms" {
		t.Errorf("no answer: %+v", got)
	}
	r.Count, r.Hold = 1, time.Minute
	answered := make(chan broker.Response)
	go func() { answered <- w.Send(t.Context(), r) }()
	<-arrived
	close(answerNow)
	if got := <-answered; got.Outcome != broker.Delivered {
		t.Errorf("late answer: %+v", got)
	}
}

// An answer whose body drips in counts from its head on.
func TestDrippingBody(t *testing.T) {
	done := make(chan struct{})
	w := newWebhook(t, WebhookConfig{URL: rawServer(t, func(_ int, c net.Conn) {
		_, _ = readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
		<-done
	})})
	if got := w.Send(t.Context(), request()); got.Outcome != broker.Delivered {
		t.Errorf("%+v", got)
	}
	close(done)
}

func TestCancel(t *testing.T) {
	arrived := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	w := newWebhook(t, WebhookConfig{URL: srv.URL})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan broker.Response)
	go func() { got <- w.Send(ctx, request()) }()
	<-arrived
	cancel()
	if r := <-got; r.Outcome != broker.Canceled {
		t.Errorf("while waiting: %+v", r)
	}
	if r := w.Send(ctx, request()); r.Outcome != broker.Canceled {
		t.Errorf("before the attempt: %+v", r)
	}
	w.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		arrived <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { got <- w.Send(ctx, request()) }()
	<-arrived
	cancel()
	if r := <-got; r.Outcome != broker.Canceled {
		t.Errorf("while dialling: %+v", r)
	}
}

// A receiver that refuses a large body without reading it is heard.
func TestEarlyRefusal(t *testing.T) {
	w := newWebhook(t, WebhookConfig{URL: rawServer(t, func(_ int, c net.Conn) {
		_, _ = c.Read(make([]byte, 1000))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.CopyN(io.Discard, c, 100<<10)
	})})
	r := request()
	r.Body = bytes.Repeat([]byte("x"), 16<<20)
	if got := w.Send(t.Context(), r); got.Outcome != broker.PayloadTooLarge {
		t.Errorf("%+v", got)
	}
}

func TestNoConnection(t *testing.T) {
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
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	trusting := egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})
	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return nil, err }
	}
	tests := []struct {
		name, url string
		guard     *egress.Guard
		dial      func(context.Context, string, string) (net.Conn, error)
		outcome   broker.Outcome
		detail    string
	}{
		{"refused", "http://" + closed, nil, nil, broker.SocketError, closed + ": the connection was refused"},
		{"guarded", "https://" + closed, egress.New(egress.Options{}), nil, broker.SocketError, "--allow-destination 127.0.0.0/8"},
		{"plain http to the world", "http://8.8.8.8", nil, nil, broker.SocketError, "use https://"},
		{"no TLS there", "https" + plain.URL[4:], nil, nil, broker.SocketError, "the endpoint does not speak TLS"},
		{"unknown authority", secure.URL, nil, nil, broker.SocketError, "an authority that is not trusted here; the operator of the server can add it with --destination-ca"},
		{"another host's certificate", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), trusting, nil, broker.SocketError, "the certificate is not for this host"},
		{"no such name", "https://hooks.example.org", nil, failing(&net.DNSError{Err: "no such host s3cret", IsNotFound: true}), broker.ResolutionError, "the host name does not exist"},
		{"no name server", "https://hooks.example.org", nil, failing(&net.DNSError{Err: "s3cret", IsTimeout: true}), broker.ResolutionError, "the host name could not be resolved"},
		{"slow to connect", "https://hooks.example.org", nil, failing(context.DeadlineExceeded), broker.SocketError, "could not be opened in time"},
		{"anything else", "https://hooks.example.org", nil, failing(errors.New("s3cret")), broker.SocketError, "the connection failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host := strings.SplitN(tt.url, "://", 2)
			w := newWebhook(t, WebhookConfig{URL: host[0] + "://me:s3cret@" + host[1] + "/in?code=s3cret", Guard: tt.guard})
			if tt.dial != nil {
				w.dial = tt.dial
			}
			got := w.Send(t.Context(), request())
			if got.Outcome != tt.outcome || got.Status != 0 || !strings.Contains(got.Detail, tt.detail) {
				t.Errorf("%+v, want %v with %q", got, tt.outcome, tt.detail)
			}
			if strings.Contains(got.Detail, "s3cret") || len(got.Detail) > 200 {
				t.Errorf("detail %q", got.Detail)
			}
		})
	}
}

func TestNewWebhookRefuses(t *testing.T) {
	for _, bad := range []string{"", "ftp://host/s3cret", "https:///s3cret", "https://h\x00/s3cret", "s3cret"} {
		if _, err := NewWebhook(WebhookConfig{URL: bad, Name: "n", Guard: loopback}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Connections are left before the receiver leaves them.
func TestIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials int
		ended := make(chan time.Duration, 10)
		w, err := NewWebhook(WebhookConfig{URL: "http://127.0.0.1/in", Name: "n", Schema: event.EventGridSchema, Guard: loopback})
		if err != nil {
			t.Fatal(err)
		}
		w.dial = func(context.Context, string, string) (net.Conn, error) {
			dials++
			client, server := net.Pipe()
			begin := time.Now()
			go func() {
				defer server.Close()
				r := bufio.NewReader(server)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						ended <- time.Since(begin)
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			}()
			return client, nil
		}
		send := func() {
			t.Helper()
			if got := w.Send(t.Context(), request()); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
		}
		send()
		time.Sleep(3 * time.Second) // in the bubble's time
		send()
		if dials != 1 {
			t.Errorf("%d dials, want 1: the connection was idle for 3 s only", dials)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d := <-ended; d != 7*time.Second {
			t.Errorf("connection ended after %v, want 7s: 3 s of use and 4 s of rest", d)
		}
		send()
		if dials != 2 {
			t.Errorf("%d dials, want 2", dials)
		}
		w.Close()
		<-ended
		send() // after Close attempts still work, and keep nothing
		<-ended
	})
}

// golden compares text with a file of testdata, below its first line, which names
// the source of the expected bytes.
func golden(t *testing.T, name, source, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	got = "# Source: " + source + "\n" + strings.ReplaceAll(got, "\r\n", "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", path, got)
	}
}

func TestRequestBytes(t *testing.T) {
	tests := []struct {
		name    string
		config  WebhookConfig
		query   string
		request broker.Request
	}{
		{
			"eventgrid_single", WebhookConfig{Schema: event.EventGridSchema}, "/ml/events?code=s3cret",
			broker.Request{
				Body: []byte(`[{"id":"c1f4","topic":"/t","subject":"models/churn:3","eventType":"E","eventTime":"2026-03-01T10:00:00.1234567Z","data":{},"dataVersion":"2","metadataVersion":"1"}]`), ContentType: "application/json; charset=utf-8",
				Single: &broker.SingleEvent{OutputID: "0f5b1c9a-1", DataVersion: "2", MetadataVersion: "1"},
			},
		},
		{
			"eventgrid_retry_without_data_version", WebhookConfig{Schema: event.EventGridSchema}, "/ml/events?code=s3cret",
			broker.Request{Body: []byte(`[{"id":"c1f4"}]`), ContentType: "application/json; charset=utf-8", Count: 3, Single: &broker.SingleEvent{OutputID: "0f5b1c9a-1"}},
		},
		{
			"eventgrid_batch", WebhookConfig{Schema: event.EventGridSchema}, "",
			broker.Request{Body: []byte(`[{"id":"1"},{"id":"2"}]`), ContentType: "application/json; charset=utf-8"},
		},
		{
			"custom_single", WebhookConfig{Schema: event.CustomEventSchema}, "/shop",
			broker.Request{
				Body: []byte(`[{"trackingId":"a1","kind":"Orders.Placed","total":12.50}]`), ContentType: "application/json; charset=utf-8",
				Single: &broker.SingleEvent{OutputID: "0f5b1c9a-1", DataVersion: "1.0", MetadataVersion: "1"},
			},
		},
		{
			"cloudevents_single", WebhookConfig{Schema: event.CloudEventSchemaV1_0}, "/ml/events?code=s3cret",
			broker.Request{
				Body: []byte(`{"id":"c1f4","source":"/t","type":"E","specversion":"1.0"}`), ContentType: "application/cloudevents+json; charset=utf-8",
				Single: &broker.SingleEvent{OutputID: "0f5b1c9a-1", DataVersion: "not sent", MetadataVersion: "1.0"},
			},
		},
		{
			"cloudevents_batch_own_origin", WebhookConfig{Schema: event.CloudEventSchemaV1_0, Origin: "carillon.example"}, "/",
			broker.Request{Body: []byte(`[{"id":"1"},{"id":"2"}]`), ContentType: "application/cloudevents-batch+json; charset=utf-8", Count: 1},
		},
		{
			"delivery_attributes", WebhookConfig{
				Schema:  event.EventGridSchema,
				Headers: []manage.Header{{Name: "X-Team", Value: "mlops"}, {Name: "authorization", Value: "Bearer s3cret"}, {Name: "user-agent", Value: "ours/1"}},
				Dynamic: []string{"X-Model-Stage", "ACCEPT"},
			}, "/",
			broker.Request{
				Body: []byte(`[{"id":"1"}]`), ContentType: "application/json; charset=utf-8",
				Single:     &broker.SingleEvent{OutputID: "0f5b1c9a-1", DataVersion: "2", MetadataVersion: "1"},
				Attributes: []broker.Attribute{{Name: "X-Model-Stage", Value: "prod"}},
			},
		},
		{
			"replay_with_hostile_values", WebhookConfig{Schema: event.CustomEventSchema, Name: "n\r\nx: y"}, "/a b/%2F?q=a b\"é",
			broker.Request{
				Body: []byte(`[{}]`), ContentType: "application/json; charset=utf-8", Replay: "dl-1\r\nx: y",
				Single: &broker.SingleEvent{OutputID: "o\nx: y", DataVersion: "2\r\nx: y\x00é", MetadataVersion: "1"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan string, 1)
			url := rawServer(t, func(_ int, c net.Conn) {
				raw, err := readRequest(c)
				if err != nil {
					t.Error(err)
				}
				got <- raw
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			})
			base := strings.TrimSuffix(url, "/in?code=s3cret")
			tt.config.URL = base + tt.query
			w := newWebhook(t, tt.config)
			if resp := w.Send(t.Context(), &tt.request); resp.Outcome != broker.Delivered {
				t.Fatalf("%+v", resp)
			}
			golden(t, tt.name+".http", "spec/delivery.md sections 2.1 and 2.2",
				strings.ReplaceAll(<-got, strings.TrimPrefix(base, "http://"), "hooks.example.org"))
		})
	}
}

func TestTLSVersions(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10} //nolint:gosec // the point of the test
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	w := newWebhook(t, WebhookConfig{URL: srv.URL, Guard: egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})})
	if got := w.Send(t.Context(), request()); got.Outcome != broker.SocketError || got.Detail != "the TLS handshake failed" {
		t.Errorf("TLS 1.1: %+v", got)
	}
}

// Receivers that speak HTTP/2 as well are spoken to in HTTP/1.1, and an address may be
// of IPv6. Source: spec/handlers.md section 2.
func TestReceivers(t *testing.T) {
	for _, tt := range []struct {
		name, listen string
		http2        bool
	}{{"HTTP/2", "127.0.0.1:0", true}, {"IPv6", "[::1]:0", false}} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", tt.listen)
			if err != nil {
				t.Skipf("this machine has no such address: %v", err)
			}
			seen := make(chan string, 1)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Proto + " " + r.Host }))
			_ = srv.Listener.Close()
			srv.Listener, srv.EnableHTTP2 = l, tt.http2
			srv.StartTLS()
			defer srv.Close()
			roots := x509.NewCertPool()
			roots.AddCert(srv.Certificate()) // for 127.0.0.1 and ::1
			w := newWebhook(t, WebhookConfig{URL: srv.URL + "/in", Guard: egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})})
			if got := w.Send(t.Context(), request()); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
			if got, want := <-seen, "HTTP/1.1 "+l.Addr().String(); got != want {
				t.Errorf("the receiver saw %s, want %s", got, want)
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f.Add([]byte("HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 No\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 204 No\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		read := func(d dialogue) (keep bool, err error) {
			client, server := net.Pipe()
			defer client.Close()
			go func() {
				_, _ = server.Write(raw)
				_ = server.Close()
			}()
			c := &conn{Conn: client, raw: client}
			if err := c.await(); err != nil {
				return false, err
			}
			a := answers.Get().(*answer)
			defer answers.Put(a)
			return a.of(c, d)
		}
		var hook posting
		keep, err := read(&hook)
		resp := hook.resp
		if err == nil && (resp.Status < 101 || resp.Status > 999 || resp.Outcome == broker.NotAttempted) {
			t.Errorf("%+v", resp)
		}
		if err != nil && keep {
			t.Error("a connection that failed is kept")
		}
		if len(resp.Detail) > 200 || resp.RetryAfter < 0 {
			t.Errorf("%+v", resp)
		}
		var of call
		kept, err := read(&of)
		if err != nil && kept || err == nil && of.status != resp.Status || len(of.answered.body) > mostAnswer {
			t.Errorf("a trigger's answer: %+v, %v, kept %t; a webhook's: %+v", of.answered, err, kept, resp)
		}
		if kept && !keep {
			t.Error("a trigger keeps a connection that a webhook does not")
		}
	})
}

// BenchmarkSend measures one attempt against a net/http server in this process.
func BenchmarkSend(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer srv.Close()
	w := newWebhook(b, WebhookConfig{URL: srv.URL + "/in"})
	r := request()
	r.Body = bytes.Repeat([]byte("x"), 1024)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if got := w.Send(ctx, r); got.Outcome != broker.Delivered {
				b.Errorf("%+v", got)
			}
		}
	})
}
