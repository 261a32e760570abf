package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/egress"
)

// Config says where datasets may lie.
type Config struct {
	Roots       []string      // directories that local files may lie below
	Everywhere  bool          // local files may lie anywhere: the reader's own machine
	Guard       *egress.Guard // dials out
	Connections Connections   // credentials of stores; nil = none
	Remedy      string        // what to do where credentials are missing
	Spool       string        // directory of temporary files; "" = the system's
	SpoolLimit  int64         // bytes of a temporary file at most; 0 = 4 GiB
}

// Connections are the credentials that were given. They may change meanwhile.
type Connections interface {
	// StorageAccounts returns connection strings of Azure resources.
	StorageAccounts() []string
	// Buckets returns how buckets of S3-compatible stores are reached.
	Buckets() []Bucket
}

// Places are where datasets lie. They are safe for concurrent use.
type Places struct {
	Config
	http *http.Client

	mu      sync.Mutex
	clients map[client]store
}

// A client is known by the connection that it was made from.
type client struct {
	connection any
	of         string // bucket or container
}

// New makes Places.
func New(c Config) *Places {
	if c.SpoolLimit == 0 {
		c.SpoolLimit = 4 << 30
	}
	return &Places{Config: c, http: patient(c.Guard.Client(0)), clients: map[client]store{}}
}

// A store is where files lie: one for each kind of place.
type store interface {
	// get asks for the bytes of an object from one place on, and up to another that is
	// not among them (-1 is the end). A version other than "" is that of an earlier
	// answer: an object that is not of that version is errChanged.
	get(ctx context.Context, name string, from, to int64, version string) (*answer, error)

	// list calls each for the objects below a prefix, by their names from there on.
	list(ctx context.Context, prefix string, each func(name string, size int64) error) error
}

// An answer is what a store has of an object.
type answer struct {
	body    io.ReadCloser
	size    int64  // of the whole object; -1: not told
	version string // tells whether the object is still the same; "" = cannot be told
	whole   bool   // body is the whole object, whatever was asked for
}

// A file is one of the files of a dataset.
type file struct {
	uri    string // as shown
	format drift.Format
	open   func(ctx context.Context, format drift.Format) (*source, error)
}

// Check tells whether a dataset may be read at an address that is to be stored, as far as
// that is known without a look at it.
func (p *Places) Check(uri string) error {
	if err := Check(uri); err != nil {
		return err
	}
	uri = braced.ReplaceAllString(uri, "0")
	scheme, _, has := strings.Cut(uri, "://")
	switch {
	case !has || scheme == "file":
		name, err := pathOf(uri)
		if err != nil || p.Everywhere {
			return err
		}
		_, _, err = p.root(name)
		return err
	case scheme == "s3": // buckets may be connected later
		return nil
	}
	u, err := url.Parse(uri)
	if err != nil {
		return errors.New("it is no address: percent-encode what is special in it")
	}
	return p.Guard.CheckURL(u)
}

// Read reads a dataset into a sample.
func (p *Places) Read(ctx context.Context, r Reference, o drift.ReadOptions) (*drift.Sample, error) {
	reader, read := drift.NewReader(o), 0
	uris, err := r.expand()
	if err != nil {
		return nil, named(r.URI, err)
	}
	for _, uri := range uris {
		files, err := p.find(ctx, r, uri)
		if err != nil {
			if Patterned(r.URI) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoFiles)) {
				continue
			}
			return nil, named(uri, err)
		}
		for _, f := range files {
			err := f.read(ctx, reader)
			if Patterned(r.URI) && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, named(f.uri, err)
			}
			read++
		}
	}
	if read == 0 {
		return nil, named(r.URI, ErrNoFiles)
	}
	sample, err := reader.Sample()
	return sample, named(r.URI, err)
}

func named(uri string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", Shown(uri), err)
}

func (f *file) read(ctx context.Context, into *drift.Reader) error {
	if f.format == "" {
		return errors.New("its name does not tell its format: give csv, jsonl or parquet")
	}
	s, err := f.open(ctx, f.format)
	if err != nil {
		return err
	}
	err = into.Add(s, s.size, f.format)
	if closed := s.Close(); err == nil {
		err = closed
	}
	return err
}

// find returns the files of a URI without a pattern.
func (p *Places) find(ctx context.Context, r Reference, uri string) ([]file, error) {
	scheme, _, has := strings.Cut(uri, "://")
	if !has || scheme == "file" {
		return p.local(ctx, r, uri)
	}
	s, name, err := p.store(scheme, uri)
	if err != nil {
		return nil, err
	}
	if name != "" && !strings.HasSuffix(name, "/") {
		return []file{p.remote(s, uri, name, cmp.Or(r.Format, drift.FormatOf(name)))}, nil
	}
	return list(r, func(each func(string, int64) error) error { return s.list(ctx, name, each) }, func(below string, format drift.Format) file {
		return p.remote(s, strings.TrimSuffix(Shown(uri), "/")+"/"+below, name+below, format)
	})
}

// list makes the files of a list, by name.
func list(r Reference, walk func(each func(name string, size int64) error) error, of func(below string, format drift.Format) file) ([]file, error) {
	type entry struct {
		name   string
		format drift.Format
	}
	var entries []entry
	err := walk(func(name string, size int64) error {
		format := r.takes(name)
		if format == "" || size == 0 {
			return nil
		}
		if len(entries) == maxFiles {
			return fmt.Errorf("it has more than %d files: name a narrower prefix", maxFiles)
		}
		entries = append(entries, entry{name, format})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w whose names tell a format: csv, jsonl or parquet", ErrNoFiles)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	files := make([]file, len(entries))
	for i, e := range entries {
		files[i] = of(e.name, e.format)
	}
	return files, nil
}

// remote is a file of a store.
func (p *Places) remote(s store, uri, name string, format drift.Format) file {
	return file{uri, format, func(ctx context.Context, format drift.Format) (*source, error) {
		return p.open(ctx, s, name, format != drift.Parquet)
	}}
}

// store returns the store of an address, and what the object is called there.
func (p *Places) store(scheme, uri string) (store, string, error) {
	switch scheme {
	case "http", "https":
		u, err := url.Parse(uri)
		if err != nil {
			return nil, "", errors.New("it is no address: percent-encode what is special in it")
		}
		if err := p.Guard.CheckURL(u); err != nil {
			return nil, "", err
		}
		if s, name, err := p.container(u); s != nil || err != nil {
			return s, name, err
		}
		return &web{p.http, *u, p.Remedy}, u.Path, nil
	case "s3": // a key stands in it as it is, also with ? and %
		bucket, key, has := strings.Cut(strings.TrimPrefix(uri, "s3://"), "/")
		if !has || bucket == "" {
			return nil, "", errors.New("it names no object: write s3://BUCKET/KEY, or s3://BUCKET/ for all of a bucket")
		}
		s, err := p.bucket(bucket)
		return s, key, err
	}
	return nil, "", unknownScheme(scheme)
}

const maxClients = 256

// client returns the client that was made from a connection, or makes it.
func (p *Places) client(connection any, make func(*http.Client) (store, error), of string) (store, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := client{connection, of}
	if s := p.clients[key]; s != nil {
		return s, nil
	}
	s, err := make(p.http)
	if err == nil {
		if len(p.clients) == maxClients { // connections change, and * has many buckets
			clear(p.clients)
		}
		p.clients[key] = s
	}
	return s, err
}
