package dataset

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/secret"
)

// Reference says which files are a dataset.
//
//	/data/train.csv, file:///data/train.csv       a file of this machine
//	https://example.org/train.parquet             a file of a web server
//	s3://bucket/train.jsonl                       an object of an S3-compatible store
//	https://NAME.blob.core.windows.net/box/a.csv  a blob of a storage account
//
// What ends in / is all files below it whose names tell a format; not those with a
// part of the path that begins with . or _, as unfinished ones do, and no empty ones.
// Web servers have no such lists. {yyyy}, {MM}, {dd} and {HH} stand for the hours,
// days, months or years of a window, UTC: the files of each that is there are read.
type Reference struct {
	URI      string
	Format   drift.Format // of all files; "" = as the name of each tells
	From, To time.Time    // window of a pattern, To itself outside it
}

// ErrNoFiles says that a directory, a prefix or a pattern has no files. A single file
// that is not there is fs.ErrNotExist.
var ErrNoFiles = errors.New("it has no files")

// maxFiles bounds the files of a dataset.
const maxFiles = 10_000

var (
	braced = regexp.MustCompile(`\{[A-Za-z]+\}`)
	tokens = []string{"{yyyy}", "{MM}", "{dd}", "{HH}"} // from coarse to fine
)

// Patterned tells whether a URI holds a pattern of dates, so that it needs a window.
func Patterned(uri string) bool { return braced.MatchString(uri) }

// Check tells what is wrong with a URI that is to be stored, before anything is read:
// its form, and credentials in it, which would be shown to everybody who sees it.
func Check(uri string) error {
	if err := checkPattern(uri); err != nil {
		return err
	}
	scheme, _, has := strings.Cut(uri, "://")
	if !has {
		if !strings.HasPrefix(uri, "/") {
			return fmt.Errorf("%q is no absolute path and no address: give /…, file://…, https://…, s3://BUCKET/KEY", Shown(uri))
		}
		return nil
	}
	if !slices.Contains(schemes, scheme) {
		return unknownScheme(scheme)
	}
	if scheme == "s3" {
		if bucket, _, has := strings.Cut(strings.TrimPrefix(uri, "s3://"), "/"); !has || bucket == "" || strings.ContainsAny(bucket, "@:{}") {
			return errors.New("the address names no bucket and object: write s3://BUCKET/KEY, or s3://BUCKET/ for all of a bucket")
		}
		return nil
	}
	u, err := url.Parse(braced.ReplaceAllString(uri, "0"))
	if err != nil {
		return fmt.Errorf("%s is no address: percent-encode what is special in it", Shown(uri))
	}
	if u.User != nil {
		return errors.New("the address holds a user name or password: leave it out, and give credentials with carillon connection create")
	}
	for name := range u.Query() {
		if secretParameter.MatchString(name) {
			return fmt.Errorf("the address holds a credential (%s): leave that out, and give credentials with carillon connection create", name)
		}
	}
	return nil
}

var (
	schemes         = []string{"file", "http", "https", "s3"}
	secretParameter = regexp.MustCompile(`(?i)^(sig|signature|code|token|(access|auth|private)[-_]?token|pass|passwd|password|pwd|secret|client_secret|(api|access|account|subscription|functions)[-_]?key|.*-(signature|credential|security-token|key))$`)
)

func unknownScheme(scheme string) error {
	return fmt.Errorf("addresses of %s:// cannot be read: give /…, file://…, http(s)://… or s3://BUCKET/KEY", scheme)
}

func checkPattern(uri string) error {
	var has [4]bool
	for _, token := range braced.FindAllString(uri, -1) {
		i := slices.Index(tokens, token)
		if i < 0 {
			return fmt.Errorf("%s is no part of a date: {yyyy}, {MM}, {dd} and {HH} are", token)
		}
		has[i] = true
	}
	for i := 1; i < len(has); i++ {
		if has[i] && !has[i-1] {
			return fmt.Errorf("a pattern with %s needs %s, too", tokens[i], tokens[i-1])
		}
	}
	return nil
}

// expand returns the URIs that a pattern stands for in a window, or the URI itself.
func (r Reference) expand() ([]string, error) {
	if !Patterned(r.URI) {
		return []string{r.URI}, nil
	}
	if err := checkPattern(r.URI); err != nil {
		return nil, err
	}
	from, to := r.From.UTC(), r.To.UTC()
	if r.From.IsZero() || r.To.IsZero() {
		return nil, errors.New("its dates need a window: give its begin and end")
	}
	var at time.Time
	var next func(time.Time) time.Time
	switch {
	case strings.Contains(r.URI, "{HH}"):
		at, next = from.Truncate(time.Hour), func(t time.Time) time.Time { return t.Add(time.Hour) }
	case strings.Contains(r.URI, "{dd}"):
		at, next = time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, time.UTC), func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }
	case strings.Contains(r.URI, "{MM}"):
		at, next = time.Date(from.Year(), from.Month(), 1, 0, 0, 0, 0, time.UTC), func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }
	default:
		at, next = time.Date(from.Year(), 1, 1, 0, 0, 0, 0, time.UTC), func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }
	}
	var out []string
	for ; at.Before(to); at = next(at) {
		if len(out) == maxFiles {
			return nil, fmt.Errorf("the window has more than %d of its dates: narrow it", maxFiles)
		}
		out = append(out, strings.NewReplacer("{yyyy}", at.Format("2006"), "{MM}", at.Format("01"), "{dd}", at.Format("02"), "{HH}", at.Format("15")).Replace(r.URI))
	}
	return out, nil
}

// Files names the files of a dataset, as it may be shown: of a pattern, the first and the
// last that its window has.
func (r Reference) Files() string {
	uris, err := r.expand()
	switch {
	case err != nil || len(uris) == 0:
		return Shown(r.URI)
	case len(uris) == 1:
		return Shown(uris[0])
	}
	return Shown(uris[0]) + " to " + Shown(uris[len(uris)-1])
}

// takes tells the format of a file in a list, or "" where it is none of the dataset.
func (r Reference) takes(name string) drift.Format {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || strings.HasPrefix(part, "_") {
			return ""
		}
	}
	told := drift.FormatOf(name)
	base := name[strings.LastIndexByte(name, '/')+1:]
	switch {
	case base == "":
		return ""
	case r.Format == "", told == r.Format:
		return told
	case told == "" && !strings.Contains(base, "."): // as part-00000
		return r.Format
	}
	return ""
}

// Shown is a URI without its credentials, as it may be shown.
func Shown(uri string) string {
	if strings.Contains(uri, "://") && !strings.HasPrefix(uri, "file://") {
		return strings.NewReplacer("%7B", "{", "%7D", "}").Replace(secret.MaskURL(uri))
	}
	return uri
}
