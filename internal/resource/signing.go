package resource

import "time"

// Signing says how deliveries to a webhook are signed. It is replaced, never changed.
type Signing struct {
	Version string       `json:"version"` // secret.SignatureV1 or secret.SignatureV1a, of every key
	Keys    []SigningKey `json:"keys"`    // the newest first; a delivery has a signature of each that has not expired
}

// SigningKey is one key that deliveries are signed with.
type SigningKey struct {
	ID      string    `json:"id"`               // names the key in its associated data
	Sealed  string    `json:"sealed"`           // the key, sealed with SigningOwner as associated data
	Public  string    `json:"public,omitempty"` // of a v1a key
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero = never; set when a newer key takes its place
}

// SigningOwner is the associated data that a signing key is sealed with.
func (es *EventSubscription) SigningOwner(keyID string) string {
	return es.UID.String() + "/signingKeys/" + keyID
}
