package servertest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/audit"
)

// TestAuditLog: what was done stands in the audit log in order, also after a kill, and
// no secret does.
func TestAuditLog(t *testing.T) {
	s := New(t)
	topic, _ := s.Topic("orders")
	handler := NewReceiver(t)
	s.Subscribe(topic, "es1", handler.URL+"/in?code=s3cret-of-the-url", nil)
	var made struct{ AppID, ObjectID, Password string }
	s.Must("POST", arm.PrincipalsPath, map[string]any{"name": "ci"}, &made)
	if err := audit.NoteToken(s.Dir, audit.Token{ID: "jti-1", ObjectID: made.ObjectID, User: "ada"}); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Restart()
	s.Must("DELETE", topic, nil, nil)

	var found []audit.Record
	var report *audit.Report
	read := func() {
		t.Helper()
		found, report = nil, audit.NewReport(0, "")
		for raw, err := range s.List(t.Context(), arm.AuditPath, nil) {
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"s3cret", made.Password, `"s1.`} {
				if bytes.Contains(raw, []byte(word)) {
					t.Errorf("a record holds %q: %s", word, raw)
				}
			}
			var body struct{ Properties json.RawMessage }
			var r audit.Record
			if err := json.Unmarshal(raw, &body); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(body.Properties, &r); err != nil {
				t.Fatal(err)
			}
			report.Add(body.Properties)
			found = append(found, r)
		}
		report.End()
	}
	left := func() []string {
		files, _ := filepath.Glob(filepath.Join(s.Dir, "tokens", "*"))
		return files
	}
	for deadline := time.Now().Add(patience); len(left()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no record was made of %v", left())
		}
	}
	read()
	if report.Problem != "" {
		t.Errorf("the chain is broken: %s", report.Problem)
	}
	next := 0
	want := []struct {
		event           audit.Event
		operation, name string // of the resource, how it ends
	}{
		{audit.Change, "create", "/topics/orders"},
		{audit.SecretRead, "access keys", "/topics/orders"},
		{audit.Change, "create", "/eventsubscriptions/es1"},
		{audit.Change, "create", "/principals/" + made.ObjectID},
	}
	for _, r := range found {
		if next < len(want) && r.Event == want[next].event && r.Operation == want[next].operation && strings.HasSuffix(strings.ToLower(r.Resource), strings.ToLower(want[next].name)) {
			if r.Principal.Name != "owner" || r.Request.ID == "" || r.Action == "" {
				t.Errorf("%s of %s does not say who asked for it: %+v", r.Operation, r.Resource, r)
			}
			next++
		}
	}
	if next < len(want) {
		t.Errorf("no record of %+v among %+v", want[next], found)
	}
	deleted, token := 0, 0
	for _, r := range found {
		if r.Operation == "delete" {
			deleted++
		}
		if r.Token != nil && r.Token.ID == "jti-1" && r.Token.User == "ada" {
			token++
		}
	}
	if deleted != 2 || token == 0 { // the topic and its event subscription
		t.Errorf("%d records of deletions and %d of the token", deleted, token)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "tokens")); err != nil {
		t.Error(err)
	}
}
