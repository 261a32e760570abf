package dataset

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/drift"
)

// objects are what the two stores of the tests have, by name. Both know conditions and
// ranges, and give lists in pages of two.
type objects map[string]string

func (o objects) below(prefix, after string) (names []string, more bool) {
	for name := range o {
		if strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > 2 {
		return names[:2], true
	}
	return names, false
}

func writeXML(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(v)
}

// s3 serves a bucket "data" in the path style.
// Source: docs.aws.amazon.com/AmazonS3/latest/API, GetObject and ListObjectsV2.
func (o objects) s3(w http.ResponseWriter, r *http.Request, asked int) {
	type fault struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case !strings.Contains(r.Header.Get("Authorization"), "Credential=id/"):
		writeXML(w, http.StatusForbidden, fault{Code: "AccessDenied"})
	case bucket != "data":
		writeXML(w, http.StatusNotFound, fault{Code: "NoSuchBucket"})
	case query.Has("list-type"):
		type content struct {
			Key  string
			Size int
		}
		type result struct {
			XMLName               xml.Name `xml:"ListBucketResult"`
			Contents              []content
			IsTruncated           bool
			NextContinuationToken string
		}
		names, more := o.below(query.Get("prefix"), query.Get("continuation-token"))
		answer := result{IsTruncated: more}
		for _, name := range names {
			answer.Contents, answer.NextContinuationToken = append(answer.Contents, content{name, len(o[name])}), name
		}
		writeXML(w, http.StatusOK, answer)
	default:
		text, is := o[key]
		if !is {
			writeXML(w, http.StatusNotFound, fault{Code: "NoSuchKey"})
			return
		}
		ranged(w, r, etagOf(key, asked), text)
	}
}

// azure serves a container "data" of the account "account", its name in the path.
// Source: learn.microsoft.com/rest/api/storageservices, Get Blob and List Blobs.
func (o objects) azure(w http.ResponseWriter, r *http.Request, asked int) {
	fault := func(status int, code string) {
		w.Header().Set("X-Ms-Error-Code", code)
		w.WriteHeader(status)
	}
	container, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/account/"), "/")
	query := r.URL.Query()
	switch {
	case !strings.HasPrefix(r.Header.Get("Authorization"), "SharedKey account:"):
		fault(http.StatusForbidden, "AuthenticationFailed")
	case container != "data":
		fault(http.StatusNotFound, "ContainerNotFound")
	case query.Get("comp") == "list":
		type item struct {
			Name          string
			ContentLength string `xml:"Properties>Content-Length"`
		}
		type result struct {
			XMLName    xml.Name `xml:"EnumerationResults"`
			Blobs      []item   `xml:"Blobs>Blob"`
			NextMarker string
		}
		names, more := o.below(query.Get("prefix"), query.Get("marker"))
		var answer result
		for _, name := range names {
			answer.Blobs = append(answer.Blobs, item{name, strconv.Itoa(len(o[name]))})
			if answer.NextMarker = ""; more {
				answer.NextMarker = name
			}
		}
		writeXML(w, http.StatusOK, answer)
	default:
		text, is := o[name]
		if !is {
			fault(http.StatusNotFound, "BlobNotFound")
			return
		}
		if asked := r.Header.Get("X-Ms-Range"); asked != "" {
			r.Header.Set("Range", asked)
		}
		ranged(w, r, etagOf(name, asked), text)
	}
}

// etagOf is another one for each request of what changes all the time.
func etagOf(name string, asked int) string {
	if strings.HasPrefix(name, "changing/") {
		return fmt.Sprintf(`"%d"`, asked)
	}
	return `"fixed"`
}

type given struct {
	accounts []string
	buckets  []Bucket
}

func (g given) StorageAccounts() []string { return g.accounts }
func (g given) Buckets() []Bucket         { return g.buckets }

const storeKey = "c2VjcmV0LXMzY3JldA=="

