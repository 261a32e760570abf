package ingest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// A shared access signature is r={resource}&e={expiry}&s={signature}, each part
// percent-encoded. The signature is over the text before &s= as it was received:
// generators encode differently, and what is decoded and encoded again is another
// text. Source: spec/events.md section 8.5.

// claim is what a token says whose signature was found good.
type claim struct {
	key      [sha256.Size]byte // digest of the access key that signed it
	resource address
	until    time.Time
}

// signatures checks tokens, and remembers what those say that a key signed: a
// publisher sends the same token with every request. A key that was replaced ends
// what it signed, for a claim counts only while its key is the topic's.
type signatures struct {
	mu     sync.RWMutex
	claims map[[sha256.Size]byte]claim // by hash of the token
}

// maxClaims bounds the claims; when there are more, they are read again.
const maxClaims = 10_000

// check returns what is wrong with a token, nil if one of the keys signed it for one
// of the addresses and until after now. What the token says is answered to whoever
// has a valid signature only.
func (s *signatures) check(token string, keys *[2]AccessKey, at []address, now time.Time) *fault.Error {
	hash := sha256.Sum256([]byte(token))
	s.mu.RLock()
	c, known := s.claims[hash]
	s.mu.RUnlock()
	if !known || c.key != keys[0].digest && c.key != keys[1].digest {
		var problem *fault.Error
		if c, problem = readSAS(token, keys); problem != nil {
			return problem
		}
		s.mu.Lock()
		if s.claims == nil || len(s.claims) >= maxClaims {
			s.claims = map[[sha256.Size]byte]claim{}
		}
		s.claims[hash] = c
		s.mu.Unlock()
	}
	switch {
	case !now.Before(c.until):
		return refuse("The shared access signature expired at " + c.until.UTC().Format(time.RFC3339) + ".")
	case !slices.ContainsFunc(at, c.resource.leadsTo):
		return refuse("The shared access signature is for another resource: sign the address that events are sent to, up to /api/events.")
	}
	return nil
}

// readSAS takes a token apart that one of the keys signed.
func readSAS(token string, keys *[2]AccessKey) (claim, *fault.Error) {
	signed, signature, _ := strings.Cut(token, "&s=")
	resource, expiry, _ := strings.Cut(signed, "&e=")
	resource, named := strings.CutPrefix(resource, "r=")
	if !named || !unescape(&resource) || !unescape(&expiry) || !unescape(&signature) {
		return claim{}, fault.New(fault.Invalid, codeInvalidSAS, "The shared access signature has not the form r={resource}&e={expiry}&s={signature} with each part percent-encoded.")
	}
	key := signer(signed, signature, keys)
	if key == nil {
		return claim{}, refuse("The shared access signature is not signed with an access key of this topic.")
	}
	until, ok := parseExpiry(expiry)
	if !ok {
		return claim{}, fault.New(fault.Invalid, codeInvalidSAS, "The expiry of the shared access signature is no time that is known: write it as 2030-06-15T18:20:15Z or 6/15/2030 6:20:15 PM, in UTC.")
	}
	return claim{key.digest, parseResource(resource), until}, nil
}

// unescape takes the encoding off one part of a token, and reports whether it is one.
func unescape(part *string) bool {
	plain, err := url.QueryUnescape(*part)
	if err != nil || plain == "" || strings.Contains(*part, "&") {
		return false
	}
	*part = plain
	return true
}

// signer returns the key that a signature is by, nil for none. It compares with the
// signatures of both keys, always both, in a time that depends on neither.
func signer(signed, signature string, keys *[2]AccessKey) (key *AccessKey) {
	shown, err := base64.StdEncoding.Strict().DecodeString(signature)
	text := []byte(signed)
	for i := range keys {
		mac := hmac.New(sha256.New, []byte(keys[i].secret))
		mac.Write(text)
		if hmac.Equal(shown, mac.Sum(nil)) && keys[i].secret != "" && err == nil {
			key = &keys[i]
		}
	}
	return key
}

// Forms of an expiry. Parsing takes a fraction of a second behind the seconds, and
// one digit for two. Source: spec/events.md section 8.5.
var (
	slashedForms = []string{"1/2/2006 3:4:5 PM", "1/2/2006 3:4:5 PM -07:00", "1/2/2006 15:4:5", "1/2/2006 15:4:5 -07:00"}
	dashedForms  = []string{"2006-01-02 15:04:05", "2006-01-02 15:04:05Z07:00"}
)

// expiryText brings what differs between forms that mean the same together: .NET
// puts a no-break space before AM and PM, ISO 8601 a T before the time, and
// JavaScript's own locale a comma behind the date.
var expiryText = strings.NewReplacer("\u202f", " ", "\u00a0", " ", "T", " ", ",", "")

// parseExpiry reads an expiry in any of the forms that generators write. Without a
// zone it is UTC.
func parseExpiry(text string) (time.Time, bool) {
	text = expiryText.Replace(strings.ToUpper(strings.TrimSpace(text)))
	forms := dashedForms
	if strings.Contains(text, "/") {
		forms = slashedForms
	}
	for _, form := range forms {
		if t, err := time.Parse(form, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// origin is the part of an address before its path, comparable.
type origin struct{ scheme, host, port string }

// originOf returns the origin of a URL in lower case, with its port.
func originOf(u *url.URL) origin {
	o := origin{strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()}
	switch {
	case o.port != "":
	case o.scheme == "https":
		o.port = "443"
	case o.scheme == "http":
		o.port = "80"
	}
	return o
}

// address is where a request was sent to, or what a token was signed for.
type address struct {
	origin
	path string
}

func addressOf(r *http.Request) address {
	u := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return address{originOf(&u), r.URL.Path}
}

// parseResource reads the URL that a token was signed for, without query and slash at
// the end. What is no such URL leads nowhere.
func parseResource(text string) address {
	u, err := url.Parse(strings.Clone(text)) // it is kept, and the request that it is part of must not be
	if err != nil || u.Host == "" || u.User != nil {
		return address{}
	}
	return address{originOf(u), strings.TrimRight(u.Path, "/")}
}

// leadsTo reports whether a resource is the address of a request, or a path that leads
// to it, ignoring case.
func (a address) leadsTo(to address) bool {
	return a.host != "" && a.origin == to.origin && hasPrefixFold(to.path, a.path) && (len(to.path) == len(a.path) || to.path[len(a.path)] == '/')
}
