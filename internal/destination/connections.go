package destination

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Connections are the connections of the control plane, opened: the credentials of Azure
// resources, which event subscriptions name by their resource ids and datasets by their
// addresses, and of the buckets that datasets lie in. A change holds from the next look
// on, so that keys are rotated while events flow. It satisfies dataset.Connections.
type Connections struct {
	stored  *resource.Collection[resource.Connection]
	opener  manage.Opener
	changes atomic.Uint64 // of what is stored
	opened  atomic.Pointer[connections]
}

var _ dataset.Connections = (*Connections)(nil)

// connections are what is stored, opened. It is never changed.
type connections struct {
	version  uint64                // of changes, from before it was read
	byID     map[string]connection // by key of the resource id
	accounts []string              // connection strings of storage accounts
	buckets  []dataset.Bucket
}

type connection struct {
	text string
	err  error // it could not be opened
}

// NewConnections returns the connections of a store, opened by opener.
func NewConnections(store *resource.Store, opener manage.Opener) *Connections {
	c := &Connections{stored: store.Connections, opener: opener}
	store.Connections.OnChange(func(string) { c.changes.Add(1) })
	return c
}

// now returns what is stored.
func (c *Connections) now() *connections {
	version := c.changes.Load()
	if known := c.opened.Load(); known != nil && known.version == version {
		return known
	}
	fresh := &connections{version: version, byID: map[string]connection{}}
	for _, item := range c.stored.List("") {
		fresh.add(&item.Value, c.opener)
	}
	c.opened.Store(fresh)
	return fresh
}

func (c *connections) add(v *resource.Connection, opener manage.Opener) {
	if v.Bucket != nil {
		if b, err := manage.OpenBucket(opener, v); err == nil { // a start without the master key is refused
			c.buckets = append(c.buckets, b)
		}
		return
	}
	text, err := manage.OpenConnectionString(opener, v)
	if err != nil {
		err = fmt.Errorf("the connection string of %s cannot be opened: give it anew with carillon connection update", v.Target)
	}
	c.byID[v.Target.Key()] = connection{text.Reveal(), err}
	if v.Target.IsType(typeStorageAccount) && err == nil && dataset.OfAccount(text.Reveal(), v.Target.Name()) {
		c.accounts = append(c.accounts, text.Reveal())
	}
}

// errNoConnection is that there is none.
func errNoConnection(id resource.ID) error {
	return fmt.Errorf("there is no connection: make one with carillon connection create --resource-id %s --connection-string @FILE --name %s", id, id.Name())
}

// of returns the connection string of a resource.
func (c *Connections) of(id resource.ID) (string, error) {
	found, ok := c.now().byID[id.Key()]
	if !ok {
		return "", errNoConnection(id)
	}
	return found.text, found.err
}

// ofEntity returns the connection string of an entity, or of what it is part of: the
// namespace of a queue, the factory of a pipeline.
func (c *Connections) ofEntity(id resource.ID) (string, error) {
	for at := id; at.Type() != ""; at = at.Parent() {
		if found, ok := c.now().byID[at.Key()]; ok {
			return found.text, found.err
		}
	}
	return "", errNoConnection(id)
}

// StorageAccounts returns the connection strings of storage accounts, of those whose string
// is for the account that the resource id names.
func (c *Connections) StorageAccounts() []string { return c.now().accounts }

// Buckets returns how buckets are reached.
func (c *Connections) Buckets() []dataset.Bucket { return c.now().buckets }

