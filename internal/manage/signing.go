package manage

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// SigningChange is what a request says of the signatures of deliveries.
type SigningChange struct {
	Version string  // none, v1 or v1a; the key stays while the version does
	Key     *string // the first key; nil to have one made
}

// signingOff is the version that turns signatures off.
const signingOff = "none"

// signing checks what a request says of signatures. present is what is there.
func (v *checker) signing(c *SigningChange, present *resource.Signing, open func(*resource.Signing) (secret.SigningKey, error)) {
	if c == nil {
		return
	}
	const field = "destination.properties.signing"
	version, known := oneOf(c.Version, signingOff, secret.SignatureV1, secret.SignatureV1a)
	if !known {
		v.field(field+".version", "The signature version '%.40s' is not known: use v1 (HMAC-SHA256), v1a (ed25519) or none.", c.Version)
		return
	}
	if c.Key == nil {
		return
	}
	key, err := secret.ParseSigningKey(*c.Key)
	switch {
	case err != nil:
		v.field(field+".key", "The signing key cannot be used: %v.", err)
	case key.Version() != version:
		v.field(field+".key", "The signing key is one for version %s, not %s: leave it out to have one made.", key.Version(), version)
	case present != nil && present.Version == version:
		if now, err := open(present); err != nil || now.Reveal() != key.Reveal() {
			v.field(field+".key", "Deliveries are signed already, with another key: replace it with the action rotateSigningKey, which lets both be valid for a while.")
		}
	}
}

// signingOf returns how deliveries are signed after a checked request.
func (p *Plane) signingOf(es *resource.EventSubscription, c *SigningChange, present *resource.Signing) (*resource.Signing, error) {
	switch {
	case c == nil || present != nil && strings.EqualFold(c.Version, present.Version):
		return present, nil
	case strings.EqualFold(c.Version, signingOff):
		return nil, nil //nolint:nilnil // nil is a Signing: none
	}
	key, err := newSigningKey(strings.ToLower(c.Version), c.Key)
	if err != nil {
		return nil, err
	}
	sealed, err := p.sealSigningKey(es, key)
	if err != nil {
		return nil, err
	}
	return &resource.Signing{Version: key.Version(), Keys: []resource.SigningKey{sealed}}, nil
}

func newSigningKey(version string, given *string) (secret.SigningKey, error) {
	if given != nil {
		return secret.ParseSigningKey(*given)
	}
	return secret.NewSigningKey(version)
}

func (p *Plane) sealSigningKey(es *resource.EventSubscription, key secret.SigningKey) (resource.SigningKey, error) {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
	k := resource.SigningKey{ID: hex.EncodeToString(raw[:]), Public: key.Public(), Created: time.Now().UTC().Truncate(time.Second)}
	sealed, err := p.Sealer.Seal([]byte(key.Reveal()), es.SigningOwner(k.ID))
	if err != nil {
		return k, fmt.Errorf("seal a signing key of %s: %w", es.ID(), err)
	}
	k.Sealed = sealed
	return k, nil
}

// OpenSigningKey returns a signing key of an event subscription.
func OpenSigningKey(o Opener, es *resource.EventSubscription, k *resource.SigningKey) (secret.SigningKey, error) {
	plain, err := o.Open(k.Sealed, es.SigningOwner(k.ID))
	if err != nil {
		return secret.SigningKey{}, fmt.Errorf("open a signing key of %s: %w", es.ID(), err)
	}
	key, err := secret.ParseSigningKey(string(plain))
	if err != nil {
		return key, fmt.Errorf("read a signing key of %s: %w", es.ID(), err)
	}
	return key, nil
}

