package destination

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Connections are the credentials of Azure resources, which event subscriptions name
// by their resource ids and datasets by their addresses, and of the buckets that
// datasets lie in. Azure's resource manager knows a resource's keys; here the operator
// gives them, in a file of mode 0600:
//
//	{"connections": [{"resourceId": "/subscriptions/…/storageAccounts/NAME", "connectionString": "…"}],
//	 "buckets": [{"bucket": "NAME", "endpoint": "https://…", "region": "…", "pathStyle": true, "accessKeyId": "…", "secretAccessKey": "…"}]}
//
// A connection string is what Azure shows with the resource's keys; one with a
// shared access signature works as well. The file is read again when it changes,
// so that keys are rotated while the server runs. Requests never hold a credential.
type Connections struct {
	path string // "" = there are none

	mu       sync.Mutex
	read     time.Time // modification time of what was read
	size     int64
	content  connections
	lastFail error
}

// connections are what a file says.
type connections struct {
	byID    map[string]string // connection string by key of the resource id
	all     []string          // connection strings, as they stand there
	buckets []dataset.Bucket
}

// OpenConnections reads a file of connections; "" is none.
func OpenConnections(path string) (*Connections, error) {
	c := &Connections{path: path}
	if path == "" {
		return c, nil
	}
	return c, c.refresh()
}

// connectionsFile is the file's content.
type connectionsFile struct {
	Connections []struct {
		ResourceID       string `json:"resourceId"`
		ConnectionString string `json:"connectionString"`
	} `json:"connections"`
	Buckets []struct {
		Bucket          string `json:"bucket"`
		Endpoint        string `json:"endpoint"`
		Region          string `json:"region"`
		PathStyle       bool   `json:"pathStyle"`
		AccessKeyID     string `json:"accessKeyId"`
		SecretAccessKey string `json:"secretAccessKey"`
		SessionToken    string `json:"sessionToken"`
	} `json:"buckets"`
}

// refresh reads the file if it changed. The caller holds c.mu, or is alone.
func (c *Connections) refresh() error {
	info, err := os.Stat(c.path)
	if err != nil {
		return c.failed(err)
	}
	if info.ModTime().Equal(c.read) && info.Size() == c.size {
		return c.lastFail
	}
	if err := secret.CheckPrivate(c.path); err != nil {
		return fmt.Errorf("the file of connections: %w", err)
	}
	raw, err := os.ReadFile(c.path)
	if err != nil {
		return c.failed(err)
	}
	content, err := parseConnections(raw)
	c.read, c.size, c.lastFail = info.ModTime(), info.Size(), nil
	if err != nil {
		c.lastFail = fmt.Errorf("the file of connections %s cannot be used: %w", c.path, err)
		return c.lastFail
	}
	c.content = content
	return nil
}

func (c *Connections) failed(err error) error {
	if pathErr, is := errors.AsType[*fs.PathError](err); is {
		err = pathErr.Err
	}
	return fmt.Errorf("the file of connections %s cannot be read: %w", c.path, err)
}

// parseConnections reads a file's content. Its errors show no credential.
func parseConnections(raw []byte) (c connections, err error) {
	var file connectionsFile
	if err := json.Unmarshal(raw, &file); err != nil {
		if syntax, is := errors.AsType[*json.SyntaxError](err); is {
			return c, fmt.Errorf("it is not JSON, from byte %d on", syntax.Offset)
		}
		return c, errors.New(`it has another form than {"connections": [{"resourceId": "…", "connectionString": "…"}], "buckets": [{"bucket": "…"}]}`)
	}
	c.byID = map[string]string{}
	for i, entry := range file.Connections {
		id, err := resource.ParseID(entry.ResourceID)
		switch {
		case err != nil || id.Type() == "":
			return c, fmt.Errorf("connections[%d].resourceId is not the full id of a resource", i)
		case entry.ConnectionString == "":
			return c, fmt.Errorf("connections[%d] has no connectionString", i)
		case c.byID[id.Key()] != "":
			return c, fmt.Errorf("connections[%d].resourceId is there twice", i)
		}
		c.byID[id.Key()], c.all = entry.ConnectionString, append(c.all, entry.ConnectionString)
	}
	for i, e := range file.Buckets {
		b := dataset.Bucket{Name: e.Bucket, Endpoint: e.Endpoint, Region: e.Region, PathStyle: e.PathStyle,
			AccessKeyID: e.AccessKeyID, SecretAccessKey: secret.String(e.SecretAccessKey), SessionToken: secret.String(e.SessionToken)}
		if err := b.Check(); err != nil {
			return c, fmt.Errorf("buckets[%d].%w", i, err)
		}
		if slices.ContainsFunc(c.buckets, func(other dataset.Bucket) bool { return other.Name == b.Name }) {
			return c, fmt.Errorf("buckets[%d].bucket is there twice", i)
		}
		c.buckets = append(c.buckets, b)
	}
	return c, nil
}

// now returns what the file says. One that cannot be read any more leaves what it said
// last in force, and the error says so.
func (c *Connections) now() (connections, error) {
	if c.path == "" {
		return connections{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.refresh()
	return c.content, err
}

// of returns the connection string of a resource.
func (c *Connections) of(id resource.ID) (string, error) {
	if c.path == "" {
		return "", fmt.Errorf("the operator of this server has given no connections: name a file of them with carillon serve --connections FILE, with one for %s in it", id)
	}
	content, err := c.now()
	if text := content.byID[id.Key()]; text != "" {
		return text, nil
	}
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("the operator of this server has given no connection for %s: put one into the file of --connections", id)
}

// ofEntity returns the connection string of an entity, or of what it is part of: the
// namespace of a queue, the factory of a pipeline.
func (c *Connections) ofEntity(id resource.ID) (string, error) {
	text, err := c.of(id)
	for above := id.Parent(); err != nil && above.Type() != ""; above = above.Parent() {
		if inherited, problem := c.of(above); problem == nil {
			return inherited, nil
		}
	}
	return text, err
}

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

// StorageAccounts returns the connection strings of all resources.
func (c *Connections) StorageAccounts() []string {
	content, _ := c.now() // what cannot be read any more stays in force
	return content.all
}

// Buckets returns how buckets are reached.
func (c *Connections) Buckets() []dataset.Bucket {
	content, _ := c.now()
	return content.buckets
}
