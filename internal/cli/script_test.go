package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected sections of testdata/script")

// A script is one command line, the answers of the server that it meets, and
// what must come of it: the requests it sends, what it prints, and its exit code.
//
//	# where the expected bytes come from
//	-- command --
//	carillon topic show orders
//	-- answers --
//	GET /path 200
//	{"body": "of the answer"}
//	-- requests --
//	-- stdout --
//	-- stderr --
//	-- exit --
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := parseScript(string(raw))
	words, err := splitWords(s["command"])
	if err != nil || len(words) == 0 || words[0] != "carillon" {
		t.Fatalf("command of %s is no carillon command: %q, %v", file, words, err)
	}
	fake := newFakeServer(t, s["answers"])
	env := map[string]string{"CARILLON_URL": fake.URL, "CARILLON_TOKEN": "secret-token"}
	var stdout, stderr bytes.Buffer
	code := Run(t.Context(), words[1:], strings.NewReader(s["stdin"]), &stdout, &stderr, func(k string) string { return env[k] })

	got := map[string]string{
		"requests": fake.recorded(),
		"stdout":   strings.ReplaceAll(stdout.String(), fake.URL, "http://server"),
		"stderr":   strings.ReplaceAll(stderr.String(), fake.URL, "http://server"),
		"exit":     fmt.Sprintln(code),
	}
	if *update {
		for name, text := range got {
			s[name] = text
		}
		if err := os.WriteFile(file, []byte(formatScript(s)), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, name := range []string{"requests", "stdout", "stderr", "exit"} {
		if got[name] != s[name] {
			t.Errorf("%s of %q\n got: %s\nwant: %s", name, s["command"], got[name], s[name])
		}
	}
	if unused := fake.unused(); len(unused) > 0 {
		t.Errorf("answers that were never asked for: %q", unused)
	}
}

var sections = []string{"command", "stdin", "answers", "requests", "stdout", "stderr", "exit"}

func parseScript(raw string) map[string]string {
	s, at := map[string]string{}, "head"
	for line := range strings.Lines(raw) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(name, " --") {
			at = strings.TrimSuffix(name, " --")
			continue
		}
		s[at] += line
	}
	return s
}

func formatScript(s map[string]string) string {
	var b strings.Builder
	b.WriteString(s["head"])
	for _, name := range sections {
		if s[name] == "" && (name == "stdin" || name == "answers") {
			continue
		}
		fmt.Fprintf(&b, "-- %s --\n%s", name, s[name])
	}
	return b.String()
}

// splitWords splits a command line the way a shell does, with both quotes and
// backslashes before line ends.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	for _, r := range strings.ReplaceAll(line, "\\\n", " ") {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\n':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	if quote != 0 {
		return nil, fmt.Errorf("quote %c is not closed", quote)
	}
	return words, nil
}

// fakeServer speaks the documented bodies that a script gives it.
type fakeServer struct {
	*httptest.Server
	mu      sync.Mutex
	answers []fakeAnswer
	log     strings.Builder
}

type fakeAnswer struct {
	request string // METHOD PATH
	status  int
	body    string
	used    bool
}

var answerLine = regexp.MustCompile(`^([A-Z]+ \S+) (\d{3})$`)

func newFakeServer(t *testing.T, answers string) *fakeServer {
	f := &fakeServer{}
	for line := range strings.Lines(answers) {
		if m := answerLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			status := 0
			if _, err := fmt.Sscan(m[2], &status); err != nil {
				t.Fatal(err)
			}
			f.answers = append(f.answers, fakeAnswer{request: m[1], status: status})
		} else if len(f.answers) > 0 {
			f.answers[len(f.answers)-1].body += line
		}
	}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	query := r.URL.Query()
	query.Del("api-version")
	shown := ""
	if len(query) > 0 {
		shown = "?" + strings.NewReplacer("%24", "$", "+", " ", "%27", "'").Replace(query.Encode())
	}
	fmt.Fprintf(&f.log, "%s %s%s\n", r.Method, r.URL.Path, shown)
	for _, name := range []string{"If-Match", "If-None-Match", "aeg-sas-key"} {
		if v := r.Header.Get(name); v != "" {
			fmt.Fprintf(&f.log, "%s: %s\n", name, v)
		}
	}
	switch authorization := r.Header.Get("Authorization"); {
	case r.Header.Get("aeg-sas-key") != "" || authorization == "Bearer secret-token":
	case authorization == "":
		fmt.Fprintf(&f.log, "no token\n")
	default:
		fmt.Fprintf(&f.log, "Authorization: %s\n", authorization)
	}
	if len(body) > 0 {
		var pretty bytes.Buffer
		if json.Indent(&pretty, body, "", "  ") != nil {
			pretty.Write(body)
		}
		fmt.Fprintf(&f.log, "%s\n", pretty.Bytes())
	}
	for i := range f.answers {
		a := &f.answers[i]
		if a.used || a.request != r.Method+" "+r.URL.Path {
			continue
		}
		a.used = true
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, strings.ReplaceAll(a.body, "http://server", f.URL))
		return
	}
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, `{"error":{"code":"ResourceNotFound","message":"The script has no answer to this request."}}`)
}

func (f *fakeServer) recorded() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func (f *fakeServer) unused() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var requests []string
	for _, a := range f.answers {
		if !a.used {
			requests = append(requests, a.request)
		}
	}
	return requests
}
