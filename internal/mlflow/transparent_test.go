package mlflow

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/resource"
)

// timed is a listener that knows by when the connection that it took last has to be read.
type timed struct {
	net.Listener
	until atomic.Pointer[time.Time]
}

func (l *timed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return timedConn{c, l}, nil
}

type timedConn struct {
	net.Conn
	of *timed
}

func (c timedConn) SetDeadline(until time.Time) error {
	c.of.until.Store(&until)
	return c.Conn.SetDeadline(until)
}

func (c timedConn) SetReadDeadline(until time.Time) error {
	c.of.until.Store(&until)
	return c.Conn.SetReadDeadline(until)
}

// newTransparent returns the address of a proxy before a server that handler is, over
// real connections, and the listener of the proxy, whose requests have an hour.
func newTransparent(t *testing.T, handler http.HandlerFunc, change ...func(*resource.MLflowServer)) (address, upstream string, at *timed) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	b := newBridge(t, append([]func(*resource.MLflowServer){func(m *resource.MLflowServer) { m.URL = server.URL + "/base%20path" }}, change...)...)
	b.attach(t, 0)
	p := &proxied{bridge: b, service: New(Config{Store: b.store, Ledger: b.ledger}), file: filepath.Join(t.TempDir(), "intents")}
	guard := egress.New(egress.Options{AllowLoopback: true, Own: func() []netip.AddrPort { return nil }})
	p.stand(t, guard.Passing())
	front := httptest.NewUnstartedServer(p.proxy)
	front.Config.ReadTimeout = time.Hour // of a whole request, and no bound for what goes through
	at = &timed{Listener: front.Listener}
	front.Listener = at
	front.Start()
	t.Cleanup(front.Close)
	return front.URL + "/mlflow/bells", strings.TrimPrefix(server.URL, "http://"), at
}

func TestTransparent(t *testing.T) {
	var got *http.Request
	var body []byte
	address, upstream, _ := newTransparent(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		got = r
		w.Header().Set("X-Of-Server", "yes")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, "short")
		w.Header().Set("X-Sum", "42")
	})
	r, _ := http.NewRequest("PATCH", address+"/a%2Fb/c%20d?x=1;y=%zz&token=t", struct{ io.Reader }{strings.NewReader("what was sent")})
	r.Header.Set("Authorization", "Basic a2ltOnB3")
	r.Header.Set("X-MLFLOW-WORKSPACE", "other")
	r.Header.Set("Connection", "X-Hop")
	r.Header.Set("X-Hop", "1")
	r.Header.Set("X-Forwarded-For", "1.2.3.4")
	r.Header.Set("User-Agent", "mlflow-python-client/3")
	r.Trailer = http.Header{"X-Check": nil}
	r.Body = &trailing{Reader: strings.NewReader("what was sent"), at: func() { r.Trailer.Set("X-Check", "17") }}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != 418 || string(answer) != "short" || res.Header.Get("X-Of-Server") != "yes" || len(res.Header["Set-Cookie"]) != 2 ||
		res.Header.Get("Keep-Alive") != "" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("answer %d %q %v, trailer %v", res.StatusCode, answer, res.Header, res.Trailer)
	}
	for name := range res.Header {
		if strings.HasPrefix(name, "X-Ms-") {
			t.Errorf("the answer has a %s of this server", name)
		}
	}
	if got.Method != "PATCH" || got.RequestURI != "/base%20path/a%2Fb/c%20d?x=1;y=%zz&token=t" || got.Host != upstream || string(body) != "what was sent" || got.Trailer.Get("X-Check") != "17" {
		t.Errorf("the server got %s %s of %s: %q, trailer %v", got.Method, got.RequestURI, got.Host, body, got.Trailer)
	}
	for name, want := range map[string]string{
		"Authorization": "Basic a2ltOnB3", "X-Mlflow-Workspace": "other", "X-Hop": "", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http",
		"X-Forwarded-Host": strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/mlflow/bells"), "X-Forwarded-Prefix": "/mlflow/bells",
		"User-Agent": "mlflow-python-client/3", "Accept-Encoding": "gzip", // which net/http's client asked for
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
	head, err := http.Head(address + "/health")
	if err != nil || head.StatusCode != 418 || got.Method != "HEAD" || len(got.Header["Accept-Encoding"]) != 0 {
		t.Errorf("HEAD: %v, error %v, asked with %v", head.StatusCode, err, got.Header)
	}
}

// trailing calls at at its end.
type trailing struct {
	io.Reader
	at func()
}

func (r *trailing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.at()
	}
	return n, err
}

func (*trailing) Close() error { return nil }

