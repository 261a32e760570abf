package carillon_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/carillon-events/carillon/"

// rows are the packages of the house, lowest first, each row with the reason for
// its place. A package imports rows above its own (earlier in the list) only.
var rows = []struct {
	packages []string
	reason   string
}{
	{[]string{"event", "internal/fault", "internal/telemetry", "internal/drift", "internal/egress", "internal/secret", "internal/smalldisk", "internal/amqppeer", "internal/mqttpeer"},
		"the floor: words and tools that know nothing of Carillon's state"},
	{[]string{"mlevent", "internal/dataset", "internal/filter", "internal/engine"},
		"what can be said of events and datasets alone: their ML vocabulary, who wants them, where they are kept or lie"},
	{[]string{"consumer"}, "what a program that handles events imports: it knows events, and nothing of the server"},
	{[]string{"consumer/consumertest", "consumer/boltinbox", "consumer/natsinbox"}, "what goes with consumer and is imported by itself"},
	{[]string{"internal/resource"}, "the nouns of the control plane, stored by the engine"},
	{[]string{"internal/access", "internal/audit", "internal/broker", "internal/workspace"},
		"who may, what was done, how an event walks, what a lifecycle fact means: none knows the others"},
	{[]string{"internal/manage"}, "each management operation once; it joins access, broker and workspace"},
	{[]string{"internal/destination", "internal/mlflow", "internal/openlineage", "internal/kubernetes", "internal/driftjob", "internal/ingest", "internal/arm", "internal/portal", "internal/issuer"},
		"the edges: each speaks one protocol to the world"},
	{[]string{"internal/server"}, "the one place that knows every package"},
	{[]string{"internal/cli", "internal/servertest"}, "who starts a server"},
	{[]string{"cmd/carillon", "bench", "internal/filter/filterload", "internal/servertest/faults", "examples/drift-retrain", "examples/elsewhere", "examples/retrain"}, "what is built, measured, broken on purpose or shown"},
}

func rowOf(pkg string) int {
	return slices.IndexFunc(rows, func(r struct {
		packages []string
		reason   string
	}) bool {
		return slices.Contains(r.packages, pkg)
	})
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// packages lists the module's packages with their imports.
func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestArrows holds every import between the module's packages against the rows.
func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if from == strings.TrimSuffix(module, "/") {
			continue // this test
		}
		row := rowOf(from)
		if row < 0 {
			t.Errorf("%s stands in no row: give it a place in architecture_test.go and ARCHITECTURE.md, with the reason", from)
			continue
		}
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if target := rowOf(to); target >= row {
				t.Errorf("%s imports %s, which is not above it.\n  %s: %s\n  %s: %s", from, to, from, rows[row].reason, to, rows[max(target, 0)].reason)
			}
		}
	}
}

// TestConsumerStandsAlone keeps the server, and what it depends on, out of the programs that
// import package consumer.
func TestConsumerStandsAlone(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./consumer").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	allowed := []string{module + "event", module + "mlevent", module + "consumer", "github.com/google/uuid", "github.com/go-jose/go-jose/v4"}
	for _, p := range strings.Fields(string(out)) {
		if !slices.ContainsFunc(allowed, func(a string) bool { return p == a || strings.HasPrefix(p, a+"/") }) {
			t.Errorf("package consumer depends on %s", p)
		}
	}
}

// bans are things that one package owns; a use elsewhere goes around it.
var bans = []struct {
	what   *regexp.Regexp
	owners []string // path prefixes that may
	reason string
}{
	{regexp.MustCompile(`\bnet\.Dial(Timeout)?\(|\bhttp\.DefaultTransport\b|\bhttp\.DefaultClient\b|\bhttp\.(Get|Post|Head|PostForm)\(|\bnet\.Dialer\{`),
		[]string{"internal/egress/", "internal/arm/client.go", "internal/cli/"},
		"every connection out of the server is dialled by internal/egress, which decides on the connected address"},
	{regexp.MustCompile(`"github\.com/nats-io/`), []string{"internal/engine/", "internal/destination/nats.go", "consumer/natsinbox/"},
		"NATS words stay inside the engine, the destination that speaks to other servers, and the inbox that handlers share"},
	{regexp.MustCompile(`\bw\.WriteHeader\((http\.Status(Bad|Unauth|Forbid|NotFound|Conflict|Internal|Precondition|TooMany|Service|Method|Unsupported|Request)|[45]\d\d)`),
		[]string{"internal/fault/", "internal/cli/", "internal/issuer/", "internal/server/http.go", "internal/ingest/", "internal/arm/", "examples/"},
		"fault.Write chooses statuses and bodies of errors"},
	{regexp.MustCompile(`\bmath/rand"`), nil, "math/rand/v2 for chance, crypto/rand for secrets"},
	{regexp.MustCompile(`\btime\.Sleep\(`), []string{"internal/engine/nats.go"}, "wait for a signal; a sleep hides a race"},
	{regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`), nil, "what is missing is an issue, not a comment"},
}

// TestBans looks for them in everything that is built.
func TestBans(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.HasPrefix(path, "internal/servertest/") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, ban := range bans {
			if slices.ContainsFunc(ban.owners, func(o string) bool { return strings.HasPrefix(filepath.ToSlash(path), o) }) {
				continue
			}
			if at := ban.what.FindIndex(raw); at != nil {
				t.Errorf("%s:%d: %q: %s", path, 1+strings.Count(string(raw[:at[0]]), "\n"), raw[at[0]:at[1]], ban.reason)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
