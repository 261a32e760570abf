package dataset

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

// Bucket is how objects of an S3-compatible store are reached.
type Bucket struct {
	Name            string // "*" is every bucket that has no entry of its own
	Endpoint        string // http(s)://HOST[:PORT]; "" = Amazon's
	Region          string // "" = the store is asked
	PathStyle       bool   // the bucket is the first part of the path; else as the endpoint is known to want it
	AccessKeyID     string // "" = requests are not signed, or as SharedFile says
	SecretAccessKey secret.String
	SessionToken    secret.String
	SharedFile      bool // keys come from the files that Amazon's command keeps in the home directory
}

const amazon = "https://s3.amazonaws.com"

// Check tells what is wrong with a Bucket. The targets of the faults are fields.
func (b Bucket) Check() (problems []*fault.Error) {
	wrong := func(field, text string) { problems = append(problems, fault.Field(field, "%s", text)) }
	if b.Name == "" || len(b.Name) > 255 || strings.ContainsFunc(b.Name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		wrong("bucket", "The bucket is missing or not valid: give its name, or * for all that have no connection of their own.")
	}
	u, err := url.Parse(b.Endpoint)
	if b.Endpoint != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "") {
		wrong("endpoint", "The endpoint is not an address such as https://minio.example.org:9000.")
	}
	if len(b.Region) > 63 || strings.Trim(strings.ToLower(b.Region), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" { // it becomes part of Amazon's host
		wrong("region", "The region is not valid: use at most 63 letters, digits, '-' or '_', as in eu-central-1.")
	}
	if len(b.AccessKeyID) > 255 || strings.ContainsFunc(b.AccessKeyID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		wrong("accessKeyId", "The accessKeyId holds characters other than printable ASCII, or more than 255.")
	}
	switch {
	case b.AccessKeyID == "" && b.SecretAccessKey != "":
		wrong("accessKeyId", "A secretAccessKey needs its accessKeyId.")
	case b.AccessKeyID != "" && b.SecretAccessKey == "":
		wrong("secretAccessKey", "An accessKeyId needs its secretAccessKey; it can be left out only while bucket, endpoint and accessKeyId stay.")
	case b.AccessKeyID == "" && b.SessionToken != "":
		wrong("sessionToken", "A sessionToken needs accessKeyId and secretAccessKey.")
	}
	for _, text := range []struct {
		field string
		text  secret.String
	}{{"secretAccessKey", b.SecretAccessKey}, {"sessionToken", b.SessionToken}} {
		if len(text.text) > maxBucketSecret || strings.ContainsFunc(text.text.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			wrong(text.field, fmt.Sprintf("The %s holds characters other than printable ASCII, or more than %d.", text.field, maxBucketSecret))
		}
	}
	return problems
}

// maxBucketSecret bounds keys and session tokens, in bytes. It is ours.
const maxBucketSecret = 4 << 10

// s3Store is a bucket of an S3-compatible store. The version of an object is its ETag.
type s3Store struct {
	client minio.Core
	bucket string
	remedy string
}

// bucket returns the store of a bucket.
func (p *Places) bucket(name string) (store, error) {
	var found *Bucket
	if p.Connections != nil {
		for _, b := range p.Connections.Buckets() {
			if b.Name == name || b.Name == "*" && found == nil {
				found = &b
			}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("there is no connection for the bucket %s: %s", name, p.Remedy)
	}
	return p.client(*found, func(h *http.Client) (store, error) {
		endpoint, err := url.Parse(found.Endpoint)
		if found.Endpoint == "" {
			endpoint, err = url.Parse(amazon)
		}
		if err == nil {
			err = p.Guard.CheckURL(endpoint)
		}
		if err != nil {
			return nil, err
		}
		o := &minio.Options{
			Creds:  credentials.NewStaticV4(found.AccessKeyID, found.SecretAccessKey.Reveal(), found.SessionToken.Reveal()),
			Secure: endpoint.Scheme == "https", Region: found.Region, Transport: h.Transport,
			MaxRetries: 1, // we try again
		}
		if found.PathStyle {
			o.BucketLookup = minio.BucketLookupPath
		}
		if found.SharedFile {
			o.Creds = credentials.NewChainCredentials([]credentials.Provider{&credentials.FileAWSCredentials{}}) // unsigned without one
		}
		client, err := minio.New(endpoint.Host, o)
		if err != nil {
			return nil, fmt.Errorf("the connection for the bucket %s cannot be used: %s", name, secret.Redact(err.Error()))
		}
		return &s3Store{minio.Core{Client: client}, name, p.Remedy}, nil
	}, name)
}

func (s *s3Store) get(ctx context.Context, name string, from, to int64, version string) (*answer, error) {
	var o minio.GetObjectOptions
	switch {
	case to >= 0:
		o.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	case from > 0:
		o.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	if version != "" {
		o.Set("If-Match", `"`+version+`"`)
	}
	body, info, header, err := s.client.GetObject(ctx, s.bucket, name, o)
	if err != nil {
		if answered, is := errors.AsType[minio.ErrorResponse](err); is && answered.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			if from == 0 {
				return &answer{body: http.NoBody}, nil
			}
			return nil, errChanged
		}
		return nil, s.failed(err)
	}
	a := &answer{body: body, size: info.Size, version: info.ETag, whole: header.Get("Content-Range") == ""}
	if !a.whole {
		first, size, ok := contentRange(header.Get("Content-Range"))
		if !ok || first != from {
			_ = body.Close()
			return nil, errors.New("the store answered another range than it was asked for")
		}
		a.size = size
	}
	if version != "" && a.version != version {
		_ = body.Close()
		return nil, errChanged
	}
	return a, nil
}

func (s *s3Store) list(ctx context.Context, prefix string, each func(name string, size int64) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop() // of what lists ahead
	for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return s.failed(o.Err)
		}
		if err := each(strings.TrimPrefix(o.Key, prefix), o.Size); err != nil {
			return err
		}
	}
	return nil
}

func (s *s3Store) failed(err error) error {
	if answered, is := errors.AsType[minio.ErrorResponse](err); is && answered.StatusCode != 0 {
		return failed(answered.StatusCode, answered.Code, s.remedy)
	}
	return broken(err)
}
