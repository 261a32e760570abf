package access

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// publishToken issues a token for publishing.
func (w *world) publishToken(t testing.TB, to Caller, lifetime time.Duration) string {
	t.Helper()
	p, ok := w.directory.Principal(to.ObjectID)
	if !ok {
		t.Fatalf("no principal %s", to.ObjectID)
	}
	issued, err := w.tokens.Issue(Grant{Principal: p, Audience: AudiencePublish, Issuer: w.tokens.Issuer(testOrigin, FaceV2), Lifetime: lifetime})
	if err != nil {
		t.Fatal(err)
	}
	return issued.Token.Reveal()
}

// Which roles let a token publish, and at which scopes.
// Source: spec/access.md sections 8, 13 and 15, "publish with token".
func TestSendersByRole(t *testing.T) {
	for _, c := range []struct {
		role, scope string
		want        bool
	}{
		{"EventGrid Data Sender", testTopic, true},
		{"EventGrid Data Sender", strings.ToUpper(testTopic), true},
		{"EventGrid Data Sender", testGroup, true},
		{"EventGrid Data Sender", "/", true},
		{"EventGrid Data Contributor", testGroup, true},
		{"EventGrid Data Sender", testTopic + "-2", false},
		{"EventGrid Data Sender", testTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es", false},
		{"EventGrid Data Sender", testGroup + "-prod", false},
		{"EventGrid Data Receiver", testTopic, false},
		{"EventGrid Contributor", "/", false},
		{"Contributor", "/", false},
		{"Owner", "/", false},
	} {
		t.Run(c.role+" at "+c.scope, func(t *testing.T) {
			w := newWorld(t)
			senders, caller := NewSenders(w.tokens, w.strict), w.principal(t, "ci")
			w.grant(t, caller, c.role, c.scope)
			principal, err := senders.AuthorizeSender(t.Context(), w.publishToken(t, caller, time.Hour), resource.MustID(testTopic))
			if c.want {
				if err != nil || principal != caller.ObjectID {
					t.Errorf("%q, %v", principal, err)
				}
				return
			}
			f := wantFault(t, err, fault.Forbidden, "AuthorizationFailed")
			for _, part := range []string{caller.ObjectID, testTopic, ActionSend, "EventGrid Data Sender"} {
				if !strings.Contains(f.Message, part) {
					t.Errorf("%q does not name %s", f.Message, part)
				}
			}
		})
	}
}

// What changes of roles, principals and groups is known at once, though the token was
// seen before.
func TestSendersAfterChanges(t *testing.T) {
	w := newWorld(t)
	senders, caller, topic := NewSenders(w.tokens, w.strict), w.principal(t, "ci"), resource.MustID(testTopic)
	token := w.publishToken(t, caller, time.Hour)
	send := func() error {
		_, err := senders.AuthorizeSender(t.Context(), token, topic)
		return err
	}
	wantFault(t, send(), fault.Forbidden, "AuthorizationFailed")
	a := w.grant(t, caller, "EventGrid Data Sender", testTopic)
	for range 2 {
		if err := send(); err != nil {
			t.Fatalf("after the role was assigned: %v", err)
		}
	}
	if _, err := w.directory.Unassign(t.Context(), a.ID()); err != nil {
		t.Fatal(err)
	}
	wantFault(t, send(), fault.Forbidden, "AuthorizationFailed")

	group := w.group(t, "publishers", caller.ObjectID)
	w.grant(t, Caller{ObjectID: group.ObjectID}, "EventGrid Data Sender", testGroup)
	if err := send(); err != nil {
		t.Fatalf("as a member of a group: %v", err)
	}
	w.setMembers(t, group.ObjectID)
	wantFault(t, send(), fault.Forbidden, "AuthorizationFailed")
	w.setMembers(t, group.ObjectID, caller.ObjectID)
	if err := send(); err != nil {
		t.Fatalf("as a member again: %v", err)
	}
	if _, err := w.directory.SetEnabled(t.Context(), caller.ObjectID, false); err != nil {
		t.Fatal(err)
	}
	wantFault(t, send(), fault.Unauthenticated, "InvalidAuthenticationToken")
}

// A token for the management plane does not publish, and the answer says which one
// does. One that expired is refused also when it was seen before.
func TestSendersTokens(t *testing.T) {
	w := newWorld(t)
	senders, caller, topic := NewSenders(w.tokens, w.strict), w.principal(t, "ci"), resource.MustID(testTopic)
	w.grant(t, caller, "EventGrid Data Sender", "/")
	for range 2 {
		_, err := senders.AuthorizeSender(t.Context(), w.token(t, caller), topic)
		f := wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationTokenAudience")
		if !strings.Contains(f.Message, AudiencePublish) || strings.Contains(f.Message, AudienceManagement) {
			t.Errorf("%q", f.Message)
		}
		if !strings.HasPrefix(f.Challenge, senders.Challenge()+`, error="invalid_token", `) || !strings.HasPrefix(f.Challenge, `Bearer authorization_uri="`+testOrigin+`/`) {
			t.Errorf("challenge %s", f.Challenge)
		}
	}
	_, err := senders.AuthorizeSender(t.Context(), "abc.def.ghi", topic)
	wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		senders, caller := NewSenders(w.tokens, w.strict), w.principal(t, "ci")
		w.grant(t, caller, "EventGrid Data Sender", testTopic)
		token := w.publishToken(t, caller, time.Minute)
		for _, c := range []struct {
			after time.Duration
			holds bool
		}{{0, true}, {30 * time.Second, true}, {time.Minute, true}, {clockSkew, false}} { // other clocks differ
			time.Sleep(c.after)
			if _, err := senders.AuthorizeSender(t.Context(), token, topic); (err == nil) != c.holds {
				t.Errorf("after %s more: %v", c.after, err)
			}
		}
	})
}

