package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// memoryTable keeps records in memory.
type memoryTable struct {
	entries []engine.TableEntry
	seq     uint64
	fail    error
	lost    bool // the next record is stored and not acknowledged
}

func (m *memoryTable) Put(_ context.Context, key string, value []byte) error {
	if m.fail != nil {
		return m.fail
	}
	m.entries = slices.DeleteFunc(m.entries, func(e engine.TableEntry) bool { return e.Key == key })
	m.seq++
	m.entries = append(m.entries, engine.TableEntry{Seq: m.seq, Key: key, Value: value})
	if m.lost {
		m.lost = false
		return errors.New("no answer")
	}
	return nil
}

func (m *memoryTable) Since(_ context.Context, _ string, after uint64) iter.Seq2[engine.TableEntry, error] {
	return func(yield func(engine.TableEntry, error) bool) {
		for _, e := range m.entries {
			if e.Seq > after && !yield(e, nil) {
				return
			}
		}
	}
}

func (m *memoryTable) Last(context.Context) (uint64, error) { return m.seq, nil }

func (m *memoryTable) Purge(_ context.Context, below uint64) error {
	m.entries = slices.DeleteFunc(m.entries, func(e engine.TableEntry) bool { return e.Seq < below })
	return nil
}

func (m *memoryTable) Bytes() (n int64) {
	for _, e := range m.entries {
		n += int64(len(e.Value))
	}
	return n
}

func open(t *testing.T, m *memoryTable) *Log {
	t.Helper()
	l, err := Open(t.Context(), m, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func records(t *testing.T, l *Log) []Stored {
	t.Helper()
	var all []Stored
	for s, err := range l.Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func verify(m *memoryTable) *Report {
	r := NewReport(0, "")
	for _, e := range m.entries {
		r.Add(e.Value)
	}
	r.End()
	return r
}

// request runs f in a request of somebody.
func request(t *testing.T, f func(ctx context.Context)) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPut, "/x", nil)
	r.Header.Set("User-Agent", "AZURECLI/2")
	telemetry.NewMiddleware(slog.New(slog.DiscardHandler), fault.Write).Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		rec := telemetry.RecordOf(r.Context())
		rec.SetPrincipal(telemetry.Identity{ObjectID: "oid", Name: "ada", TokenID: "jti"})
		rec.Add(slog.String(telemetry.Action, "Microsoft.EventGrid/topics/write"), slog.String(telemetry.Resource, "/subscriptions/s"))
		f(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), r)
}

func change(id string, before, after string) resource.Change {
	c := resource.Change{Kind: "topic", Key: strings.ToLower(strings.TrimPrefix(id, "/"))}
	if before != "" {
		c.Before = []byte(before)
	}
	if after != "" {
		c.After = []byte(after)
	}
	return c
}

func TestChange(t *testing.T) {
	m := &memoryTable{}
	l := open(t, m)
	request(t, func(ctx context.Context) {
		settle, err := l.Witness(ctx, change("/a/b", `{"id":"/A/B","tags":{"x":"1","y":"2"},"n":1}`, `{"id":"/A/B","tags":{"x":"3","y":"2"},"n":1,"new":[true]}`))
		if err != nil {
			t.Fatal(err)
		}
		settle(nil)
	})
	got := records(t, l)[0].Record
	if got.Event != Change || got.Operation != "update" || got.Resource != "/A/B" || got.Action != "Microsoft.EventGrid/topics/write" {
		t.Errorf("record %+v", got)
	}
	if got.Principal != (Principal{ObjectID: "oid", Name: "ada", TokenID: "jti"}) {
		t.Errorf("principal %+v", got.Principal)
	}
	if got.Request.ID == "" || got.Request.Remote != "192.0.2.1" || got.Request.UserAgent != "AZURECLI/2" {
		t.Errorf("request %+v", got.Request)
	}
	if text := string(encode(got.Changes)); text != `[{"field":"new","after":[true]},{"field":"tags.x","before":"1","after":"3"}]` {
		t.Errorf("changes %s", text)
	}
}

