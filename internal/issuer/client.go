package issuer

import (
	"regexp"
	"strconv"
	"strings"
)

// publicClients are the applications that users sign in at: those of the az command
// line, which Azure's identity libraries use as well, and of Az PowerShell. They run on
// the user's machine and hold no secret. Source: spec/access.md section 3.4.
var publicClients = map[string]string{
	"04b07795-8ddb-461a-bbee-02f9e1bf7b46": "Microsoft Azure CLI",
	"1950a258-227b-4e31-a9cf-717495945fc2": "Microsoft Azure PowerShell",
}

// publicClient returns the id of a public client in lower case and its name.
func publicClient(id string) (string, string, bool) {
	id = strings.ToLower(id)
	name, ok := publicClients[id]
	return id, name, ok
}

// loopback is the one form of redirect URI that public clients have: the user's own
// machine, any port, and no path, query or fragment, for none is registered.
// Source: RFC 8252, section 7.3 and 8.3.
var loopback = regexp.MustCompile(`^http://(?:localhost|127\.0\.0\.1|\[::1\]):([1-9][0-9]{0,4})/?$`)

// isRedirect reports whether a code may be sent to a redirect URI.
func isRedirect(uri string) bool {
	m := loopback.FindStringSubmatch(uri)
	if m == nil {
		return false
	}
	port, err := strconv.Atoi(m[1])
	return err == nil && port < 1<<16
}
