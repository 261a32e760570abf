package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/server"
)

// The test binary is also the program that the demonstration starts: with this
// variable set it is carillon; with CARILLON_TEST_DROP, too, its serve is a fake.
const beProgram = "CARILLON_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(beAz); dir != "" {
		os.Exit(fakeAz(dir, os.Args[1:]))
	}
	if os.Getenv(beProgram) == "" {
		os.Exit(m.Run())
	}
	if drop, fake := os.LookupEnv("CARILLON_TEST_DROP"); fake {
		runServer = func(ctx context.Context, cfg server.Config, ready func(server.Ready)) error {
			return serveFake(ctx, cfg, drop, ready)
		}
	}
	os.Exit(Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// testProgram is this test binary as carillon. The race detector waits a second
// at each exit unless it is told not to.
func testProgram(t *testing.T, env ...string) program {
	t.Helper()
	self, err := thisProgram()
	if err != nil {
		t.Fatal(err)
	}
	self.env = append(append(self.env, beProgram+"=1", "GORACE=atexit_sleep_ms=0"), env...)
	return self
}

func newDemo(t *testing.T, env ...string) (d *demo, stdout, stderr *bytes.Buffer) {
	t.Helper()
	self := testProgram(t, env...)
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	a := &app{stdout: stdout, stderr: stderr, getenv: func(string) string { return "" }}
	return &demo{app: a, self: self, patience: patience, recovery: patience, inbox: newInbox(),
		address: func(string, time.Duration) (address, error) { return address{token: "t"}, nil }}, stdout, stderr
}

func TestDemoShowsAllFive(t *testing.T) {
	d, stdout, stderr := newDemo(t, "CARILLON_TEST_DROP=nothing")
	if err := d.run(t.Context()); err != nil {
		t.Fatalf("demo: %v\n%s%s", err, stdout, stderr)
	}
	for _, eventType := range machineLearningEventTypes {
		if !strings.Contains(stdout.String(), "✓ "+eventType) {
			t.Errorf("the story does not show %s:\n%s", eventType, stdout)
		}
	}
	if !strings.Contains(stdout.String(), "0 acknowledged events lost") {
		t.Errorf("the story does not say that nothing was lost:\n%s", stdout)
	}
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("the directory %s was left behind: %v", d.dir, err)
	}
}

func TestDemoFailsWithoutAnEvent(t *testing.T) {
	d, stdout, stderr := newDemo(t, "CARILLON_TEST_DROP=ModelDeployed")
	d.patience = 200 * time.Millisecond
	if err := d.run(t.Context()); err != errQuiet {
		t.Fatalf("demo ended with %v\n%s", err, stdout)
	}
	if want := "error: Microsoft.MachineLearningServices.ModelDeployed did not arrive.\n"; !strings.Contains(stderr.String(), want) {
		t.Errorf("stderr is %q, want %q in it", stderr, want)
	}
	if strings.Contains(stdout.String(), "kill -9") {
		t.Errorf("the second act was shown although the first had failed:\n%s", stdout)
	}
}

func TestDemoFailsWhenAcknowledgedEventsAreLost(t *testing.T) {
	d, stdout, stderr := newDemo(t, "CARILLON_TEST_DROP=recovery")
	d.recovery = 200 * time.Millisecond
	if err := d.run(t.Context()); err != errQuiet {
		t.Fatalf("demo ended with %v\n%s", err, stdout)
	}
	if !strings.Contains(stderr.String(), "acknowledged event") {
		t.Errorf("stderr does not say what was lost: %q", stderr)
	}
}

func TestDemoShowsWhyTheServerDidNotStart(t *testing.T) {
	d, _, _ := newDemo(t, "CARILLON_TEST_DROP=start")
	err := d.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "No start today") {
		t.Errorf("demo ended with %v", err)
	}
}

// serveFake is a server as the demonstration sees one: it takes lifecycle facts,
// logs the events they raise, answers, delivers, and after a kill delivers what
// the log holds as undelivered. drop names what it does wrong.
func serveFake(ctx context.Context, o server.Config, drop string, ready func(server.Ready)) error {
	if drop == "start" {
		return fmt.Errorf("no start today")
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.Listen[0])
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(o.Data, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	f := &fakeCarillon{ctx: ctx, log: log, drop: drop, pending: map[string][]byte{}}
	f.recover()
	srv := &http.Server{Handler: f, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(listener) }()
	ready(server.Ready{URL: "http://" + listener.Addr().String(), CAFingerprint: "00"})
	<-ctx.Done()
	return srv.Close()
}

type fakeCarillon struct {
	ctx      context.Context
	drop     string
	mu       sync.Mutex
	log      *os.File
	endpoint string
	pending  map[string][]byte
	number   int
}

// recover reads the log: "endpoint URL", "event ID JSON" and "done ID" lines.
func (f *fakeCarillon) recover() {
	lines := bufio.NewScanner(f.log)
	for lines.Scan() {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		id, body, _ := strings.Cut(rest, " ")
		switch kind {
		case "endpoint":
			f.endpoint = rest
		case "event":
			f.pending[id] = []byte(body)
			f.number++
		case "done":
			delete(f.pending, id)
		}
	}
	if f.drop != "recovery" {
		for id, body := range f.pending {
			go f.deliver(id, body)
		}
	}
}

func (f *fakeCarillon) write(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintln(f.log, line)
}

func (f *fakeCarillon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	switch path := r.URL.Path; {
	case strings.Contains(path, "/eventSubscriptions/"):
		f.endpoint = text(body, "properties.destination.properties.endpointUrl")
		f.write("endpoint " + f.endpoint)
		f.post([]byte(`[{"id":"v","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c"}}]`))
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"properties":{"provisioningState":"Succeeded"}}`)
		return
	case strings.Contains(path, "/experiments/"):
		run := path[strings.LastIndexByte(path, '/')+1:]
		switch text(body, "properties.status") {
		case "Completed":
			f.raise("RunCompleted", "experiments/x/runs/"+run, run)
		case "Failed":
			f.raise("RunStatusChanged", "experiments/x/runs/"+run, run)
		}
	case strings.HasSuffix(path, "/versions"):
		f.raise("ModelRegistered", "models/churn:1", "")
	case strings.Contains(path, "/onlineEndpoints/"):
		if text(body, "properties.state") == "Healthy" {
			f.raise("ModelDeployed", "endpoints/churn-api", "")
		}
	case strings.HasSuffix(path, "/runs"):
		f.raise("DatasetDriftDetected", "datadrift/1/run/1", "")
	}
	w.WriteHeader(http.StatusCreated)
}

func (f *fakeCarillon) raise(eventType, subject, run string) {
	if f.drop == eventType {
		return
	}
	f.mu.Lock()
	f.number++
	number := f.number
	f.mu.Unlock()
	id := fmt.Sprintf("e-%d", number)
	body, _ := json.Marshal([]map[string]any{{"id": id, "eventType": "Microsoft.MachineLearningServices." + eventType,
		"subject": subject, "eventTime": "2026-03-01T10:00:00Z", "data": map[string]string{"runId": run}}})
	f.write("event " + id + " " + string(body))
	if strings.HasPrefix(run, "burst-") && number%2 == 0 {
		return // as if the kill came before its delivery
	}
	go f.deliver(id, body)
}

func (f *fakeCarillon) deliver(id string, body []byte) {
	if f.post(body) {
		f.write("done " + id)
	}
}

func (f *fakeCarillon) post(body []byte) bool {
	req, err := http.NewRequestWithContext(f.ctx, http.MethodPost, f.endpoint, bytes.NewReader(body))
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
