package ingest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// A shared access signature is r={resource}&e={expiry}&s={signature}, each part
// percent-encoded. The signature is over the text before &s= as it was received:
// generators encode differently, and what is decoded and encoded again is another
// text. Nothing is remembered of one: to verify it costs some two microseconds, and so
// a key that is replaced ends what it signed without more ado.
// Source: spec/events.md section 8.5.

// checkSAS returns what is wrong with a shared access signature, nil if one of the
// keys signed it for one of the addresses and until after now. What the token says
// is answered to whoever has a valid signature only.
func checkSAS(text string, keys *[2]AccessKey, at []address, now time.Time) *fault.Error {
	signed, signature, _ := strings.Cut(text, "&s=")
	resource, expiry, _ := strings.Cut(signed, "&e=")
	resource, named := strings.CutPrefix(resource, "r=")
	if !named || !unescape(&resource) || !unescape(&expiry) || !unescape(&signature) {
		return fault.New(fault.Invalid, codeInvalidSAS, "The shared access signature has not the form r={resource}&e={expiry}&s={signature} with each part percent-encoded.")
	}
	if !matchSignature(signed, signature, keys) {
		return refuse("The shared access signature is not signed with an access key of this topic.")
	}
	until, ok := parseExpiry(expiry)
	switch {
	case !ok:
		return fault.New(fault.Invalid, codeInvalidSAS, "The expiry of the shared access signature is no time that is known: write it as 2030-06-15T18:20:15Z or 6/15/2030 6:20:15 PM, in UTC.")
	case !now.Before(until):
		return refuse("The shared access signature expired at " + until.UTC().Format(time.RFC3339) + ".")
	case !covers(resource, at):
		return refuse("The shared access signature is for another resource: sign the address that events are sent to, up to /api/events.")
	}
	return nil
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

// matchSignature compares with the signatures of both keys, always both, in a time
// that depends on neither.
func matchSignature(signed, signature string, keys *[2]AccessKey) bool {
	shown, err := base64.StdEncoding.Strict().DecodeString(signature)
	match := false
	for i := range keys {
		mac := hmac.New(sha256.New, []byte(keys[i].secret))
		mac.Write([]byte(signed))
		same := hmac.Equal(shown, mac.Sum(nil))
		match = match || same && keys[i].secret != ""
	}
	return match && err == nil
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

// address is where a request was sent to.
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

// covers reports whether the URL of a resource is one of the addresses or a path
// that leads to it. Case, query and a slash at the end do not count.
func covers(resource string, at []address) bool {
	u, err := url.Parse(resource)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	origin, path := originOf(u), strings.TrimRight(u.Path, "/")
	for _, a := range at {
		if a.origin == origin && hasPrefixFold(a.path, path) && (len(a.path) == len(path) || a.path[len(path)] == '/') {
			return true
		}
	}
	return false
}