// signingKeys returns the keys of a destination that sign now.
func (p *Plane) signingKeys(es *resource.EventSubscription, d resource.Destination) ([]secret.SigningKey, error) {
	s := presentSigning(d)
	if s == nil {
		return nil, nil
	}
	var keys []secret.SigningKey
	for _, k := range s.Keys {
		if !k.Expires.IsZero() && !time.Now().Before(k.Expires) {
			continue
		}
		key, err := OpenSigningKey(p.Sealer, es, &k)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func presentSigning(d resource.Destination) *resource.Signing {
	if d.WebHook == nil {
		return nil
	}
	return d.WebHook.Signing
}

// issuedKey returns the key that a change made, "" when it made none that the caller
// may see: it is shown this once, and the private key of v1a not at all.
func (p *Plane) issuedKey(es *resource.EventSubscription, before, after resource.Destination, c *DestinationChange) (string, error) {
	s, old := presentSigning(after), presentSigning(before)
	if c == nil || c.Signing == nil || c.Signing.Key != nil || s == nil || s.Version != secret.SignatureV1 || old != nil && old.Keys[0].ID == s.Keys[0].ID {
		return "", nil
	}
	key, err := OpenSigningKey(p.Sealer, es, &s.Keys[0])
	if err != nil {
		return "", err
	}
	return key.Reveal(), nil
}

// Overlap of the old and the new key in a rotation, in hours.
const (
	defaultOverlap = 24
	maxOverlap     = 30 * 24
)

// SigningRotation is a request for a new signing key.
type SigningRotation struct {
	OverlapInHours *int    // how long the present key goes on signing; nil for a day, 0 for not at all
	Key            *string // nil to have one made
}

// RotatedKey is the outcome of a rotation.
type RotatedKey struct {
	Version         string
	Key             string    // of v1, when it was made here: it is shown this once
	PublicKey       string    // of v1a
	PreviousExpires time.Time // zero when the key before signs no more
}

// RotateSigningKey gives an event subscription a new key. The one before goes on
// signing beside it for a while, so that receivers can change over; a still older one
// ends.
func (p *Plane) RotateSigningKey(ctx context.Context, caller access.Caller, id resource.ID, r SigningRotation) (RotatedKey, error) {
	if err := p.authorizeWrite(ctx, caller, id, "write"); err != nil {
		return RotatedKey{}, err
	}
	s, err := p.findSource(id.Parent())
	if err != nil {
		return RotatedKey{}, err
	}
	ctx, unlock := p.alterOne(ctx, resource.EventSubscriptionKey(s.id, id.Name()))
	defer unlock()
	_, item, err := p.find(id)
	if err != nil {
		return RotatedKey{}, err
	}
	es := item.Value
	present := presentSigning(es.Destination)
	switch {
	case es.Pending != nil:
		return RotatedKey{}, fault.New(fault.Conflict, "Conflict", "A change of event subscription '%s' waits for the consent of its endpoint. Rotate the key after that.", es.Name)
	case present == nil:
		return RotatedKey{}, fault.New(fault.Invalid, "InvalidRequest", "Deliveries of event subscription '%s' are not signed: set destination.properties.signing to {\"version\":\"v1\"} or {\"version\":\"v1a\"} first.", es.Name)
	}
	overlap := defaultOverlap
	if r.OverlapInHours != nil {
		overlap = *r.OverlapInHours
	}
	v := checker{}
	if overlap < 0 || overlap > maxOverlap {
		v.field("overlapInHours", "The value %d of overlapInHours is out of range: use 0 to %d.", overlap, maxOverlap)
	}
	key, err := newSigningKey(present.Version, r.Key)
	if err == nil && key.Version() != present.Version {
		err = fmt.Errorf("it is one for version %s, and deliveries are signed with %s", key.Version(), present.Version)
	}
	if err != nil {
		v.field("key", "The signing key cannot be used: %v.", err)
	}
	if err := v.err(); err != nil {
		return RotatedKey{}, err
	}

	next, err := p.sealSigningKey(&es, key)
	if err != nil {
		return RotatedKey{}, err
	}
	out := RotatedKey{Version: present.Version, PublicKey: next.Public}
	if r.Key == nil && present.Version == secret.SignatureV1 {
		out.Key = key.Reveal()
	}
	keys := []resource.SigningKey{next}
	if overlap > 0 {
		before := present.Keys[0]
		before.Expires = next.Created.Add(time.Duration(overlap) * time.Hour)
		out.PreviousExpires = before.Expires
		keys = append(keys, before)
	}
	hook := *es.Destination.WebHook // what is stored is shared by readers
	hook.Signing = &resource.Signing{Version: present.Version, Keys: keys}
	es.Destination.WebHook, es.Modified = &hook, stamp(caller)
	if item, err = p.replace(ctx, item, es); err != nil {
		return RotatedKey{}, err
	}
	p.changed(ctx, caller, "rotateSigningKey", item.Value.ID())
	return out, nil
}