// TestStores is one suite for both.
func TestStores(t *testing.T) {
	quick(t)
	const rows = 400_000
	o := objects{
		"a.csv": "a\n1\n2\n", "table/part-1.csv": "a\n1\n2\n3\n", "table/deep/part-0.jsonl": `{"a":1}`, "table/_SUCCESS": "x", "table/x.txt": "x", "table/none.csv": "", "table/": "",
		"large.parquet": parquetOf(t, rows), "large.csv": "a\n" + strings.Repeat("12345678\n", rows), "odd name?#%41.csv": "a\n1\n",
		"days/2026-02-28/x.csv": "a\n1\n", "days/2026-03-01/x.csv": "a\n1\n1\n", "days/2026-03-01/y.csv": "a\n1\n", "empty.parquet": "",
	}
	o["changing/large.parquet"] = o["large.parquet"]
	for name, start := range map[string]func() (root string, c given, strange string){
		"s3": func() (string, given, string) {
			at := served(t, o.s3)
			return "s3://data/", given{nil, []Bucket{
				{Name: "*", Endpoint: at, Region: "r", AccessKeyID: "id", SecretAccessKey: storeKey},
				{Name: "other", Endpoint: at, Region: "r", AccessKeyID: "nobody", SecretAccessKey: storeKey},
			}}, "s3://other/"
		},
		"azure": func() (string, given, string) {
			at := served(t, o.azure)
			return at + "/account/data/", given{accounts: []string{
				"AccountName=unlike;AccountKey=" + storeKey,
				"AccountName=account;AccountKey=" + storeKey + ";BlobEndpoint=" + at + "/account;",
				"AccountName=nobody;AccountKey=" + storeKey + ";BlobEndpoint=" + at + "/nobody/;"}}, at + "/nobody/data/"
		},
	} {
		root, connections, strange := start()
		p := places(t, Config{Connections: connections, Remedy: "give a connection"})
		window := func(uri string) Reference { return Reference{URI: uri, From: changed.AddDate(0, 0, -3), To: changed} }
		odd := root + "odd name?#%41.csv"
		if name == "azure" {
			odd = root + "odd%20name%3F%23%2541.csv"
		}
		for _, tt := range []struct {
			name string
			r    Reference
			rows int64
			want string
		}{
			{"a file", Reference{URI: root + "a.csv"}, 2, ""},
			{"an odd name", Reference{URI: odd}, 1, ""},
			{"a prefix", Reference{URI: root + "table/"}, 4, ""},
			{"a prefix of one format", Reference{URI: root + "table/", Format: drift.CSV}, 3, ""},
			{"days", window(root + "days/{yyyy}-{MM}-{dd}/x.csv"), 3, ""},
			{"days of prefixes", window(root + "days/{yyyy}-{MM}-{dd}/"), 4, ""},
			{"parquet", Reference{URI: root + "large.parquet"}, rows, ""},
			{"csv", Reference{URI: root + "large.csv"}, rows, ""},

			{"not there", Reference{URI: root + "b.csv"}, 0, "the server answered 404"},
			{"no files", Reference{URI: root + "none/"}, 0, "it has no files"},
			{"no place", Reference{URI: strings.Replace(root, "data", "tada", 1) + "a.csv"}, 0, "the server answered 404 "},
			{"a list of no place", Reference{URI: strings.Replace(root, "data", "tada", 1) + "days/"}, 0, "the server answered 404 "},
			{"no access", Reference{URI: strange + "a.csv"}, 0, "the server answered 403 A"},
			{"no access to a list", Reference{URI: strange + "days/"}, 0, ": give a connection"},
			{"an empty file", Reference{URI: root + "empty.parquet"}, 0, "it is too short"},
			{"a file that changes", Reference{URI: root + "changing/large.parquet"}, 0, "it changed while it was read"},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				got, err := rowsOf(t, p, tt.r)
				if got != tt.rows || (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), storeKey)) {
					t.Errorf("%d rows, error %v", got, err)
				}
				if gone := tt.name == "not there"; err != nil && errors.Is(err, fs.ErrNotExist) != gone {
					t.Errorf("error %v: is it a file that is not there? %v", err, !gone)
				}
			})
		}
	}
	p := places(t, Config{Remedy: "give a connection"})
	if _, err := rowsOf(t, p, Reference{URI: "s3://data/a.csv"}); err == nil || !strings.HasSuffix(err.Error(), "there is no connection for the bucket data: give a connection") {
		t.Errorf("without a connection: %v", err)
	}
	if _, err := rowsOf(t, p, Reference{URI: served(t, o.azure) + "/account/data/a.csv"}); err == nil || !strings.Contains(err.Error(), "403 AuthenticationFailed: give a connection") {
		t.Errorf("without a connection: %v", err)
	}
	for _, uri := range []string{"s3://data", "s3:///a.csv"} {
		if _, err := rowsOf(t, p, Reference{URI: uri}); err == nil || !strings.Contains(err.Error(), "s3://BUCKET/KEY") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestBlobEndpoint(t *testing.T) {
	for connection, want := range map[string]string{
		"DefaultEndpointsProtocol=https;AccountName=dl;AccountKey=x==;EndpointSuffix=core.windows.net":  "https://dl.blob.core.windows.net/",
		"AccountName=dl;AccountKey=x==;EndpointSuffix=core.chinacloudapi.cn":                            "https://dl.blob.core.chinacloudapi.cn/",
		"BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;AccountName=devstoreaccount1;AccountKey=": "http://127.0.0.1:10000/devstoreaccount1/",
		"BlobEndpoint=https://dl.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x":               "https://dl.blob.core.windows.net/",
		"Endpoint=sb://bus.servicebus.windows.net/;SharedAccessKeyName=x;SharedAccessKey=y":             "",
	} {
		if got := blobEndpoint(connection); got != want {
			t.Errorf("%s: %s, want %s", connection, got, want)
		}
	}
}

// The connection of one account says nothing of another one, wherever it leads.
func TestOfAccount(t *testing.T) {
	for _, c := range []struct {
		connection, name string
		want             bool
	}{
		{"AccountName=dl;AccountKey=x==", "dl", true},
		{"AccountName=dl;AccountKey=x==", "DL", true},
		{"AccountName=dl;AccountKey=x==", "mine", false},
		{"BlobEndpoint=https://dl.blob.core.windows.net/;SharedAccessSignature=sig=x", "dl", true},
		{"BlobEndpoint=https://dl.blob.core.windows.net/;SharedAccessSignature=sig=x", "mine", false},
		{"AccountName=mine;BlobEndpoint=https://dl.blob.core.windows.net/", "mine", false},
		{"BlobEndpoint=https://dl.example/mine", "mine", false},
		{"BlobEndpoint=http://127.0.0.1:10000/dl", "dl", true},
		{"BlobEndpoint=http://azurite:10000/dl", "dl", true},
		{"BlobEndpoint=http://127.0.0.1:10000/dl", "mine", false},
		{"BlobEndpoint=http://127.0.0.1:10000/dl/mine", "mine", false},
		{"QueueEndpoint=https://dl.queue.core.windows.net/", "dl", false},
		{"BlobEndpoint=%zz", "dl", false},
		{"AccountName=dl", "", false},
	} {
		if got := OfAccount(c.connection, c.name); got != c.want {
			t.Errorf("%s of %s: %t", c.connection, c.name, got)
		}
	}
}
