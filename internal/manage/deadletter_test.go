package manage

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const storageAccount = local + "/providers/Microsoft.Storage/storageAccounts/dl"

// withLetters is a change that sets a webhook and a dead-letter destination.
func withLetters(c DeadLetterChange) EventSubscriptionChange {
	out := hook(hookURL)
	if c.Target == "" {
		c.Target = "deadLetterDestination"
	}
	out.DeadLetter = &c
	return out
}

func inBlobs(container string) DeadLetterChange {
	return DeadLetterChange{Type: "storageblob", ResourceID: storageAccount, Container: container}
}

// TestDeadLetterProblems: each names field, value and remedy.
func TestDeadLetterProblems(t *testing.T) {
	const at, props = "properties.deadLetterDestination", "properties.deadLetterDestination.properties."
	const managed = "deadLetterWithResourceIdentity.deadLetterDestination"
	container := func(name string) string {
		return props + "blobContainerName: The container '" + name + "' cannot be used: a container's name has 3 to 63 lower-case letters, digits and single hyphens, with a letter or digit at both ends."
	}
	dir := func(name string) string {
		return props + "directory: The directory '" + name + "' cannot be used: name one below the root that the operator gave, of letters, digits, '_', '-' and '.', for example team/letters, with at most 200 characters."
	}
	identity := func(kind, id string) DeadLetterChange {
		c := inBlobs("letters")
		c.Target, c.Identity, c.IdentityType, c.IdentityID = managed, json.RawMessage(`{}`), kind, id
		return c
	}
	for _, tt := range []struct {
		name string
		c    DeadLetterChange
		want string
	}{
		{"no type", DeadLetterChange{}, at + ".endpointType: A dead-letter destination needs an endpointType: StorageBlob, or LocalDirectory for a directory of the server."},
		{"another type", DeadLetterChange{Type: "StorageQueue"}, at + ".endpointType: The endpoint type 'StorageQueue' takes no dead letters: use StorageBlob, or LocalDirectory for a directory of the server."},
		{"not an account", DeadLetterChange{Type: "StorageBlob", ResourceID: workspaceID, Container: "letters"},
			props + "resourceId: The resourceId '" + workspaceID + "' is not that of a storage account: write it like /subscriptions/…/resourceGroups/…/providers/Microsoft.Storage/storageAccounts/NAME."},
		{"upper case", inBlobs("Letters"), container("Letters")},
		{"short", inBlobs("ab"), container("ab")},
		{"two hyphens", inBlobs("a--b"), container("a--b")},
		{"hyphen at the end", inBlobs("letters-"), container("letters-")},
		{"a path", inBlobs("a/../b"), container("a/../b")},
		{"no container", inBlobs(""), container("")},
		{"outside", DeadLetterChange{Type: "LocalDirectory", Directory: "../x"}, dir("../x")},
		{"absolute", DeadLetterChange{Type: "LocalDirectory", Directory: "/etc"}, dir("/etc")},
		{"dots", DeadLetterChange{Type: "LocalDirectory", Directory: "a/../b"}, dir("a/../b")},
		{"no directory", DeadLetterChange{Type: "LocalDirectory"}, dir("")},
		{"not allowed here", inBlobs("unknown"), at + ": The dead-letter destination cannot be used: the operator has given no connection."},
		{"identity of no kind", identity("None", ""), "properties.deadLetterWithResourceIdentity.identity.type: The identity type 'None' is not known: use SystemAssigned or UserAssigned."},
		{"user-assigned without an id", identity("UserAssigned", "x"), "properties.deadLetterWithResourceIdentity.identity.userAssignedIdentity: A UserAssigned identity needs its full resource id in userAssignedIdentity."},
		{"system-assigned with an id", identity("SystemAssigned", workspaceID), "properties.deadLetterWithResourceIdentity.identity.userAssignedIdentity: A SystemAssigned identity has no userAssignedIdentity: leave it out."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.CheckDeadLetter = func(d *resource.DeadLetterDestination) error {
				if d.Container == "unknown" {
					return errors.New("the operator has given no connection")
				}
				return nil
			}
			_, err := f.PutEventSubscription(context.Background(), f.owner, id(workspaceID+extension+"es1"), withLetters(tt.c), Precondition{})
			if got := problems(err); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if n := f.endpoint.count(); n != 0 {
				t.Errorf("%d handshakes for an invalid request", n)
			}
		})
	}
}

