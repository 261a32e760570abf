package secret

import (
	"net/url"
	"regexp"
	"strings"
)

// MaskURL returns a URL as it may be shown: scheme, host and path. User
// information, query and fragment are left out, for receivers keep keys there.
// Source: spec/delivery.md section 9.3.
func MaskURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return "(unreadable URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// userinfo is what stands between scheme and host of a URL, up to the last @: a password
// may hold one.
var userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#"'<>\\]*)@`)

// WithoutUserinfo returns text with the user names and passwords left out of the URLs in it,
// which stay as they are otherwise: tools that report what they ran keep tokens there. The
// user git alone stays, which is everybody's where repositories are read over SSH.
func WithoutUserinfo(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	return userinfo.ReplaceAllStringFunc(text, func(found string) string {
		if m := userinfo.FindStringSubmatch(found); m[2] != "git" {
			return m[1]
		}
		return found
	})
}

var (
	anyURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\\]+`)

	// Headers whose whole value is secret, up to the end of the line or quote.
	secretHeader = regexp.MustCompile(`(?i)\b(authorization|aeg-sas-key|aeg-sas-token|cookie|set-cookie)(["']?\s*[:=]\s*["']?)[^\r\n"']+`)

	// A credential by its scheme, wherever it stands.
	secretScheme = regexp.MustCompile(`(?i)\b(bearer|sharedaccesskey|sharedaccesssignature)\s+[^\s"',;]+`)

	// Parameters of URLs, forms and JSON bodies.
	secretParam = regexp.MustCompile(`(?i)\b(code|sig|token|access_token|refresh_token|client_secret|client_assertion|password)(=|["']?\s*:\s*["'])[^\s&"',;]+`)
)

// Redact returns text with the secrets that can be told by their form left out:
// everything but scheme, host and path of URLs, credentials in headers, and
// parameters known to carry secrets. It is a net below code that names its
// fields, not a licence to log what others wrote.
// Source: spec/access.md section 14.4.
func Redact(text string) string {
	text = anyURL.ReplaceAllStringFunc(text, MaskURL)
	text = secretHeader.ReplaceAllString(text, "${1}${2}"+Hidden)
	text = secretScheme.ReplaceAllString(text, "${1} "+Hidden)
	return secretParam.ReplaceAllString(text, "${1}${2}"+Hidden)
}
