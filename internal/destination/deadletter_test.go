package destination

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/resource"
)

const accountKey = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="

func account(name string) resource.ID {
	return resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/" + name)
}

// blobServer answers like a storage account.
type blobServer struct {
	*httptest.Server
	mu      sync.Mutex
	status  int
	code    string
	seen    []*http.Request
	content []string
}

func newBlobServer(t *testing.T) *blobServer {
	s := &blobServer{status: http.StatusCreated}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seen, s.content = append(s.seen, r), append(s.content, string(body))
		if s.code != "" {
			w.Header().Set("x-ms-error-code", s.code)
		}
		w.WriteHeader(s.status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *blobServer) connection() string {
	return "AccountName=dl;AccountKey=" + accountKey + ";BlobEndpoint=" + s.URL + "/dl;"
}

func blobStore(t *testing.T, s *blobServer) *DeadLetterStore {
	t.Helper()
	c := connectionsTo(t, account("dl"), s.connection())
	return NewDeadLetterStore(c, "", egress.New(egress.Options{AllowLoopback: true}))
}

func blobTo(container string) *resource.DeadLetterDestination {
	return &resource.DeadLetterDestination{Type: resource.DeadLetterStorageBlob, Account: account("DL"), Container: container}
}

// TestBlobIsWritten: one Put Blob of a block blob, JSON, signed, at the path that
// was asked for. Source: spec/delivery.md section 7.3.
func TestBlobIsWritten(t *testing.T) {
	s := newBlobServer(t)
	if err := blobStore(t, s).Write(t.Context(), blobTo("letters"), "ES/2026/3/1/9/x.json", []byte(`[{"id":"1"}]`)); err != nil {
		t.Fatal(err)
	}
	if len(s.seen) != 1 {
		t.Fatalf("%d requests", len(s.seen))
	}
	r := s.seen[0]
	if r.Method != http.MethodPut || r.URL.Path != "/dl/letters/ES/2026/3/1/9/x.json" || s.content[0] != `[{"id":"1"}]` ||
		r.Header.Get("x-ms-blob-type") != "BlockBlob" || r.Header.Get("x-ms-blob-content-type") != "application/json" ||
		!strings.HasPrefix(r.Header.Get("Authorization"), "SharedKey dl:") {
		t.Errorf("%s %s %q %v", r.Method, r.URL.Path, s.content[0], r.Header)
	}
}

// TestBlobErrors: each says what to do, asks once, and shows no secret.
func TestBlobErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		code   string
		want   string
	}{
		{"no container", 404, "ContainerNotFound", "storage account DL answered 404 ContainerNotFound: create the container letters, or name another one"},
		{"wrong key", 403, "AuthenticationFailed", "storage account DL answered 403 AuthenticationFailed: its connection may not write there: carillon connection update gives other keys"},
		{"busy", 503, "ServerBusy", "storage account DL answered 503 ServerBusy"},
		{"elsewhere", 307, "", "storage account DL answered 307 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newBlobServer(t)
			s.status, s.code = tt.status, tt.code
			err := blobStore(t, s).Write(t.Context(), blobTo("letters"), "x.json", []byte("[]"))
			if err == nil || err.Error() != tt.want || len(s.seen) != 1 {
				t.Errorf("%v after %d requests, want %s", err, len(s.seen), tt.want)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := newBlobServer(t)
		store := blobStore(t, s)
		s.Close()
		err := store.Write(t.Context(), blobTo("letters"), "x.json", []byte("[]"))
		if err == nil || !strings.HasPrefix(err.Error(), "storage account DL cannot be reached: ") || strings.Contains(err.Error(), accountKey) {
			t.Error(err)
		}
	})
	t.Run("an address that is not allowed", func(t *testing.T) {
		s := newBlobServer(t)
		store := blobStore(t, s)
		store.guard = egress.New(egress.Options{})
		err := store.Write(t.Context(), blobTo("letters"), "x.json", []byte("[]"))
		if err == nil || !strings.Contains(err.Error(), "refused") || len(s.seen) != 0 {
			t.Error(err)
		}
	})
	t.Run("the caller's cause", func(t *testing.T) {
		s := newBlobServer(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(io.ErrShortWrite)
		if err := blobStore(t, s).Write(ctx, blobTo("letters"), "x.json", []byte("[]")); err != io.ErrShortWrite { //nolint:errorlint // the very cause
			t.Error(err)
		}
	})
}

// TestDeadLetterDirectory: the same layout below the root, whole files only, and
// nothing outside of it.
func TestDeadLetterDirectory(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	none := newConnected(t).Connections
	s := NewDeadLetterStore(none, root, egress.New(egress.Options{}))
	to := &resource.DeadLetterDestination{Type: resource.DeadLetterLocalDirectory, Directory: "team/letters"}
	for _, content := range []string{`[{"id":"1"}]`, `[{"id":"1"},{"id":"2"}]`} { // the second takes the place of the first
		if err := s.Write(t.Context(), to, "ES/2026/3/1/9/x.json", []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, "team", "letters", "ES", "2026", "3", "1", "9", "x.json"))
		if err != nil || string(got) != content {
			t.Errorf("%s, %v", got, err)
		}
	}
	files, err := os.ReadDir(filepath.Join(root, "team", "letters", "ES", "2026", "3", "1", "9"))
	if err != nil || len(files) != 1 {
		t.Errorf("%v %v", files, err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, directory := range []string{"link", "../x", "/etc"} {
		err := s.Write(t.Context(), &resource.DeadLetterDestination{Type: resource.DeadLetterLocalDirectory, Directory: directory}, "ES/x.json", []byte("[]"))
		if err == nil {
			t.Errorf("%s was written to", directory)
		}
	}
	if files, _ := os.ReadDir(outside); len(files) != 0 {
		t.Errorf("outside of the root there are %v", files)
	}
}

// TestDeadLetterCheck: what the operator did not allow is said before anything is
// stored, with the flag that would.
func TestDeadLetterCheck(t *testing.T) {
	none := newConnected(t).Connections
	some := connectionsTo(t, account("bad"), "AccountKey="+accountKey)
	guard := egress.New(egress.Options{})
	local := &resource.DeadLetterDestination{Type: resource.DeadLetterLocalDirectory, Directory: "x"}
	bad := &resource.DeadLetterDestination{Type: resource.DeadLetterStorageBlob, Account: account("bad"), Container: "letters"}
	for _, tt := range []struct {
		name  string
		store *DeadLetterStore
		to    *resource.DeadLetterDestination
		want  string
	}{
		{"no root", NewDeadLetterStore(none, "", guard), local, "--dead-letter-root"},
		{"no connections", NewDeadLetterStore(none, "", guard), blobTo("letters"), "carillon connection create --resource-id"},
		{"not this one", NewDeadLetterStore(some, "", guard), blobTo("letters"), "carillon connection create --resource-id /subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/DL"},
		{"one that cannot be used", NewDeadLetterStore(some, "", guard), bad, "it needs AccountName and AccountKey"},
	} {
		err := tt.store.Check(tt.to)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), accountKey) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.store.Write(t.Context(), tt.to, "x", nil) == nil {
			t.Errorf("%s: written", tt.name)
		}
	}
}
