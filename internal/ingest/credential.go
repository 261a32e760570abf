package ingest

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// Proof is the kind of a credential.
type Proof uint8

// The proofs that the publish API knows, in the order in which they are tried.
const (
	Unsupported Proof = iota // Authorization with another scheme; never holds
	Bearer                   // Authorization: Bearer …
	Key                      // aeg-sas-key, header or query
	SASToken                 // aeg-sas-token, or Authorization: SharedAccessSignature …
)

// String returns the proof as a message names it.
func (p Proof) String() string {
	switch p {
	case Bearer:
		return "bearer token"
	case Key:
		return "access key"
	case SASToken:
		return "shared access signature"
	default:
		return "credential of this Authorization scheme"
	}
}

// Credential is what a publisher shows. A request may carry several; any valid one
// suffices. Source: spec/events.md section 8.4.
type Credential struct {
	proof Proof
	text  string // secret: never in a message or record
}

const (
	headerKey   = "Aeg-Sas-Key"
	headerToken = "Aeg-Sas-Token"
)

// credentials returns what a request carries, in the order of evaluation.
func credentials(r *http.Request) []Credential {
	var bearer, key, token []Credential
	for _, authorization := range r.Header["Authorization"] {
		scheme, text, _ := strings.Cut(authorization, " ")
		switch {
		case strings.EqualFold(scheme, "Bearer"):
			bearer = append(bearer, Credential{Bearer, strings.TrimSpace(text)})
		case strings.EqualFold(scheme, "SharedAccessSignature"):
			token = append(token, Credential{SASToken, strings.TrimSpace(text)})
		default:
			bearer = append(bearer, Credential{Unsupported, authorization})
		}
	}
	for _, text := range r.Header[headerKey] {
		key = append(key, Credential{Key, text})
	}
	if strings.Contains(strings.ToLower(r.URL.RawQuery), "aeg-sas-key") {
		for name, values := range r.URL.Query() {
			if strings.EqualFold(name, headerKey) {
				for _, text := range values {
					key = append(key, Credential{Key, text})
				}
			}
		}
	}
	for _, text := range r.Header[headerToken] {
		token = append(token, Credential{SASToken, text})
	}
	return append(append(bearer, key...), token...)
}

// authenticate checks that a request carries a credential that holds for the
// topic. If none does, the first one's problem is the answer.
func authenticate(r *http.Request, topic *Topic) error {
	shown := credentials(r)
	if len(shown) == 0 {
		return refuse("The request carries no credential: send one of the topic's access keys in the header aeg-sas-key, or a shared access signature in the header aeg-sas-token.")
	}
	var first *fault.Error
	for _, c := range shown {
		problem := c.check(topic)
		if problem == nil {
			return nil
		}
		if first == nil {
			first = problem
		}
	}
	return first
}

// check returns nil if the credential holds for the topic. Only access keys can:
// this server does not verify the two others.
func (c Credential) check(topic *Topic) *fault.Error {
	switch {
	case c.proof == Key && strings.TrimSpace(c.text) == "":
		return fault.New(fault.Invalid, "InvalidSas", "The aeg-sas-key is empty: it must hold one of the topic's access keys, aeg-sas-key: {key}.")
	case c.proof == Key && matchKey(c.text, &topic.Keys):
		return nil
	case c.proof == Key:
		return refuse("The aeg-sas-key is not an access key of this topic.")
	case c.proof == SASToken && !isSAS(c.text):
		return fault.New(fault.Invalid, "InvalidSas", "The shared access signature has not the form r={resource}&e={expiry}&s={signature}.")
	default:
		return refuse("A " + c.proof.String() + " is not accepted for publishing here: send one of the topic's access keys in the header aeg-sas-key.")
	}
}

// AccessKey is an access key of a topic. The zero one opens nothing.
type AccessKey struct {
	set    bool
	digest [sha256.Size]byte
}

// NewAccessKey returns a key; an empty one opens nothing.
func NewAccessKey(text string) AccessKey {
	return AccessKey{set: text != "", digest: sha256.Sum256([]byte(text))}
}

// matchKey compares with both keys in a time that depends on neither: digests have
// one length.
func matchKey(text string, keys *[2]AccessKey) bool {
	shown := NewAccessKey(text)
	match := 0
	for i := range keys {
		if keys[i].set {
			match |= subtle.ConstantTimeCompare(shown.digest[:], keys[i].digest[:])
		}
	}
	return match == 1
}

// isSAS reports whether text has the parts of a shared access signature.
func isSAS(text string) bool {
	resource, rest, ok := strings.Cut(text, "&e=")
	expiry, signature, signed := strings.Cut(rest, "&s=")
	return ok && signed && strings.HasPrefix(resource, "r=") && len(resource) > 2 && expiry != "" && signature != ""
}

func refuse(message string) *fault.Error {
	return fault.New(fault.Unauthenticated, "Unauthorized", "%s", message)
}
