package arm

import (
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// signingBody shows how deliveries are signed. This member is Carillon's own.
type signingBody struct {
	Version string           `json:"version"`
	Key     string           `json:"key,omitempty"` // only in the answer to the request that made it
	Keys    []signingKeyBody `json:"keys"`
}

type signingKeyBody struct {
	PublicKey string `json:"publicKey,omitempty"`
	Created   string `json:"created"`
	Expires   string `json:"expires,omitempty"`
}

func signingOf(s *resource.Signing, issued string) *signingBody {
	if s == nil {
		return nil
	}
	b := &signingBody{Version: s.Version, Key: issued}
	for _, k := range s.Keys {
		shown := signingKeyBody{PublicKey: k.Public, Created: armTime(k.Created)}
		if !k.Expires.IsZero() {
			shown.Expires = armTime(k.Expires)
		}
		b.Keys = append(b.Keys, shown)
	}
	return b
}

// signingChange reads the signing member of a webhook, nil when it is absent: clients
// that do not know it leave signatures as they are.
func signingChange(p fields) *manage.SigningChange {
	f, given := p.object("signing")
	if !given {
		return nil
	}
	return &manage.SigningChange{Version: f.str("version"), Key: f.text("key")}
}

// rotatedBody is the answer to rotateSigningKey.
type rotatedBody struct {
	Version            string `json:"version"`
	Key                string `json:"key,omitempty"`
	PublicKey          string `json:"publicKey,omitempty"`
	PreviousKeyExpires string `json:"previousKeyExpires,omitempty"`
}

// rotateSigningKey gives an event subscription a new signing key.
func rotateSigningKey(a *api, r *request) (answer, error) {
	f, err := r.readBody()
	rotation := manage.SigningRotation{OverlapInHours: f.integer("overlapInHours"), Key: f.text("key")}
	if err := f.verdict(err); err != nil {
		return answer{}, err
	}
	rotated, err := a.Plane.RotateSigningKey(r.ctx, r.caller, r.id, rotation)
	if err != nil {
		return answer{}, err
	}
	b := rotatedBody{Version: rotated.Version, Key: rotated.Key, PublicKey: rotated.PublicKey}
	if !rotated.PreviousExpires.IsZero() {
		b.PreviousKeyExpires = armTime(rotated.PreviousExpires)
	}
	return ok(b), nil
}
