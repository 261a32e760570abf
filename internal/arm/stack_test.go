package arm

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

var update = flag.Bool("update", false, "rewrite the answers in the golden files of the management API")

// Paths that tests and golden files share.
const (
	sub   = "/subscriptions/" + manage.FirstSubscription
	local = sub + "/resourceGroups/local"
	grids = local + "/providers/Microsoft.EventGrid"
	wsID  = local + "/providers/Microsoft.MachineLearningServices/workspaces/default"
)

// fakeBroker keeps what is live, and dead letters that a test puts there.
type fakeBroker struct {
	mu      sync.Mutex
	live    map[resource.UID]resource.EventSubscription
	letters map[string]*broker.Letter
	replays []string
	tails   map[resource.Stream]chan broker.TailEvent
	stopped int
}

func (b *fakeBroker) Activate(_ context.Context, es *resource.EventSubscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live[es.UID] = *es
	return nil
}

func (b *fakeBroker) Deactivate(_ context.Context, uid resource.UID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.live, uid)
	return nil
}

func (b *fakeBroker) Open(resource.UID) int { return 0 }

func (b *fakeBroker) Status(uid resource.UID) (broker.Status, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	es, ok := b.live[uid]
	if !ok {
		return broker.Status{}, false
	}
	return broker.Status{EventSubscription: es.ID().String(), Open: 2, Delivered: 40}, true
}