// What a publisher with a known token pays, beside 1,000 role assignments of others.
func BenchmarkAuthorizeSender(b *testing.B) {
	w := newWorld(b)
	for i := range 1000 {
		w.grant(b, w.ownerCaller(b), "Reader", fmt.Sprintf("%s-%d", testTopic, i))
	}
	senders, caller, topic := NewSenders(w.tokens, w.strict), w.principal(b, "ci"), resource.MustID(testTopic)
	w.grant(b, caller, "EventGrid Data Sender", testTopic)
	token := w.publishToken(b, caller, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := senders.AuthorizeSender(b.Context(), token, topic); err != nil {
			b.Fatal(err)
		}
	}
}

// Which roles let a token receive. Making an event subscription of a workspace takes
// write permission there by the strict rule, and so does receiving what it has.
// Source: spec/access.md sections 8 and 10.
func TestReceiversByRole(t *testing.T) {
	type role struct{ name, scope string }
	const (
		onTopic = testTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es"
		nested  = testTopic + "/eventSubscriptions/es"
	)
	receiver, contributor := "EventGrid Data Receiver", "Contributor"
	for _, c := range []struct {
		name       string
		es, source string
		roles      []role
		strict     string // "" or the code of the refusal
		actions    string
	}{
		{"receiver of the topic", onTopic, testTopic, []role{{receiver, testTopic}}, "", ""},
		{"receiver of the event subscription", onTopic, testTopic, []role{{receiver, strings.ToUpper(onTopic)}}, "", ""},
		{"receiver of it under its other id", onTopic, testTopic, []role{{receiver, nested}}, "", ""},
		{"data contributor of the group", onTopic, testTopic, []role{{"EventGrid Data Contributor", testGroup}}, "", ""},
		{"receiver of another one", onTopic, testTopic, []role{{receiver, onTopic + "-2"}}, "AuthorizationFailed", "AuthorizationFailed"},
		{"sender", onTopic, testTopic, []role{{"EventGrid Data Sender", testTopic}}, "AuthorizationFailed", "AuthorizationFailed"},
		{"owner", onTopic, testTopic, []role{{"Owner", "/"}}, "AuthorizationFailed", "AuthorizationFailed"},
		{"nobody", onTopic, testTopic, nil, "AuthorizationFailed", "AuthorizationFailed"},
		{"workspace: receiver", testEvents, testWorkspace, []role{{receiver, testWorkspace}}, "LinkedAuthorizationFailed", ""},
		{"workspace: contributor", testEvents, testWorkspace, []role{{contributor, testWorkspace}}, "AuthorizationFailed", "AuthorizationFailed"},
		{"workspace: both", testEvents, testWorkspace, []role{{receiver, testWorkspace}, {contributor, testWorkspace}}, "", ""},
		{"system topic: receiver", testNested, testWorkspace, []role{{receiver, testGroup}}, "LinkedAuthorizationFailed", ""},
		{"system topic: both", testNested, testWorkspace, []role{{receiver, testGroup}, {contributor, testWorkspace}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			caller := w.principal(t, "batch")
			for _, r := range c.roles {
				w.grant(t, caller, r.name, r.scope)
			}
			token := w.publishToken(t, caller, time.Hour)
			for _, rule := range []struct {
				z    *Authorizer
				want string
			}{{w.strict, c.strict}, {w.actions, c.actions}} {
				_, err := NewSenders(w.tokens, rule.z).AuthorizeReceiver(t.Context(), token, resource.MustID(c.es), resource.MustID(c.source))
				if rule.want == "" && err != nil {
					t.Errorf("refused: %v", err)
				} else if rule.want != "" {
					wantFault(t, err, fault.Forbidden, rule.want)
				}
			}
		})
	}
	w := newWorld(t)
	_, err := NewSenders(w.tokens, w.strict).AuthorizeReceiver(t.Context(), "abc.def.ghi", resource.MustID(onTopic), resource.MustID(testTopic))
	wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
}

