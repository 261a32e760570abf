package manage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	connectionsPrefix = local + "/providers/Carillon.Secrets/connections/"
	busNamespace      = local + "/providers/Microsoft.ServiceBus/namespaces/ns"
	elsewhereBus      = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/ns"
)

func given(s string) *secret.String { return new(secret.String(s)) }

func toResource(at, connectionString string) ConnectionChange {
	return ConnectionChange{ResourceID: &at, ConnectionString: given(connectionString)}
}

func toBucket(name string) ConnectionChange {
	return ConnectionChange{Bucket: &name, Endpoint: text("https://s3.example/"), AccessKeyID: text("id"), SecretAccessKey: given("s3cret-key"), SessionToken: given("s3cret-session")}
}

// connect is a fixture that knows what a connection string shows.
func connect(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.CheckConnection = func(_ resource.ID, text secret.String) (string, string, error) {
		if strings.HasPrefix(text.Reveal(), "bad") {
			return "", "", fault.Field("connectionString", "It cannot be used.")
		}
		return "host of " + text.Reveal()[:1], "key", nil
	}
	return f
}

func (f *fixture) connection(t *testing.T, name string, c ConnectionChange) resource.Item[resource.Connection] {
	t.Helper()
	item, _, err := f.PutConnection(t.Context(), f.owner, id(connectionsPrefix+name), c, Precondition{})
	if err != nil {
		t.Fatalf("PUT %s: %v", name, err)
	}
	return item
}

// secretsOf opens what is stored of a connection.
func (f *fixture) secretsOf(t *testing.T, name string) string {
	t.Helper()
	item, there := f.Store.Connections.Get(id(connectionsPrefix + name).Key())
	if !there {
		return "none"
	}
	if item.Value.Bucket != nil {
		b, err := OpenBucket(f.Sealer, &item.Value)
		if err != nil {
			t.Fatal(err)
		}
		return b.SecretAccessKey.Reveal() + " " + b.SessionToken.Reveal()
	}
	opened, err := OpenConnectionString(f.Sealer, &item.Value)
	if err != nil {
		t.Fatal(err)
	}
	return opened.Reveal()
}