// TestDeadLetterIsStored: PUT sets and removes it, PATCH leaves or replaces it.
func TestDeadLetterIsStored(t *testing.T) {
	f := newFixture(t)
	f.CheckDeadLetter = func(*resource.DeadLetterDestination) error { return nil }
	at := workspaceID + extension + "es1"
	live := func() string {
		d := f.broker.live[f.get(t, at).Value.UID].DeadLetter
		if d == nil {
			return ""
		}
		return d.Type + " " + d.String()
	}
	f.put(t, at, withLetters(inBlobs("letters")))
	blobs := "StorageBlob container letters of " + storageAccount
	if live() != blobs {
		t.Errorf("live: %s", live())
	}
	for _, step := range []struct {
		name string
		c    EventSubscriptionChange
		put  bool
		want string
	}{
		{"PATCH of something else", EventSubscriptionChange{Labels: &[]string{"x"}}, false, blobs},
		{"PATCH of it", EventSubscriptionChange{DeadLetter: &DeadLetterChange{Type: "LocalDirectory", Directory: "a/b"}}, false, "LocalDirectory directory a/b"},
		{"PUT without it", hook(hookURL), true, ""},
		{"PUT with it", withLetters(inBlobs("letters")), true, blobs},
		{"PATCH that takes it away", EventSubscriptionChange{DeadLetter: &DeadLetterChange{None: true}}, false, ""},
	} {
		var err error
		if step.put {
			_, err = f.PutEventSubscription(context.Background(), f.owner, id(at), step.c, Precondition{})
		} else {
			_, err = f.PatchEventSubscription(context.Background(), f.owner, id(at), step.c, Precondition{})
		}
		if err != nil || live() != step.want {
			t.Errorf("%s: %v, live %s, want %s", step.name, err, live(), step.want)
		}
	}
}

// TestDeadLetterAuthorization: whoever aims dead letters at a storage account needs
// to be allowed to write it. Source: spec/access.md section 10.
func TestDeadLetterAuthorization(t *testing.T) {
	f := newFixture(t)
	f.CheckDeadLetter = func(*resource.DeadLetterDestination) error { return nil }
	f.topic(t, "orders", "")
	for i, tt := range []struct {
		name    string
		storage string // role on the account, or on a scope of it
		scope   string
		code    string
	}{
		{"nothing", "", "", "LinkedAuthorizationFailed"},
		{"reader", access.RoleReader, storageAccount, "LinkedAuthorizationFailed"},
		{"contributor of the account", access.RoleContributor, storageAccount, ""},
		{"contributor of the container", access.RoleContributor, storageAccount + "/blobServices/default/containers/letters", ""},
		{"contributor of another container", access.RoleContributor, storageAccount + "/blobServices/default/containers/other", "LinkedAuthorizationFailed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caller := f.user(t, access.RoleContributor, topicsPrefix+"orders")
			if tt.storage != "" {
				f.assign(t, caller, tt.storage, tt.scope)
			}
			at := topicsPrefix + "orders" + extension + "es-" + string(rune('a'+i)) + "x"
			_, err := f.PutEventSubscription(context.Background(), caller, id(at), withLetters(inBlobs("letters")), Precondition{})
			bad, _ := errors.AsType[*fault.Error](err)
			if tt.code == "" && err != nil || tt.code != "" && (bad == nil || bad.Code != tt.code || !strings.Contains(bad.Message, storageAccount)) {
				t.Errorf("%v", err)
			}
			if _, err := f.PutEventSubscription(context.Background(), caller, id(at), withLetters(DeadLetterChange{Type: "LocalDirectory", Directory: "x"}), Precondition{}); err != nil {
				t.Errorf("a directory of the operator's: %v", err)
			}
		})
	}
}
