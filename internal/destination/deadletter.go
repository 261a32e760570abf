package destination

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// DeadLetterStore writes dead letters to Azure Blob Storage, and to directories of
// this machine in the same layout. Each connection's client is made when it is
// first used. It does not try again: the broker does, when the store has rested.
// Source: spec/delivery.md section 7.
type DeadLetterStore struct {
	connections *Connections
	root        string // of directories, "" = none
	guard       *egress.Guard

	mu      sync.Mutex
	clients map[string]blobClient // by key of the account
}

// blobClient is a client and the connection string that it was made of.
type blobClient struct {
	*azblob.Client
	connection string
}

// NewDeadLetterStore makes a DeadLetterStore. root is the directory that local
// ones lie in; "" allows none.
func NewDeadLetterStore(connections *Connections, root string, guard *egress.Guard) *DeadLetterStore {
	return &DeadLetterStore{connections: connections, root: root, guard: guard, clients: map[string]blobClient{}}
}

// Check tells why this server could not write to a destination at all, so that
// whoever names it hears of it at once. It asks no store.
func (s *DeadLetterStore) Check(to *resource.DeadLetterDestination) error {
	if to.Type == resource.DeadLetterLocalDirectory {
		if s.root == "" {
			return errors.New("the operator of this server allows no directories for dead letters: carillon serve --dead-letter-root DIR names where they may lie")
		}
		return nil
	}
	_, err := s.client(to.Account)
	return err
}

// Write stores one blob, in the place of one of that name.
func (s *DeadLetterStore) Write(ctx context.Context, to *resource.DeadLetterDestination, name string, content []byte) error {
	if err := s.Check(to); err != nil {
		return err
	}
	if to.Type == resource.DeadLetterLocalDirectory {
		return s.writeFile(path.Join(to.Directory, name), content)
	}
	client, err := s.client(to.Account)
	if err != nil {
		return err
	}
	contentType := "application/json"
	_, err = client.UploadBuffer(ctx, to.Container, name, content, &azblob.UploadBufferOptions{
		HTTPHeaders: &blob.HTTPHeaders{BlobContentType: &contentType},
	})
	return storeError(ctx, to, err)
}

// client returns the client of a storage account.
func (s *DeadLetterStore) client(account resource.ID) (*azblob.Client, error) {
	connection, err := s.connections.of(account)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.clients[account.Key()]; known.connection == connection {
		return known.Client, nil
	}
	c, err := azblob.NewClientFromConnectionString(connection, &azblob.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: s.guard.Client(time.Minute),
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{Disabled: true},
	}})
	if err != nil { // its text may show the connection string
		return nil, fmt.Errorf("the connection string of %s cannot be used: it needs AccountName and AccountKey, or BlobEndpoint and SharedAccessSignature", account)
	}
	s.clients[account.Key()] = blobClient{c, connection}
	return c, nil
}

// storeError says what a store answered, without an address that may hold a key.
func storeError(ctx context.Context, to *resource.DeadLetterDestination, err error) error {
	if err == nil {
		return nil
	}
	if answered, is := errors.AsType[*azcore.ResponseError](err); is {
		text := fmt.Sprintf("storage account %s answered %d %s", to.Account.Name(), answered.StatusCode, answered.ErrorCode)
		switch {
		case answered.ErrorCode == "ContainerNotFound":
			text += fmt.Sprintf(": create the container %s, or name another one", to.Container)
		case answered.StatusCode == http.StatusForbidden || answered.StatusCode == http.StatusUnauthorized:
			text += ": its connection may not write there: carillon connection update gives other keys"
		}
		return errors.New(text)
	}
	if refused, is := errors.AsType[*egress.RefusedError](err); is {
		return refused
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("storage account %s cannot be reached: %s", to.Account.Name(), secret.Redact(err.Error()))
}

// writeFile stores a file below the root, whole and synced or not at all.
func (s *DeadLetterStore) writeFile(name string, content []byte) (err error) {
	defer func() {
		if pathErr, is := errors.AsType[*fs.PathError](err); is {
			err = fmt.Errorf("%s of %s: %w", pathErr.Op, strings.TrimSuffix(pathErr.Path, partSuffix), pathErr.Err)
		}
	}()
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	dir := path.Dir(name)
	if err := root.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	part := name + partSuffix
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = root.Rename(part, name)
	}
	if err != nil {
		_ = root.Remove(part)
		return err
	}
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// partSuffix ends the name of a file that is not whole yet.
const partSuffix = ".part"