// TestConnectionRefused: each refusal says what is wrong, shows no secret and changes
// nothing.
func TestConnectionRefused(t *testing.T) {
	f := connect(t)
	f.connection(t, "bus", toResource(busNamespace, "s3cret"))
	f.connection(t, "data", toBucket("data"))
	f.connection(t, "open", ConnectionChange{Bucket: text("open")})
	account := func(group string) string {
		return strings.Replace(local, "/local", "/"+group, 1) + "/providers/Microsoft.Storage/storageAccounts/dl"
	}
	f.connection(t, "dl", toResource(account("local"), "s3cret"))
	long := strings.Repeat("s3cret", 2000)
	before := fmt.Sprint(f.kv.Dump())
	for _, tt := range []struct {
		name  string
		at    string
		patch bool
		c     ConnectionChange
		kind  fault.Kind
		want  string
	}{
		{"nothing", "new", false, ConnectionChange{}, fault.Invalid, "for an Azure resource or a bucket"},
		{"both", "new", false, ConnectionChange{ResourceID: text(busNamespace), Bucket: text("b"), ConnectionString: given("s3cret")}, fault.Invalid, "not both"},
		{"no id", "new", false, toResource("ns", "s3cret"), fault.Invalid, "not the full id of a resource"},
		{"id of a group", "new", false, toResource(local, "s3cret"), fault.Invalid, "not the full id of a resource"},
		{"no connection string", "new", false, ConnectionChange{ResourceID: text(busNamespace + "2")}, fault.Invalid, "needs the connectionString"},
		{"one that cannot be used", "new", false, toResource(busNamespace+"2", "bad s3cret"), fault.Invalid, "properties.connectionString"},
		{"too long", "new", false, toResource(busNamespace+"2", long), fault.Invalid, "at most 8192"},
		{"two lines", "new", false, toResource(busNamespace+"2", "s3cret\ns3cret"), fault.Invalid, "more than one line"},
		{"a bucket's member", "new", false, ConnectionChange{ResourceID: text(busNamespace + "2"), ConnectionString: given("s3cret"), Region: text("r")}, fault.Invalid, "properties.region"},
		{"a name", "a b", false, toResource(busNamespace+"2", "s3cret"), fault.Invalid, "connection name"},
		{"taken", "new", false, toResource(strings.ToUpper(busNamespace), "s3cret"), fault.Conflict, connectionsPrefix + "bus"},
		{"an account of that name in another group", "new", false, toResource(account("attic"), "s3cret"), fault.Conflict, connectionsPrefix + "dl"},
		{"a bucket that is taken", "new", false, toBucket("data"), fault.Conflict, "is for the bucket data already"},
		{"another resource", "bus", false, toResource(busNamespace+"2", "s3cret"), fault.Invalid, "stays so"},
		{"another resource by PATCH", "bus", true, toResource(busNamespace+"2", "s3cret"), fault.Invalid, "stays so"},
		{"a bucket now", "bus", true, toBucket("b"), fault.Invalid, "for one thing"},
		{"a resource now", "data", false, toResource(busNamespace+"2", "s3cret"), fault.Invalid, "for one thing"},
		{"another bucket", "data", false, toBucket("b"), fault.Invalid, "stays so"},
		{"PUT without its resource", "bus", false, ConnectionChange{ConnectionString: given("s3cret")}, fault.Invalid, "The resourceId is missing"},
		{"no connection", "none", true, ConnectionChange{ConnectionString: given("s3cret")}, fault.NotFound, "was not found"},
		{"a bucket with a connection string", "new", false, ConnectionChange{Bucket: text("b"), ConnectionString: given("s3cret")}, fault.Invalid, "no connectionString"},
		{"a bucket's name", "new", false, ConnectionChange{Bucket: text("a/b")}, fault.Invalid, "properties.bucket"},
		{"an endpoint", "new", false, ConnectionChange{Bucket: text("b"), Endpoint: text("https://u:s3cret@h.example")}, fault.Invalid, "not an address"},
		{"an endpoint that is not allowed", "new", false, ConnectionChange{Bucket: text("b"), Endpoint: text("http://h.example")}, fault.Invalid, "must start with https"},
		{"a key without its secret", "new", false, ConnectionChange{Bucket: text("b"), AccessKeyID: text("id")}, fault.Invalid, "needs its secretAccessKey"},
		{"a secret without its key", "new", false, ConnectionChange{Bucket: text("b"), SecretAccessKey: given("s3cret")}, fault.Invalid, "needs its accessKeyId"},
		{"a session alone", "open", true, ConnectionChange{SessionToken: given("s3cret")}, fault.Invalid, "properties.sessionToken"},
		{"a secret of two lines", "data", true, ConnectionChange{SecretAccessKey: given("s3cret\n")}, fault.Invalid, "printable ASCII"},
		{"the secret goes nowhere else", "data", true, ConnectionChange{Endpoint: text("https://thief.example")}, fault.Invalid, "needs its secretAccessKey"},
		{"nor for another user", "data", true, ConnectionChange{AccessKeyID: text("other")}, fault.Invalid, "needs its secretAccessKey"},
		{"unread", "new", false, ConnectionChange{Unread: fault.New(fault.Invalid, "InvalidRequestContent", "It is not JSON.")}, fault.Invalid, "It is not JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			at := connectionsPrefix + tt.at
			if tt.patch {
				_, err = f.PatchConnection(t.Context(), f.owner, id(at), tt.c, Precondition{})
			} else {
				_, _, err = f.PutConnection(t.Context(), f.owner, id(at), tt.c, Precondition{})
			}
			told := fmt.Sprint(err)
			for _, e := range faultsOf(err) {
				told += " " + e.Target + " " + e.Message
			}
			if !fault.Is(err, tt.kind) || !strings.Contains(told, tt.want) {
				t.Errorf("%v, want %s", told, tt.want)
			}
			if strings.Contains(told, "s3cret") {
				t.Errorf("%s shows a secret", told)
			}
		})
	}
	if _, _, err := f.PutConnection(t.Context(), f.owner, id(strings.Replace(connectionsPrefix, "/local/", "/nowhere/", 1)+"c"), toResource(busNamespace+"2", "x"), Precondition{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("in a group that is not there: %v", err)
	}
	if now := fmt.Sprint(f.kv.Dump()); now != before {
		t.Error("a refused request changed something")
	}
}

