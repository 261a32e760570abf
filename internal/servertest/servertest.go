// Package servertest starts whole servers for tests, in a process of their own
// that can be killed at any moment, and receivers that answer handshakes and
// remember what was delivered. Tests speak to a server by its public interfaces
// only.
//
// A test package that uses it calls Main from its TestMain: the test binary itself
// becomes the server's process.
package servertest

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/server"
)

// serveEnv holds the configuration of a child that is to serve.
const serveEnv = "CARILLON_TEST_SERVER"

// profileEnv names a file that a server's CPU profile goes to, for a look at a
// benchmark; the last server of a run leaves its own.
const profileEnv = "CARILLON_TEST_PROFILE"

// Workspace is the id of the workspace that a first start makes.
const Workspace = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default"

// Group is the resource group that a first start makes.
const Group = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local"

// Main runs the tests, or serves when the process was started by Start.
func Main(m *testing.M) {
	text := os.Getenv(serveEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	cfg := server.DefaultConfig()
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if path := os.Getenv(profileEnv); path != "" {
		f, err := os.Create(path)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		defer pprof.StopCPUProfile()
	}
	if err := server.Run(ctx, cfg, func(r server.Ready) { fmt.Printf("ready url=%s\n", r.URL) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Server is a server in a process of its own.
type Server struct {
	*arm.Client
	Dir   string
	URL   string        // https
	Start time.Duration // from the start of the process to ready

	t    testing.TB
	cfg  server.Config
	cmd  *exec.Cmd
	done chan error
	log  *os.File
}

// New starts a server on a new directory.
func New(t testing.TB, change ...func(*server.Config)) *Server {
	t.Helper()
	cfg := server.DefaultConfig()
	cfg.Data, cfg.Listen = filepath.Join(t.TempDir(), "data"), []string{"127.0.0.1:0"}
	for _, f := range change {
		f(&cfg)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, cfg: cfg, Dir: cfg.Data, log: log}
	s.Restart()
	if s.cfg.PublicURL == "" && len(s.cfg.Listen) == 1 {
		s.cfg.Listen = []string{strings.TrimPrefix(s.URL, "https://")} // restarts keep the port
	}
	t.Cleanup(func() {
		switch {
		case s.cmd == nil:
		case os.Getenv(profileEnv) != "":
			s.Stop()
		default:
			s.Kill()
		}
		if t.Failed() {
			if raw, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("server log, last part:\n%s", raw[max(0, len(raw)-8<<10):])
			}
		}
		_ = log.Close()
	})
	return s
}

// NewLocal starts a server on a new directory in this process, for benchmarks: what
// is measured beside it, in one process too, shares its scheduler and its cores. It
// stops at the end of the test.
func NewLocal(t testing.TB, change ...func(*server.Config)) *Server {
	t.Helper()
	cfg := server.DefaultConfig()
	cfg.Data, cfg.Listen, cfg.LogOutput = filepath.Join(t.TempDir(), "data"), []string{"127.0.0.1:0"}, io.Discard
	for _, f := range change {
		f(&cfg)
	}
	s := &Server{t: t, cfg: cfg, Dir: cfg.Data}
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan server.Ready, 1), make(chan error, 1)
	go func() { done <- server.Run(ctx, cfg, func(r server.Ready) { ready <- r }) }()
	select {
	case r := <-ready:
		s.URL = r.URL
	case err := <-done:
		t.Fatal(err)
	}
	s.Client = s.client()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the server did not stop cleanly: %v", err)
		}
	})
	return s
}

// Restart starts the server again on its directory and returns when it is ready.
func (s *Server) Restart() {
	s.t.Helper()
	began := time.Now()
	s.cmd = s.command()
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan error, 1)
	line, err := bufio.NewReader(out).ReadString('\n')
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(s.cmd, s.done)
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready url=")
	if err != nil || !ok {
		s.t.Fatalf("the server said %q and not that it is ready: %v\n%s", line, err, s.Log())
	}
	s.Start = time.Since(began)
	if s.URL != url { // restarts keep the port, and publishers may be reading it
		s.URL = url
	}
	s.Client = s.client()
}

func (s *Server) command() *exec.Cmd {
	text, err := json.Marshal(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serveEnv+"="+string(text))
	return cmd
}

// run starts one more process that is expected to refuse, and returns what it said.
func (s *Server) run() (string, error) {
	out, err := s.command().CombinedOutput()
	return string(out), err
}

// client makes a management client with the owner's token.
func (s *Server) client() *arm.Client {
	local, err := access.OpenLocal(s.t.Context(), s.Dir, s.cfg.MasterKey)
	if err != nil {
		s.t.Fatal(err)
	}
	issued, err := local.Token(access.AudienceManagement, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	return arm.NewClient(s.URL, issued.Token.Reveal(), roots)
}

// HTTP is the server's address without TLS, for requests from this machine.
func (s *Server) HTTP() string { return "http://" + strings.TrimPrefix(s.URL, "https://") }

// Log is what the server's processes wrote to their log so far.
func (s *Server) Log() string {
	s.t.Helper()
	raw, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(raw)
}

// PID is the process id of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the server as kill -9 does.
func (s *Server) Kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	<-s.done
	s.cmd = nil
}