// connectionValues are what a connection string says, by names in lower case.
func connectionValues(text string) map[string]string {
	values := map[string]string{}
	for part := range strings.SplitSeq(text, ";") {
		if name, value, ok := strings.Cut(part, "="); ok {
			values[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
	}
	return values
}

const typeStorageAccount = "Microsoft.Storage/storageAccounts"

// connectionKinds are the resources that connections can be for: what is shown of a
// connection string, or what is wrong with it, as it goes on from "it". Nothing of the
// string is in the error.
var connectionKinds = []struct {
	resource, within string // within is the type of what it may be part of
	check            func(text string, values map[string]string) (host, keyName string, err error)
}{
	{"Microsoft.DataFactory/factories", "Microsoft.DataFactory/factories/pipelines", checkFactory},
	{"Microsoft.EventHub/namespaces", "Microsoft.EventHub/namespaces/eventhubs", checkHub},
	{"Microsoft.Relay/namespaces", "Microsoft.Relay/namespaces/hybridConnections", checkEndpoint},
	{"Microsoft.ServiceBus/namespaces", "Microsoft.ServiceBus/namespaces/queues", checkBus},
	{"Microsoft.ServiceBus/namespaces", "Microsoft.ServiceBus/namespaces/topics", checkBus},
	{typeStorageAccount, "", checkAccount},
	{"Microsoft.Web/sites", "Microsoft.Web/sites/functions", checkEndpoint},
}

// CheckConnection tells what may be shown of the connection string of an Azure resource:
// its host, and whose key it holds. Or it tells what is wrong with it.
func CheckConnection(target resource.ID, text secret.String) (host, keyName string, err error) {
	var known []string
	for _, k := range connectionKinds {
		if target.IsType(k.resource) || k.within != "" && target.IsType(k.within) {
			host, keyName, err := k.check(text.Reveal(), connectionValues(text.Reveal()))
			if err != nil {
				return "", "", fault.Field("connectionString", "The connection string of %s %v.", target, err)
			}
			return showable(host, hostCharacters), showable(keyName, keyNameCharacters), nil
		}
		for _, name := range []string{k.resource, k.within} {
			if name != "" && !slices.Contains(known, name) {
				known = append(known, name)
			}
		}
	}
	return "", "", fault.Field("resourceId", "Nothing here connects to a resource of type %s: connections are for %s.", target.Type(), strings.Join(known, ", "))
}

// What hosts and names of keys are made of. A string with a comma for a semicolon has more
// in their place, perhaps a key; so has an address with a user before its host.
const (
	hostCharacters    = letters + "-._:[]"
	keyNameCharacters = letters + "-._@$"
	letters           = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
)

// showable leaves out what is longer or stranger than a host or the name of a key.
func showable(text, characters string) string {
	if len(text) > 255 || strings.Trim(text, characters) != "" {
		return ""
	}
	return text
}

// errStorage is what a connection string of a storage account needs. The errors of Azure's
// client may show the string.
var errStorage = errors.New("cannot be used: it needs AccountName and AccountKey, or BlobEndpoint or QueueEndpoint with SharedAccessSignature")

func checkAccount(text string, values map[string]string) (host, keyName string, err error) {
	_, noBlobs := azblob.NewClientFromConnectionString(text, nil)
	_, noQueues := azqueue.NewQueueClientFromConnectionString(text, "queue", nil)
	if noBlobs != nil && noQueues != nil {
		return "", "", errStorage
	}
	for _, name := range []string{"blobendpoint", "queueendpoint"} {
		if endpoint := values[name]; endpoint != "" && host == "" {
			u, err := url.Parse(endpoint)
			if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
				return "", "", errStorage
			}
			host = u.Host
		}
	}
	return host, values["accountname"], nil
}

func checkHub(text string, values map[string]string) (host, keyName string, err error) {
	if byAMQP(values) {
		return checkBus(text, values)
	}
	hub, err := kafkaConnection(text)
	if err != nil {
		return "", "", err
	}
	keyName = values["username"]
	if values["bootstrapservers"] == "" {
		keyName = values["sharedaccesskeyname"]
	}
	return hub.brokers[0], keyName, nil
}

func checkBus(text string, _ map[string]string) (host, keyName string, err error) {
	n, _, err := amqpConnection(text, "entity")
	return n.broker, n.user, err
}

func checkEndpoint(_ string, values map[string]string) (host, keyName string, err error) {
	u, err := url.Parse(values["endpoint"])
	if err != nil || u.Host == "" || u.User != nil {
		return "", "", errors.New("cannot be used: it needs Endpoint, an address")
	}
	return u.Host, values["sharedaccesskeyname"], nil
}

func checkFactory(_ string, values map[string]string) (host, keyName string, err error) {
	settings, err := factorySettings(values)
	if err != nil {
		return "", "", err
	}
	for _, name := range []string{"authority", "endpoint"} {
		u, err := url.Parse(settings[name])
		if err != nil || u.Host == "" || u.User != nil {
			return "", "", errors.New("cannot be used: its Authority and Endpoint are addresses, or left out for Azure's")
		}
		host = u.Host
	}
	return host, settings["clientid"], nil
}