// faultsOf is an error with its details.
func faultsOf(err error) []*fault.Error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return nil
	}
	return append([]*fault.Error{f}, f.Details...)
}

// TestConnectionChanged: what a change leaves out stays, as long as it goes to the same.
func TestConnectionChanged(t *testing.T) {
	f := connect(t)
	at := func(name string) resource.ID { return id(connectionsPrefix + name) }
	first := f.connection(t, "bus", toResource(busNamespace, "1 s3cret"))
	if v := first.Value; v.Host != "host of 1" || v.KeyName != "key" || !v.Target.Equal(id(busNamespace)) {
		t.Errorf("%+v", v)
	}
	is := func(when, name, want string) {
		t.Helper()
		if got := f.secretsOf(t, name); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	patch := func(name string, c ConnectionChange, cond Precondition) (resource.Item[resource.Connection], error) {
		return f.PatchConnection(t.Context(), f.owner, at(name), c, cond)
	}
	second, err := patch("bus", ConnectionChange{ConnectionString: given("2 s3cret")}, Precondition{IfMatch: first.ETag()})
	if err != nil || second.Value.Host != "host of 2" || second.Value.UID != first.Value.UID || second.ETag() == first.ETag() {
		t.Errorf("%+v, %v", second.Value, err)
	}
	is("rotated", "bus", "2 s3cret")
	if _, err := patch("bus", ConnectionChange{ConnectionString: given("3 s3cret")}, Precondition{IfMatch: first.ETag()}); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("by an old etag: %v", err)
	}
	is("by an old etag", "bus", "2 s3cret")
	if v := f.connection(t, "bus", ConnectionChange{ResourceID: text(strings.ToUpper(busNamespace))}).Value; v.Host != "host of 2" {
		t.Errorf("PUT without a secret: %+v", v)
	}
	is("PUT without a secret", "bus", "2 s3cret")
	f.connection(t, "queue", toResource(busNamespace+"/queues/q", "q s3cret")) // beside that of its namespace

	bucket := f.connection(t, "data", toBucket("data")).Value.Bucket
	if bucket.Endpoint != "https://s3.example" || bucket.PathStyle {
		t.Errorf("%+v", bucket)
	}
	is("a bucket", "data", "s3cret-key s3cret-session")
	style := true
	if _, err := patch("data", ConnectionChange{PathStyle: &style, Region: text("r")}, Precondition{}); err != nil {
		t.Error(err)
	}
	is("other settings", "data", "s3cret-key s3cret-session")
	if _, err := patch("data", ConnectionChange{SessionToken: given("")}, Precondition{}); err != nil {
		t.Error(err)
	}
	is("no session", "data", "s3cret-key ")
	if _, err := patch("data", ConnectionChange{SessionToken: given("s3cret-2")}, Precondition{}); err != nil {
		t.Error(err)
	}
	is("another session", "data", "s3cret-key s3cret-2")
	if _, err := patch("data", ConnectionChange{SecretAccessKey: given("s3cret-key-2"), AccessKeyID: text("id-2")}, Precondition{}); err != nil {
		t.Error(err)
	}
	is("another key ends the session", "data", "s3cret-key-2 ")
	put := toBucket("data")
	put.SecretAccessKey, put.SessionToken, put.AccessKeyID = nil, nil, text("id-2")
	if b := f.connection(t, "data", put).Value.Bucket; b.Region != "" || b.PathStyle {
		t.Errorf("PUT keeps settings: %+v", b)
	}
	is("PUT without a secret", "data", "s3cret-key-2 ")
	if _, err := patch("data", ConnectionChange{AccessKeyID: text("")}, Precondition{}); err != nil {
		t.Error(err)
	}
	is("no keys at all", "data", " ")

	for key, value := range f.kv.Dump() {
		if strings.Contains(value, "s3cret") {
			t.Errorf("%s holds a secret: %s", key, value)
		}
	}
	if existed, err := f.DeleteConnection(t.Context(), f.owner, at("bus"), Precondition{IfMatch: first.ETag()}); existed || !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("deleted by an old etag: %v, %v", existed, err)
	}
	if existed, err := f.DeleteConnection(t.Context(), f.owner, at("bus"), Precondition{}); !existed || err != nil {
		t.Errorf("deleted: %v, %v", existed, err)
	}
	if existed, err := f.DeleteConnection(t.Context(), f.owner, at("bus"), Precondition{}); existed || err != nil {
		t.Errorf("deleted again: %v, %v", existed, err)
	}
	f.connection(t, "other", toResource(busNamespace, "again")) // the place is free
	if _, err := f.DeleteGroup(context.Background(), f.owner, id(local), Precondition{}); err != nil {
		t.Fatal(err)
	}
	if left := f.Store.Connections.List(""); len(left) > 0 {
		t.Errorf("%d connections outlive their group", len(left))
	}
}

