package dataset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
)

// azureStore is a container of a storage account. The version of a blob is its ETag.
type azureStore struct {
	client    *azblob.Client
	container string
	remedy    string
}

// container returns the store of a blob's address and the blob's name, or none if no
// connection is for that account.
func (p *Places) container(u *url.URL) (store, string, error) {
	if p.Connections == nil || u.RawQuery != "" { // a signature of its own is for the web
		return nil, "", nil
	}
	for _, connection := range p.Connections.StorageAccounts() {
		endpoint := blobEndpoint(connection)
		below, is := strings.CutPrefix(u.Scheme+"://"+u.Host+u.Path, endpoint)
		if endpoint == "" || !is {
			continue
		}
		container, name, has := strings.Cut(below, "/")
		if !has {
			return nil, "", errors.New("it is a container: name a blob in it, or end it in /")
		}
		s, err := p.client(connection, func(h *http.Client) (store, error) {
			c, err := azblob.NewClientFromConnectionString(connection, &azblob.ClientOptions{ClientOptions: policy.ClientOptions{
				Transport: h, Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true},
			}})
			if err != nil { // its text may show the connection string
				return nil, fmt.Errorf("the connection string for %s cannot be used: it needs AccountName and AccountKey, or BlobEndpoint and SharedAccessSignature", endpoint)
			}
			return &azureStore{c, container, p.Remedy}, nil
		}, container)
		return s, name, err
	}
	return nil, "", nil
}

// OfAccount tells whether the blobs that a connection string is for are those of the storage
// account of a name: their address begins with it, or at an emulator ends in it. Who gives
// the connection of one account must not decide how another one is read.
func OfAccount(connection, name string) bool {
	u, err := url.Parse(strings.ToLower(blobEndpoint(connection)))
	if err != nil || name == "" {
		return false
	}
	name = strings.ToLower(name)
	if strings.HasPrefix(u.Host, name+".") {
		return true
	}
	host := u.Hostname()
	return (!strings.Contains(host, ".") || net.ParseIP(host) != nil) && u.Path == "/"+name+"/"
}

// blobEndpoint is the address of the blobs of a storage account, with / at its end, or
// "" if it is none.
// Source: learn.microsoft.com/azure/storage/common/storage-configure-connection-string.
func blobEndpoint(connection string) string {
	fields := map[string]string{"DefaultEndpointsProtocol": "https", "EndpointSuffix": "core.windows.net"}
	for field := range strings.SplitSeq(connection, ";") {
		if name, value, has := strings.Cut(field, "="); has {
			fields[name] = value
		}
	}
	if endpoint := fields["BlobEndpoint"]; endpoint != "" {
		return strings.TrimSuffix(endpoint, "/") + "/"
	}
	if fields["AccountName"] == "" {
		return ""
	}
	return fields["DefaultEndpointsProtocol"] + "://" + fields["AccountName"] + ".blob." + fields["EndpointSuffix"] + "/"
}

func (s *azureStore) get(ctx context.Context, name string, from, to int64, version string) (*answer, error) {
	o := &azblob.DownloadStreamOptions{Range: azblob.HTTPRange{Offset: from}}
	if to >= 0 {
		o.Range.Count = to - from
	}
	if version != "" {
		etag := azcore.ETag(version)
		o.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &etag}}
	}
	r, err := s.client.DownloadStream(ctx, s.container, name, o)
	if err != nil {
		if answered, is := errors.AsType[*azcore.ResponseError](err); is && answered.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			if from == 0 {
				return &answer{body: http.NoBody}, nil
			}
			return nil, errChanged
		}
		return nil, s.failed(err)
	}
	a := &answer{body: r.Body, size: -1, whole: r.ContentRange == nil}
	if r.ETag != nil {
		a.version = string(*r.ETag)
	}
	if r.ContentLength != nil {
		a.size = *r.ContentLength
	}
	if r.ContentRange != nil {
		first, size, ok := contentRange(*r.ContentRange)
		if !ok || first != from {
			_ = r.Body.Close()
			return nil, errors.New("the store answered another range than it was asked for")
		}
		a.size = size
	}
	if version != "" && a.version != version {
		_ = r.Body.Close()
		return nil, errChanged
	}
	return a, nil
}

func (s *azureStore) list(ctx context.Context, prefix string, each func(name string, size int64) error) error {
	pages := s.client.NewListBlobsFlatPager(s.container, &azblob.ListBlobsFlatOptions{Prefix: &prefix})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return s.failed(err)
		}
		for _, b := range page.Segment.BlobItems {
			if b.Name == nil || b.Properties == nil || b.Properties.ContentLength == nil {
				continue
			}
			if err := each(strings.TrimPrefix(*b.Name, prefix), *b.Properties.ContentLength); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *azureStore) failed(err error) error {
	if answered, is := errors.AsType[*azcore.ResponseError](err); is {
		return failed(answered.StatusCode, answered.ErrorCode, s.remedy)
	}
	return broken(err)
}