func TestTransparentHost(t *testing.T) {
	host := ""
	address, _, _ := newTransparent(t, func(_ http.ResponseWriter, r *http.Request) { host = r.Host }, func(m *resource.MLflowServer) { m.PreserveHost = true })
	r, _ := http.NewRequest("GET", address+"/", nil)
	r.Host = "mlflow.corp.example"
	if res, err := http.DefaultClient.Do(r); err != nil || host != "mlflow.corp.example" {
		t.Errorf("%v, error %v, host %q", res, err, host)
	}
}

// Compressed answers stay as they are.
func TestTransparentCompression(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("a page"))
	_ = z.Close()
	address, _, _ := newTransparent(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", r.Header.Get("Accept-Encoding"))
		_, _ = w.Write(zipped.Bytes())
	})
	r, _ := http.NewRequest("GET", address+"/static", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(res.Body)
	if res.Header.Get("Content-Encoding") != "gzip" || !bytes.Equal(raw, zipped.Bytes()) || res.ContentLength != int64(zipped.Len()) {
		t.Errorf("%v, %d bytes of %d", res.Header, len(raw), zipped.Len())
	}
}

// Events of a stream come one by one, for longer than a request may take elsewhere.
func TestTransparentStream(t *testing.T) {
	next := make(chan struct{})
	address, _, at := newTransparent(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	res, err := http.Get(address + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	for i := range 3 {
		if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) {
			t.Fatalf("event %d is %q, error %v", i, lines.Text(), lines.Err())
		}
		if until := at.until.Load(); !until.IsZero() {
			t.Errorf("after event %d the connection ends at %s", i, until)
		}
		next <- struct{}{}
	}
}

// A connection that is switched to another protocol carries bytes both ways.
func TestTransparentUpgrade(t *testing.T) {
	address, _, at := newTransparent(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("echo " + line))
		}
	})
	c, err := net.Dial("tcp", strings.Split(strings.TrimPrefix(address, "http://"), "/")[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	fmt.Fprint(c, "GET /mlflow/bells/socket HTTP/1.1\r\nHost: carillon.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v, error %v", res, err)
	}
	for _, word := range []string{"one", "two"} {
		if until := at.until.Load(); !until.IsZero() {
			t.Errorf("the connection ends at %s", until)
		}
		fmt.Fprintln(c, word)
		if line, err := r.ReadString('\n'); line != "echo "+word+"\n" {
			t.Errorf("%q, error %v", line, err)
		}
	}
}

// A client that waits for the server's word to send its body gets the server's word.
func TestTransparentContinue(t *testing.T) {
	address, _, _ := newTransparent(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/base path/refused" {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	for path, want := range map[string]string{"/taken": "200 true 9", "/refused": "413 false too large\n"} {
		continued := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got100Continue: func() { continued = true },
			Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil },
		})
		r, _ := http.NewRequestWithContext(ctx, "PUT", address+path, strings.NewReader("an upload"))
		r.Header.Set("Expect", "100-continue")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(res.Body)
		if got := fmt.Sprint(res.StatusCode, " ", continued, " ", string(answer)); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// An upload takes its time, and no memory.
func TestTransparentUpload(t *testing.T) {
	const size = 64 << 20
	var most uint64
	address, _, at := newTransparent(t, func(w http.ResponseWriter, r *http.Request) {
		var n int64
		for {
			m, err := io.CopyN(io.Discard, r.Body, 8<<20)
			n += m
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			most = max(most, stats.HeapInuse)
			if err != nil {
				break
			}
		}
		fmt.Fprint(w, n)
	})
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	slow := &trailing{Reader: io.LimitReader(zeros{}, size), at: func() {}}
	r, _ := http.NewRequest("PUT", address+"/api/2.0/mlflow-artifacts/artifacts/model.bin", slow)
	pauses := 0
	slow.Reader = io.MultiReader(io.LimitReader(zeros{}, size-1), readerFunc(func(p []byte) (int, error) {
		if pauses++; pauses == 1 {
			if until := at.until.Load(); !until.IsZero() && time.Until(*until) > silence {
				t.Errorf("the upload has to be over by %s", until)
			}
		}
		return copy(p, "x"), io.EOF
	}))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(res.Body); string(answer) != fmt.Sprint(size) {
		t.Errorf("the server got %s bytes, want %d", answer, size)
	}
	if grew := int64(most) - int64(before.HeapInuse); grew > 16<<20 {
		t.Errorf("the heap grew by %d bytes for an upload of %d", grew, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A client that goes away ends its request at the server.
func TestTransparentCancel(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	address, _, _ := newTransparent(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", address+"/slow", nil)
	go func() { <-began; cancel() }()
	if _, err := http.DefaultClient.Do(r); err == nil {
		t.Error("no error")
	}
	<-ended
}