func TestNoSecretIsKept(t *testing.T) {
	sealer := secret.NewSealer(secret.Key{1})
	sealed, err := sealer.Seal([]byte("s3cret"), "x")
	if err != nil {
		t.Fatal(err)
	}
	other, err := sealer.Seal([]byte("s3cret"), "x")
	if err != nil {
		t.Fatal(err)
	}
	m := &memoryTable{}
	l := open(t, m)
	for _, text := range []string{
		`{"sealedKeys":["%s","%s"]}`, `{"destination":{"webHook":{"sealedUrl":"%s"}},"old":["%s"]}`,
		`{"secrets":[{"hint":"ABC","salt":"c2FsdA==","hash":"%s"}],"tokenHash":"%s"}`,
	} {
		for _, c := range []resource.Change{
			change("/a/b", "", fmt.Sprintf(text, sealed, sealed)),
			change("/a/b", fmt.Sprintf(text, sealed, sealed), fmt.Sprintf(text, sealed, other)),
			change("/a/b", fmt.Sprintf(text, sealed, sealed), ""),
		} {
			if _, err := l.Witness(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range records(t, l) {
		for _, word := range []string{sealed, other, "c2FsdA", "s3cret"} {
			if bytes.Contains(s.Raw, []byte(word)) {
				t.Errorf("record %s holds %q", s.Raw, word)
			}
		}
		if !bytes.Contains(s.Raw, []byte("(secret)")) {
			t.Errorf("record %s does not say that a secret changed", s.Raw)
		}
	}
}

func TestLongValuesAreNamedByHash(t *testing.T) {
	l := open(t, &memoryTable{})
	if _, err := l.Witness(t.Context(), change("/a/b", "", `{"filter":"`+strings.Repeat("x", maxValue)+`"}`)); err != nil {
		t.Fatal(err)
	}
	if got := string(records(t, l)[0].Changes[0].After); !strings.HasPrefix(got, fmt.Sprintf(`"(%d bytes, sha256 `, maxValue+2)) {
		t.Errorf("value %.80s", got)
	}
}

// What cannot be recorded is not done: see also TestStoreWitness of package resource.
func TestWhatCannotBeRecorded(t *testing.T) {
	m := &memoryTable{fail: errors.New("disk")}
	l := open(t, m)
	_, err := l.Witness(t.Context(), change("/a/b", "", `{}`))
	for name, err := range map[string]error{
		"change": err, "secret": l.SecretRead(t.Context(), resource.MustID("/subscriptions/s"), "access keys"),
		"token": l.TokenIssued(t.Context(), Token{ID: "x"}),
	} {
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.Unavailable || f.Code != "AuditUnavailable" {
			t.Errorf("%s: %v, want a fault AuditUnavailable", name, err)
		}
	}
	m.fail = nil
	if err := l.SecretRead(t.Context(), resource.MustID("/subscriptions/s"), "access keys"); err != nil {
		t.Error(err)
	}
	if r := verify(m); r.Problem != "" || r.Records != 1 {
		t.Errorf("report %+v", r)
	}
}

func TestChangeThatFails(t *testing.T) {
	l := open(t, &memoryTable{})
	settle, err := l.Witness(t.Context(), change("/a/b", "", `{}`))
	if err != nil {
		t.Fatal(err)
	}
	settle(errors.New("changed meanwhile"))
	all := records(t, l)
	if len(all) != 2 || all[1].Event != ChangeFailed || all[1].Of != 1 || all[1].Error != "changed meanwhile" {
		t.Errorf("records %+v", all)
	}
}

// A record whose ack was lost is replaced by the next one, or counted after a start.
func TestLostAck(t *testing.T) {
	for _, restart := range []bool{false, true} {
		m := &memoryTable{lost: true}
		l := open(t, m)
		if _, err := l.Witness(t.Context(), change("/a/b", "", `{}`)); err == nil {
			t.Fatal("a lost ack is no error")
		}
		if restart {
			l = open(t, m)
		}
		if _, err := l.Witness(t.Context(), change("/c/d", "", `{}`)); err != nil {
			t.Fatal(err)
		}
		want := uint64(1)
		if restart {
			want = 2
		}
		if r := verify(m); r.Problem != "" || r.Records != want {
			t.Errorf("restart %v: report %+v, want %d records", restart, r, want)
		}
	}
}

func TestVerify(t *testing.T) {
	tests := []struct {
		name, want string
		harm       func(m *memoryTable)
	}{
		{"whole", "", func(*memoryTable) {}},
		{"altered", "record 3 was altered", func(m *memoryTable) {
			m.entries[2].Value = bytes.Replace(m.entries[2].Value, []byte("/c/2"), []byte("/c/9"), 1)
		}},
		{"taken out", "records 3 to 3 are missing", func(m *memoryTable) { m.entries = slices.Delete(m.entries, 2, 3) }},
		{"beginning cut off", "records 1 to 2 are missing", func(m *memoryTable) { m.entries = m.entries[2:] }},
		{"put in", "records 4 to 2 are missing", func(m *memoryTable) { m.entries = slices.Insert(m.entries, 3, m.entries[2]) }},
		{"unreadable", "cannot be read", func(m *memoryTable) { m.entries[1].Value = []byte("{") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &memoryTable{}
			l := open(t, m)
			for i := range 5 {
				if _, err := l.Witness(t.Context(), change(fmt.Sprintf("/c/%d", i), "", `{}`)); err != nil {
					t.Fatal(err)
				}
			}
			tt.harm(m)
			if r := verify(m); (r.Problem == "") != (tt.want == "") || !strings.Contains(r.Problem, tt.want) {
				t.Errorf("problem %q, want %q", r.Problem, tt.want)
			}
		})
	}
}

func TestKnownHead(t *testing.T) {
	m := &memoryTable{}
	l := open(t, m)
	for i := range 3 {
		if _, err := l.Witness(t.Context(), change(fmt.Sprintf("/c/%d", i), "", `{}`)); err != nil {
			t.Fatal(err)
		}
	}
	second := records(t, l)[1]
	tests := []struct {
		name   string
		number uint64
		hash   string
		want   string
	}{
		{"the same", 2, second.Hash, ""},
		{"built anew", 2, strings.Repeat("0", 64), "built anew"},
		{"cut off", 4, second.Hash, "record 4 is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReport(tt.number, tt.hash)
			for _, e := range m.entries {
				r.Add(e.Value)
			}
			r.End()
			if (r.Problem == "") != (tt.want == "") || !strings.Contains(r.Problem, tt.want) {
				t.Errorf("problem %q, want %q", r.Problem, tt.want)
			}
		})
	}
}

func TestOldestRecordsGo(t *testing.T) {
	m := &memoryTable{}
	l := open(t, m)
	l.quota = 40 << 10
	for i := range 10 * checkEvery {
		if _, err := l.Witness(t.Context(), change(fmt.Sprintf("/c/%d", i), "", `{}`)); err != nil {
			t.Fatal(err)
		}
	}
	r := verify(m)
	if r.Problem != "" || r.RemovedTo == 0 || r.First != r.RemovedTo+1 || r.Last < 10*checkEvery {
		t.Errorf("report %+v", r)
	}
	before := l.hash
	if l = open(t, m); l.last != r.Last || l.hash != before {
		t.Errorf("opened at %d, want %d", l.last, r.Last)
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	l := open(t, &memoryTable{})
	refused := fault.New(fault.Forbidden, "AuthorizationFailed", "no")
	for range 3 * maxRefusals {
		if err := l.Refused(t.Context(), refused); err != nil {
			t.Fatal(err)
		}
	}
	l.minute = l.minute.Add(-time.Minute)
	if err := l.Refused(t.Context(), refused); err != nil {
		t.Fatal(err)
	}
	all := records(t, l)
	if len(all) != maxRefusals+1 || all[maxRefusals].LeftOut != 2*maxRefusals {
		t.Errorf("%d records, the last left out %d", len(all), all[len(all)-1].LeftOut)
	}
}

func TestTokensOfTheDataDirectory(t *testing.T) {
	data := t.TempDir()
	note := Token{ID: "jti", ObjectID: "5f000000-0000-0000-0000-000000000001", User: "ada", Expires: time.Now().Truncate(time.Second).UTC()}
	if err := NoteToken(data, note); err != nil {
		t.Fatal(err)
	}
	m := &memoryTable{fail: errors.New("disk")}
	l, err := Open(t.Context(), m, data, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.takeTokens(t.Context()); err == nil {
		t.Error("a record that is not stored is no error")
	}
	m.fail = nil
	for range 2 {
		if err := l.takeTokens(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all := records(t, l)
	if len(all) != 1 || all[0].Event != TokenIssued || *all[0].Token != note {
		t.Errorf("records %+v", all)
	}
	if left, _ := filepath.Glob(filepath.Join(data, "tokens", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if err := os.WriteFile(filepath.Join(data, "tokens", "x.json"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.takeTokens(t.Context()); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("error %v", err)
	}
}

func TestNilKeepsNothing(t *testing.T) {
	var l *Log
	settle, err := l.Witness(t.Context(), resource.Change{})
	if err != nil {
		t.Fatal(err)
	}
	settle(nil)
	if err := errors.Join(l.SecretRead(t.Context(), resource.Root, ""), l.TokenIssued(t.Context(), Token{}), l.Refused(t.Context(), errors.New("x"))); err != nil {
		t.Error(err)
	}
	for range l.Records(t.Context(), 0) {
		t.Error("a record")
	}
}

// What is verified by clients is what was stored, also through an indenting printer.
func TestRawSurvivesPrinting(t *testing.T) {
	l := open(t, &memoryTable{})
	if _, err := l.Witness(t.Context(), change("/a/b", "", `{"x":"<&> \u2028"}`)); err != nil {
		t.Fatal(err)
	}
	raw := records(t, l)[0].Raw
	var printed, compact bytes.Buffer
	if err := errors.Join(json.Indent(&printed, raw, "", "  "), json.Compact(&compact, printed.Bytes())); err != nil || compact.String() != string(raw) {
		t.Errorf("%v\n%s\n%s", err, raw, compact.Bytes())
	}
}