// Who may change an event subscription may receive its events with the token that it is
// changed with, for it could send them elsewhere as well.
func TestReceiversByManagementToken(t *testing.T) {
	const onTopic = testTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es"
	for _, c := range []struct {
		role, at, es, source, want string
	}{
		{"Owner", testTopic, onTopic, testTopic, ""},
		{"EventGrid EventSubscription Contributor", testTopic, onTopic, testTopic, ""},
		{"EventGrid Data Receiver", testTopic, onTopic, testTopic, "AuthorizationFailed"},
		{"Reader", testTopic, onTopic, testTopic, "AuthorizationFailed"},
		{"Contributor", testWorkspace, testEvents, testWorkspace, ""},
		{"EventGrid EventSubscription Contributor", testWorkspace, testEvents, testWorkspace, "LinkedAuthorizationFailed"},
	} {
		t.Run(c.role+" at "+c.at, func(t *testing.T) {
			w := newWorld(t)
			caller := w.principal(t, "laptop")
			w.grant(t, caller, c.role, c.at)
			receive := func() error {
				_, err := NewSenders(w.tokens, w.strict).AuthorizeReceiver(t.Context(), w.token(t, caller), resource.MustID(c.es), resource.MustID(c.source))
				return err
			}
			if err := receive(); c.want != "" {
				wantFault(t, err, fault.Forbidden, c.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
			if _, _, err := w.directory.Deny(t.Context(), DenyAssignment{
				Name: uuid.NewString(), Title: "no receiving", Scope: resource.MustID(c.at), Principals: []Denied{{ID: caller.ObjectID}}, Permissions: []Permission{{DataActions: []string{ActionReceive}}},
			}, w.ownerCaller(t)); err != nil {
				t.Fatal(err)
			}
			wantFault(t, receive(), fault.Forbidden, "DenyAssignmentAuthorizationFailed")
		})
	}
}