// Stop ends the server as SIGTERM does and checks that it exits cleanly.
func (s *Server) Stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("the server did not stop cleanly: %v", err)
		}
	case <-time.After(time.Minute):
		s.t.Error("the server did not stop within a minute of SIGTERM")
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// Topic makes a custom topic and returns its id and a function that publishes
// bodies to it over clear http with its key.
func (s *Server) Topic(name string) (id string, publish func(body string) error) {
	s.t.Helper()
	return s.inlet("topics", name, nil)
}

// Domain is Topic for a domain, with properties.
func (s *Server) Domain(name string, properties map[string]any) (id string, publish func(body string) error) {
	s.t.Helper()
	return s.inlet("domains", name, properties)
}

func (s *Server) inlet(kind, name string, properties map[string]any) (id string, publish func(body string) error) {
	s.t.Helper()
	id = Group + "/providers/Microsoft.EventGrid/" + kind + "/" + name
	s.Must("PUT", id, map[string]any{"location": "local", "properties": properties}, nil)
	var keys struct{ Key1 string }
	s.Must("POST", id+"/listKeys", nil, &keys)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	return id, func(body string) error {
		r, err := http.NewRequest("POST", s.HTTP()+"/"+kind+"/"+name+"/api/events", strings.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("aeg-sas-key", keys.Key1)
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		answer, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("publish: %s: %s", resp.Status, answer)
		}
		return nil
	}
}

// Subscribe makes an event subscription on a source. more is merged into its
// properties.
func (s *Server) Subscribe(source, name, endpoint string, more map[string]any) {
	s.t.Helper()
	properties := map[string]any{
		"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": endpoint}},
	}
	for k, v := range more {
		properties[k] = v
	}
	s.Must("PUT", source+"/providers/Microsoft.EventGrid/eventSubscriptions/"+name, map[string]any{"properties": properties}, nil)
}

// Connect makes the connection of an Azure resource, or gives it another connection string.
func (s *Server) Connect(name, resourceID, connectionString string) {
	s.t.Helper()
	s.Must("PUT", Group+"/providers/Carillon.Secrets/connections/"+name,
		map[string]any{"properties": map[string]any{"resourceId": resourceID, "connectionString": connectionString}}, nil)
}

// Must does a management request that has to succeed.
func (s *Server) Must(method, path string, body, out any) {
	s.t.Helper()
	if _, err := s.Do(s.t.Context(), method, path, nil, body, out, nil); err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
}

// Receiver is a handler that answers handshakes and remembers what it was sent.
type Receiver struct {
	*httptest.Server
	// Answer may decide what an event delivery is answered with; nil is 200. It must
	// be set before the receiver is subscribed, and so must Forget, which leaves
	// remembering to Answer.
	Answer func(w http.ResponseWriter, r *http.Request, events []Received)
	Forget bool

	mu     sync.Mutex
	events []Received
	more   chan struct{}
}

// Received is one event of one request.
type Received struct {
	ID      string          `json:"id"`
	Topic   string          `json:"topic"`
	Type    string          `json:"eventType"`
	Subject string          `json:"subject"`
	Data    json.RawMessage `json:"data"`
	At      time.Time       `json:"-"`
	Header  http.Header     `json:"-"`
}

// NewReceiver starts a receiver of Event Grid events.
func NewReceiver(t testing.TB) *Receiver {
	r := &Receiver{more: make(chan struct{})}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Server.Close)
	return r
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if req.Header.Get("aeg-event-type") == "SubscriptionValidation" {
		var v []struct {
			Data struct{ ValidationCode string } `json:"data"`
		}
		if json.Unmarshal(body, &v) == nil && len(v) == 1 {
			_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": v[0].Data.ValidationCode})
		}
		return
	}
	if req.Header.Get("aeg-event-type") != "Notification" { // a deletion: not an event of the source
		return
	}
	var events []Received
	if err := json.Unmarshal(body, &events); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now := time.Now()
	for i := range events {
		events[i].At, events[i].Header = now, req.Header
	}
	if !r.Forget {
		r.mu.Lock()
		r.events = append(r.events, events...)
		close(r.more)
		r.more = make(chan struct{})
		r.mu.Unlock()
	}
	if r.Answer != nil {
		r.Answer(w, req, events)
	}
}

// Events returns what was received so far.
func (r *Receiver) Events() []Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Received(nil), r.events...)
}

// Wait waits until done says that what was received is enough.
func (r *Receiver) Wait(t testing.TB, limit time.Duration, done func([]Received) bool) {
	t.Helper()
	deadline := time.After(limit)
	for {
		r.mu.Lock()
		more := r.more
		r.mu.Unlock()
		if done(r.Events()) {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("after %s only %d events had arrived", limit, len(r.Events()))
		}
	}
}
