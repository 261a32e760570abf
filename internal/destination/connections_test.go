package destination

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// connected are connections that a test changes as the control plane would.
type connected struct {
	*Connections
	t      *testing.T
	store  *resource.Store
	sealer *secret.Sealer
}

func newConnected(t *testing.T) *connected {
	t.Helper()
	key, err := secret.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c := &connected{t: t, store: resource.NewStore(resource.NewMemoryKV()), sealer: secret.NewSealer(key)}
	c.Connections = NewConnections(c.store, c.sealer)
	return c
}

// set gives a resource a connection, or another one.
func (c *connected) set(id resource.ID, text string) {
	c.t.Helper()
	v := resource.Connection{ID: id.Extension("Carillon.Secrets", "connections", "c"), UID: resource.NewUID(), Target: id}
	v.SealedString = c.seal(text, v.StringOwner())
	var err error
	if present, there := c.store.Connections.Get(v.ID.Key()); there {
		_, err = c.store.Connections.Update(c.t.Context(), v.ID.Key(), v, present.Revision)
	} else {
		_, err = c.store.Connections.Create(c.t.Context(), v.ID.Key(), v)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *connected) remove(id resource.ID) {
	c.t.Helper()
	if err := c.store.Connections.Delete(c.t.Context(), id.Extension("Carillon.Secrets", "connections", "c").Key(), 0); err != nil {
		c.t.Fatal(err)
	}
}

func (c *connected) seal(text, owner string) string {
	c.t.Helper()
	sealed, err := c.sealer.Seal([]byte(text), owner)
	if err != nil {
		c.t.Fatal(err)
	}
	return sealed
}

func connectionsTo(t *testing.T, id resource.ID, text string) *Connections {
	t.Helper()
	c := newConnected(t)
	c.set(id, text)
	return c.Connections
}

// TestConnections: the connection of an entity is its own, or that of what it is part of,
// as it is at the moment.
func TestConnections(t *testing.T) {
	namespace := resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/ns")
	queue := namespace.Child("queues", "q")
	c := newConnected(t)
	is := func(when string, id resource.ID, want string) {
		t.Helper()
		text, err := c.ofEntity(id)
		switch {
		case want != "" && (text != want || err != nil):
			t.Errorf("%s: %q, %v", when, text, err)
		case want == "" && (err == nil || !strings.Contains(err.Error(), "carillon connection create --resource-id "+id.String())):
			t.Errorf("%s: %q, %v", when, text, err)
		}
	}
	is("none", queue, "")
	c.set(namespace, "first")
	is("the namespace's", queue, "first")
	is("of another spelling", resource.MustID(strings.ToUpper(queue.String())), "first")
	c.set(namespace, "second")
	is("another one", queue, "second")
	c.set(queue, "own")
	is("its own", queue, "own")
	is("the namespace still", namespace, "second")
	c.remove(queue)
	is("its own is gone", queue, "second")
	if _, err := c.of(queue); err == nil {
		t.Error("the queue has one of its own")
	}
	c.remove(namespace)
	is("none again", queue, "")

	c.set(queue, "own")
	c.set(namespace, "sealed by another key")
	broken, _ := c.store.Connections.Get(namespace.Extension("Carillon.Secrets", "connections", "c").Key())
	broken.Value.UID = resource.NewUID() // what it is sealed for
	if _, err := c.store.Connections.Update(t.Context(), broken.Key, broken.Value, broken.Revision); err != nil {
		t.Fatal(err)
	}
	is("one that cannot be opened does not hide others", queue, "own")
	if _, err := c.ofEntity(namespace); err == nil || !strings.Contains(err.Error(), "carillon connection update") {
		t.Error(err)
	}
}

// TestConnectionsOfDatasets: what datasets see of them.
func TestConnectionsOfDatasets(t *testing.T) {
	c := newConnected(t)
	c.set(account("dl"), "AccountName=dl")
	c.set(account("other"), "AccountName=dl;BlobEndpoint=https://dl.blob.core.windows.net")
	c.set(resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/ns"), "Endpoint=sb://x")
	bucket := resource.Connection{ID: account("b"), UID: resource.NewUID(), Bucket: &resource.ConnectionBucket{Name: "data", Endpoint: "https://s3.example", Region: "r", PathStyle: true, AccessKeyID: "id"}}
	bucket.Bucket.SealedSecret, bucket.Bucket.SealedSession = c.seal("key", bucket.SecretOwner()), c.seal("token", bucket.SessionOwner())
	if _, err := c.store.Connections.Create(t.Context(), "bucket", bucket); err != nil {
		t.Fatal(err)
	}
	want := dataset.Bucket{Name: "data", Endpoint: "https://s3.example", Region: "r", PathStyle: true, AccessKeyID: "id", SecretAccessKey: "key", SessionToken: "token"}
	if got := c.Buckets(); len(got) != 1 || got[0] != want {
		t.Errorf("buckets %v", got)
	}
	if got := c.StorageAccounts(); len(got) != 1 || got[0] != "AccountName=dl" {
		t.Errorf("storage accounts %q", got)
	}
}

// connectionStrings are strings as they are given, with "s3cret" where they hold one.
var connectionStrings = []struct{ kind, text, host, keyName, wrong string }{
	{"Microsoft.Storage/storageAccounts", "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=KEY;EndpointSuffix=core.windows.net", "", "acct", ""},
	{"Microsoft.Storage/storageAccounts", "AccountName=dl;AccountKey=KEY;BlobEndpoint=http://127.0.0.1:10000/dl;QueueEndpoint=http://127.0.0.1:10001/dl", "127.0.0.1:10000", "dl", ""},
	{"Microsoft.Storage/storageAccounts", "QueueEndpoint=https://acct.queue.core.windows.net/;SharedAccessSignature=sv=2020&sig=s3cret", "acct.queue.core.windows.net", "", ""},
	{"Microsoft.Storage/storageAccounts", "AccountName=acct", "", "", "AccountName and AccountKey"},
	{"Microsoft.Storage/storageAccounts", "AccountName=acct;AccountKey=s3cret!", "", "", "AccountName and AccountKey"},
	{"Microsoft.Storage/storageAccounts", "s3cret", "", "", "AccountName and AccountKey"},
	{"Microsoft.ServiceBus/namespaces", "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=send;SharedAccessKey=s3cret", "ns.servicebus.windows.net:5671", "send", ""},
	{"Microsoft.ServiceBus/namespaces/queues", "Endpoint=amqp://127.0.0.1;Username=carillon;Password=s3cret;Address={name}", "127.0.0.1:5672", "carillon", ""},
	{"microsoft.servicebus/namespaces/topics", "Endpoint=sb://ns/;SharedAccessKey=s3cret", "", "", "no SharedAccessKeyName"},
	{"Microsoft.ServiceBus/namespaces", "Endpoint=https://s3cret;SharedAccessKey=s3cret", "", "", "none of sb://"},
	{"Microsoft.EventHub/namespaces", "Endpoint=sb://ns.example/;SharedAccessKeyName=send;SharedAccessKey=s3cret", "ns.example:9093", "send", ""},
	{"Microsoft.EventHub/namespaces/eventhubs", "Endpoint=sb://ns.example/;SharedAccessKeyName=send;SharedAccessKey=s3cret;TransportType=Amqp", "ns.example:5671", "send", ""},
	{"Microsoft.EventHub/namespaces", "BootstrapServers=a:1,b:2;Security=SASL_TLS;Mechanism=PLAIN;Username=me;Password=s3cret", "a:1", "me", ""},
	{"Microsoft.EventHub/namespaces", "BootstrapServers=u:s3cret@a:1", "", "", "BootstrapServers that are not host:port"},
	{"Microsoft.EventHub/namespaces", "Endpoint=sb://ns.example/", "", "", "SharedAccessKey"},
	{"Microsoft.Relay/namespaces", "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=send;SharedAccessKey=s3cret", "ns.servicebus.windows.net", "send", ""},
	{"Microsoft.Relay/namespaces/hybridConnections", "SharedAccessKey=s3cret", "", "", "Endpoint"},
	{"Microsoft.Web/sites", "Endpoint=https://app.azurewebsites.net;SystemKey=s3cret", "app.azurewebsites.net", "", ""},
	{"Microsoft.Web/sites/functions", "Endpoint=https://u:s3cret@app.example", "", "", "an address"},
	{"Microsoft.DataFactory/factories", "TenantId=t;ClientId=app;ClientSecret=s3cret", "management.azure.com", "app", ""},
	{"Microsoft.DataFactory/factories/pipelines", "TenantId=t;ClientId=app;ClientSecret=s3cret;Authority=http://127.0.0.1:1;Endpoint=http://127.0.0.1:2", "127.0.0.1:2", "app", ""},
	{"Microsoft.DataFactory/factories", "TenantId=t;ClientId=app", "", "", "ClientSecret"},
	{"Microsoft.DataFactory/factories", "TenantId=t;ClientId=app;ClientSecret=s3cret;Authority=s3cret", "", "", "Authority and Endpoint"},
	{"Microsoft.Relay/namespaces", "Endpoint=https://h.example,Password=s3cret;SharedAccessKeyName=a;SharedAccessKey=s3cret", "", "a", ""}, // shown of neither
	{"Microsoft.Relay/namespaces", "Endpoint=https://h.example;SharedAccessKeyName=a,SharedAccessKey=s3cret", "h.example", "", ""},
	{"Microsoft.KeyVault/vaults", "s3cret", "", "", "Nothing here connects to a resource of type Microsoft.KeyVault/vaults: connections are for Microsoft.DataFactory/factories, Microsoft.DataFactory/factories/pipelines,"},
}

func idOfKind(kind string) resource.ID {
	words := strings.Split(kind, "/")
	id := resource.MustID("/subscriptions/s/resourceGroups/g").Extension(words[0], words[1], "a")
	for _, word := range words[2:] {
		id = id.Child(word, "b")
	}
	return id
}

// TestCheckConnection: what is shown of a connection string, and what is wrong with one.
func TestCheckConnection(t *testing.T) {
	for _, tt := range connectionStrings {
		t.Run(tt.kind+" "+tt.text, func(t *testing.T) {
			text := strings.Replace(tt.text, "KEY", base64.StdEncoding.EncodeToString([]byte("s3cret")), 1)
			host, keyName, err := CheckConnection(idOfKind(tt.kind), secret.String(text))
			switch {
			case tt.wrong == "" && (err != nil || host != tt.host || keyName != tt.keyName):
				t.Errorf("%q, %q, %v", host, keyName, err)
			case tt.wrong != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.wrong)):
				t.Errorf("%q, %q, %v", host, keyName, err)
			}
			if strings.Contains(fmt.Sprint(host, keyName, err), "s3cret") {
				t.Errorf("%q, %q, %v shows the secret", host, keyName, err)
			}
		})
	}
}

// FuzzCheckConnection: no string, however it is written, shows its keys or has a reader
// fall over.
func FuzzCheckConnection(f *testing.F) {
	for i, tt := range connectionStrings {
		f.Add(i, tt.text)
	}
	f.Fuzz(func(t *testing.T, kind int, text string) {
		const key = "s3cret-4711-s3cret"
		if strings.Contains(text, key) {
			return
		}
		of := connectionStrings[uint(kind)%uint(len(connectionStrings))].kind
		for _, name := range []string{"SharedAccessKey", "Password", "ClientSecret", "SystemKey", "AccountKey", "SharedAccessSignature"} {
			text += ";" + name + "=" + key
		}
		host, keyName, err := CheckConnection(idOfKind(of), secret.String(text))
		if shown := fmt.Sprint(host, keyName, err); strings.Contains(shown, key) {
			t.Errorf("%q shows the key", shown)
		}
		if err == nil && (len(host) > 255 || len(keyName) > 255 || strings.ContainsAny(host+keyName, "\r\n @")) && !strings.Contains(keyName, "@") {
			t.Errorf("%q, %q", host, keyName)
		}
	})
}