func (b *fakeBroker) DeadLetters(_ context.Context, uid resource.UID, after uint64) iter.Seq2[*broker.Letter, error] {
	b.mu.Lock()
	var list []*broker.Letter
	for id, l := range b.letters {
		if (uid == 0 || strings.HasPrefix(id, uid.String())) && l.Place > after {
			list = append(list, l)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(list, func(x, y *broker.Letter) int { return int(x.Place) - int(y.Place) })
	return func(yield func(*broker.Letter, error) bool) {
		for _, l := range list {
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (b *fakeBroker) RemoveDeadLetter(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.letters, id)
	return nil
}

func (b *fakeBroker) DeadLetter(_ context.Context, id string) (*broker.Letter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.letters[id]; l != nil {
		return l, nil
	}
	return nil, fault.New(fault.NotFound, "DeadLetterNotFound", "Dead letter %q was not found.", id)
}

func (b *fakeBroker) Replay(_ context.Context, ids ...string) ([]error, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replays = append(b.replays, ids...)
	return make([]error, len(ids)), nil
}

func (b *fakeBroker) Tail(stream resource.Stream) (<-chan broker.TailEvent, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := make(chan broker.TailEvent, 16)
	b.tails[stream] = events
	return events, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stopped++
	}
}

// bury puts a dead letter of an event subscription there.
func (b *fakeBroker) bury(es *resource.EventSubscription, position int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := fmt.Sprintf("%s-%016x", es.UID, position)
	b.letters[id] = &broker.Letter{
		Version: 1, ID: id, EventSubscription: es.ID().String(), Topic: es.Scope.String(), Event: json.RawMessage(`{"id":"e1"}`),
		DeadLetterReason: "MaxDeliveryAttemptsExceeded", DeliveryAttempts: 3, LastDeliveryOutcome: "NotFound", PublishTime: time.Now().UTC(),
		InputSchema: uint8(event.EventGridSchema), Place: uint64(position),
	}
	return id
}

// stack is the management API over memory, with callers by name.
type stack struct {
	t       *testing.T
	handler http.Handler
	plane   *manage.Plane
	kv      *resource.MemoryKV
	broker  *fakeBroker
	callers map[string]access.Caller

	stopping chan struct{}

	mu   sync.Mutex
	link string // the last validation link
}

func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{
		t: t, kv: resource.NewMemoryKV(), callers: map[string]access.Caller{}, stopping: make(chan struct{}),
		broker: &fakeBroker{live: map[resource.UID]resource.EventSubscription{}, letters: map[string]*broker.Letter{}, tails: map[resource.Stream]chan broker.TailEvent{}},
	}
	store := resource.NewStore(s.kv)
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	directory := access.NewDirectory(store, roles)
	authorizer, err := access.NewAuthorizer(directory, access.Strict)
	if err != nil {
		t.Fatal(err)
	}
	s.plane = manage.New(manage.Config{
		Store: store, Access: authorizer, Directory: directory, Sealer: secret.NewSealer(secret.Key{1}),
		Handshaker: manage.HandshakerFunc(s.validate), Activator: s.broker, EventLog: s.broker,
		CheckURL: func(u *url.URL) error {
			if u.Scheme != "https" {
				return fmt.Errorf("the URL must start with https://")
			}
			return nil
		},
		CheckToken: func(tenant, _ string) error {
			if tenant != "7a000000-0000-0000-0000-000000000000" {
				return fault.Field("azureActiveDirectoryTenantId", "This server makes tokens of its own tenant only, not of '%s'.", tenant)
			}
			return nil
		},
		CheckDeadLetter: func(d *resource.DeadLetterDestination) error {
			if d.Container == "unknown" {
				return fmt.Errorf("the operator has given no connection")
			}
			return nil
		},
		PublicURL: "https://localhost:7443", Log: slog.New(slog.DiscardHandler), Messenger: messengerFunc(answerBusy),
	})
	if err := store.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.caller(directory, "owner", access.RoleOwner, "/")
	s.caller(directory, "reader", access.RoleReader, local)
	s.caller(directory, "grid", "1e241071-0855-49ea-94dc-649edcd759de", local) // EventGrid Contributor
	s.caller(directory, "nobody", "", "")
	if err := s.plane.Bootstrap(context.Background(), s.callers["owner"]); err != nil {
		t.Fatal(err)
	}
	s.handler = NewHandler(Config{
		Plane: s.plane, Deliveries: s.broker, TenantID: "7a000000-0000-0000-0000-000000000000", PublicURL: "https://localhost:7443", Done: s.stopping,
		Authenticate: func(r *http.Request) (access.Caller, error) {
			c, ok := s.callers[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
			if !ok {
				f := fault.New(fault.Unauthenticated, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
				f.Challenge = `Bearer authorization_uri="https://localhost:7443/7a"`
				return c, f
			}
			return c, nil
		},
		Subresources: subresourcesFunc(func(w http.ResponseWriter, _ *http.Request, ws resource.Item[resource.Workspace], rest []string, c access.Caller) error {
			_, _ = fmt.Fprintf(w, `{"workspace":%q,"rest":%q,"caller":%q}`, ws.Value.ID.Name(), strings.Join(rest, "|"), c.Name)
			return nil
		}),
	})
	return s
}

type subresourcesFunc func(w http.ResponseWriter, r *http.Request, ws resource.Item[resource.Workspace], rest []string, caller access.Caller) error

func (f subresourcesFunc) ServeSubresource(w http.ResponseWriter, r *http.Request, ws resource.Item[resource.Workspace], rest []string, caller access.Caller) error {
	return f(w, r, ws, rest, caller)
}

func (s *stack) caller(d *access.Directory, name, role, scope string) {
	s.t.Helper()
	c := access.Caller{ObjectID: uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)).String(), Name: name, Type: access.User}
	s.callers[name] = c
	if role == "" {
		return
	}
	_, _, err := d.Assign(context.Background(), access.Assignment{
		Name: uuid.NewSHA1(uuid.NameSpaceURL, []byte(name+role)).String(), Scope: resource.MustID(scope), RoleID: role, PrincipalID: c.ObjectID, PrincipalType: access.User,
	}, s.callers["owner"])
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) validate(_ context.Context, r manage.ValidationRequest) (manage.ValidationResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = strings.TrimPrefix(r.ValidationURL, "https://localhost:7443")
	switch {
	case strings.Contains(r.URL, "refuse"):
		return manage.ValidationResult{}, fault.New(fault.Invalid, manage.URLValidation, "Webhook validation handshake failed for https://h.example/refuse. Http POST request failed with response code NotFound.")
	case strings.Contains(r.URL, "silent"):
		return manage.ValidationResult{Message: "The endpoint answered 200 without the code."}, nil
	}
	_, rate, _ := strings.Cut(r.URL, "?rate=")
	return manage.ValidationResult{Validated: true, AllowedRate: rate}, nil
}

// do makes one request; headers come in pairs.
func (s *stack) do(caller, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, "http://localhost:7443"+strings.ReplaceAll(target, " ", "%20"), strings.NewReader(body))
	if caller != "-" {
		r.Header.Set("Authorization", "Bearer "+caller)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// must is do for a request that has to succeed.
func (s *stack) must(caller, method, target, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	w := s.do(caller, method, target, body)
	if w.Code >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
	}
	return w
}

const hookBody = `{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/in?code=s3cret"}}}}`

// What differs between two runs of a golden file, and stands for itself by number.
var varying = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|"(?:whsec_|whpk_)?[A-Za-z0-9+/]{43}="|"[A-Z2-7]{52}"|link=[A-Z2-7]{52}|"hint": "[A-Z2-7]{3}"|[0-9a-f]{16}-[0-9a-f]{16}`)

// fixed are GUIDs that are the same in every run.
var fixed = []string{manage.FirstSubscription, "7a000000-0000-0000-0000-000000000000"}

// madeID is the object id of a principal that an answer is about.
var madeID = regexp.MustCompile(`"objectId":"([0-9a-f-]{36})"`)

// TestGolden replays the files of testdata/management. A file is a talk: "> caller
// METHOD path" with header lines and a body behind it, and the answer in lines that
// begin with "<". {local}, {grid}, {ws}, {sub}, {etag}, {link}, {made} and {es} stand for
// what they say; -update rewrites the answers.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/management/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				got := newStack(t).replay(string(raw))
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
					return
				}
				if got != string(raw) {
					t.Errorf("%s differs:\n%s", file, firstDifference(string(raw), got))
				}
			})
		})
	}
}

// replay makes the requests of a talk and returns the talk with their answers.
func (s *stack) replay(talk string) string {
	s.t.Helper()
	var out strings.Builder
	etag, made, seen := "", "", map[string]string{}
	fill := func(text string) string {
		return strings.NewReplacer("{local}", local, "{grid}", grids, "{ws}", wsID, "{sub}", sub, "{etag}", etag, "{link}", s.link, "{made}", made,
			"{es}", "providers/Microsoft.EventGrid/eventSubscriptions").Replace(text)
	}
	lines := strings.Split(strings.TrimRight(talk, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if strings.HasPrefix(line, "<") {
			continue
		}
		out.WriteString(line + "\n")
		request, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		var headers []string
		body := ""
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "> ") {
			i++
			out.WriteString(lines[i] + "\n")
			more := strings.TrimPrefix(lines[i], "> ")
			if name, value, isHeader := strings.Cut(more, ": "); isHeader && !strings.HasPrefix(more, "{") {
				headers = append(headers, name, fill(value))
			} else {
				body = fill(more)
			}
		}
		words := strings.SplitN(request, " ", 3)
		if len(words) != 3 {
			s.t.Fatalf("not a request: %s", line)
		}
		w := s.do(words[0], words[1], fill(words[2]), body, headers...)
		if e := w.Header().Get("ETag"); e != "" {
			etag = e
		}
		if m := madeID.FindStringSubmatch(w.Body.String()); m != nil && words[1] == http.MethodPost {
			made = m[1]
		}
		transcript := varying.ReplaceAllStringFunc(answerText(s.t, w), func(v string) string {
			if slices.Contains(fixed, v) {
				return v
			}
			if seen[v] == "" {
				seen[v] = fmt.Sprintf("{value %d}", len(seen)+1)
			}
			return seen[v]
		})
		out.WriteString(transcript)
	}
	return out.String()
}

func answerText(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "< %d\n", w.Code)
	for _, h := range []string{"Allow", "Content-Type", "ETag", "WWW-Authenticate", "x-ms-error-code"} {
		if v := w.Header().Get(h); v != "" {
			fmt.Fprintf(&out, "< %s: %s\n", h, v)
		}
	}
	if w.Body.Len() == 0 {
		return out.String()
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, bytes.TrimSpace(w.Body.Bytes()), "< ", "  "); err != nil {
		fmt.Fprintf(&out, "< %s\n", strings.TrimSpace(w.Body.String()))
		return out.String()
	}
	fmt.Fprintf(&out, "< %s\n", indented.String())
	return out.String()
}

// firstDifference shows where two talks part.
func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d\n got %s\nwant %s", i+1, b[i], a[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(b), len(a))
}
