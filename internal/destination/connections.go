package destination

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Connections are the credentials of Azure resources that event subscriptions name
// by their resource ids. Azure's resource manager knows a resource's keys; here the
// operator gives them, in a file of mode 0600:
//
//	{"connections": [{"resourceId": "/subscriptions/…/storageAccounts/NAME", "connectionString": "…"}]}
//
// A connection string is what Azure shows with the resource's keys; one with a
// shared access signature works as well. The file is read again when it changes,
// so that keys are rotated while the server runs. Requests never hold a credential.
type Connections struct {
	path string // "" = there are none

	mu       sync.Mutex
	read     time.Time // modification time of what was read
	size     int64
	byID     map[string]string // connection string by key of the resource id
	lastFail error
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
	byID, err := parseConnections(raw)
	c.read, c.size, c.lastFail = info.ModTime(), info.Size(), nil
	if err != nil {
		c.lastFail = fmt.Errorf("the file of connections %s cannot be used: %w", c.path, err)
		return c.lastFail
	}
	c.byID = byID
	return nil
}

func (c *Connections) failed(err error) error {
	if pathErr, is := errors.AsType[*fs.PathError](err); is {
		err = pathErr.Err
	}
	return fmt.Errorf("the file of connections %s cannot be read: %w", c.path, err)
}

// parseConnections reads a file's content. Its errors show no connection string.
func parseConnections(raw []byte) (map[string]string, error) {
	var file connectionsFile
	if err := json.Unmarshal(raw, &file); err != nil {
		if syntax, is := errors.AsType[*json.SyntaxError](err); is {
			return nil, fmt.Errorf("it is not JSON, from byte %d on", syntax.Offset)
		}
		return nil, errors.New(`it has another form than {"connections": [{"resourceId": "…", "connectionString": "…"}]}`)
	}
	byID := map[string]string{}
	for i, entry := range file.Connections {
		id, err := resource.ParseID(entry.ResourceID)
		switch {
		case err != nil || id.Type() == "":
			return nil, fmt.Errorf("connections[%d].resourceId is not the full id of a resource", i)
		case entry.ConnectionString == "":
			return nil, fmt.Errorf("connections[%d] has no connectionString", i)
		case byID[id.Key()] != "":
			return nil, fmt.Errorf("connections[%d].resourceId is there twice", i)
		}
		byID[id.Key()] = entry.ConnectionString
	}
	return byID, nil
}

// of returns the connection string of a resource. A file that cannot be read any
// more leaves what it said last in force.
func (c *Connections) of(id resource.ID) (string, error) {
	if c.path == "" {
		return "", fmt.Errorf("the operator of this server has given no connections: name a file of them with carillon serve --connections FILE, with one for %s in it", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.refresh()
	if text := c.byID[id.Key()]; text != "" {
		return text, nil
	}
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("the operator of this server has given no connection for %s: put one into the file of --connections", id)
}