// TestWhoMayConnect: nobody says how a resource is reached who may not write it, and a
// bucket is the whole server's.
func TestWhoMayConnect(t *testing.T) {
	f := connect(t)
	reader, contributor := f.user(t, access.RoleReader, "/"), f.user(t, access.RoleContributor, local)
	everywhere := f.user(t, access.RoleContributor, "/subscriptions/"+FirstSubscription)
	f.connection(t, "there", toResource(busNamespace+"/queues/there", "x"))
	for _, tt := range []struct {
		name   string
		caller access.Caller
		c      ConnectionChange
		want   string // code; "" for allowed
	}{
		{"a reader", reader, toResource(busNamespace, "x"), "AuthorizationFailed"},
		{"a contributor of its group", contributor, toResource(busNamespace, "x"), ""},
		{"of another group's resource", contributor, toResource(elsewhereBus, "x"), "LinkedAuthorizationFailed"},
		{"one that is wrong besides", contributor, toResource(elsewhereBus, "bad"), "LinkedAuthorizationFailed"},
		{"of a bucket", contributor, toBucket("b"), "LinkedAuthorizationFailed"},
		{"of a bucket, everywhere", everywhere, toBucket("b"), ""},
		{"of a resource in another subscription", everywhere, toResource(elsewhereBus, "x"), "LinkedAuthorizationFailed"},
	} {
		_, _, err := f.PutConnection(t.Context(), tt.caller, id(connectionsPrefix+"c"), tt.c, Precondition{})
		refused, _ := errors.AsType[*fault.Error](err)
		if tt.want == "" && err != nil || tt.want != "" && (refused == nil || refused.Code != tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
		if err == nil {
			if _, err := f.DeleteConnection(t.Context(), tt.caller, id(connectionsPrefix+"c"), Precondition{}); err != nil {
				t.Errorf("%s deletes: %v", tt.name, err)
			}
		}
	}
	f.connection(t, "far", toResource(elsewhereBus, "x"))
	if _, err := f.PatchConnection(t.Context(), contributor, id(connectionsPrefix+"far"), ConnectionChange{ConnectionString: given("y")}, Precondition{}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("another's keys are changed: %v", err)
	}
	if list, err := f.Connections(t.Context(), reader, id(local)); err != nil || len(list) != 2 {
		t.Errorf("a reader sees %d, %v", len(list), err)
	}
	if _, err := f.DeleteConnection(t.Context(), reader, id(connectionsPrefix+"there"), Precondition{}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a reader deletes: %v", err)
	}
}
