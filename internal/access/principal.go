package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Principal is somebody who can be granted something: a service principal, a
// user, or a group of principals.
type Principal struct {
	ObjectID  string         `json:"objectId"` // GUID, lower case; what roles are assigned to
	TenantID  string         `json:"tenantId"`
	AppID     string         `json:"appId,omitempty"` // GUID, lower case; the client id of a service principal
	Name      string         `json:"name"`
	Type      PrincipalType  `json:"type"`
	Enabled   bool           `json:"enabled"`
	ValidFrom time.Time      `json:"validFrom"`         // whole seconds; tokens issued before it are refused
	Members   []string       `json:"members,omitempty"` // object ids in a group, lower case
	Secrets   []ClientSecret `json:"secrets,omitempty"`
	Created   resource.Stamp `json:"created"`

	Certificates []AppCertificate      `json:"certificates,omitempty"` // of a service principal
	Federated    []FederatedCredential `json:"federated,omitempty"`    // of a service principal
	Password     *Password             `json:"password,omitempty"`     // of a user, nil while none is set
	Link         *SignInLink           `json:"link,omitempty"`         // of a user who is to set a password
}

// ClientSecret is what is kept of a client secret. A secret is random and long, so
// one salted hash is enough. Source: spec/access.md section 14.2.
type ClientSecret struct {
	Hint    string    `json:"hint"` // its first three characters
	Salt    []byte    `json:"salt"`
	Hash    []byte    `json:"hash"` // SHA-256 of salt and secret
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero for never
}

// maxPrincipalName is the longest display name, in characters.
const maxPrincipalName = 120

// CreatePrincipal makes an enabled service principal and returns the only copy of
// its client secret. Names are unique, ignoring case.
func (d *Directory) CreatePrincipal(ctx context.Context, name string, by Caller) (Principal, secret.String, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	if err := d.checkNewName(name); err != nil {
		return Principal{}, "", err
	}
	now := time.Now().UTC()
	plain, kept := newClientSecret(now)
	p := Principal{
		ObjectID: uuid.NewString(), AppID: uuid.NewString(), TenantID: d.TenantID(), Name: name, Type: ServicePrincipal,
		Enabled: true, ValidFrom: now.Truncate(time.Second), Secrets: []ClientSecret{kept}, Created: by.Stamp(now),
	}
	if _, err := d.principals.Create(ctx, p.ObjectID, p); err != nil {
		return Principal{}, "", err
	}
	return p, plain, nil
}

func checkName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return fault.Field("name", "A principal needs a name.")
	case utf8.RuneCountInString(name) > maxPrincipalName:
		return fault.Field("name", "The name of a principal has at most %d characters; this one has %d.", maxPrincipalName, utf8.RuneCountInString(name))
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fault.Field("name", "The name %q holds characters that cannot be printed.", name)
	}
	return nil
}

// Principals returns all principals by name.
func (d *Directory) Principals() []Principal {
	var list []Principal
	for _, item := range d.principals.List("") {
		list = append(list, item.Value)
	}
	slices.SortFunc(list, func(a, b Principal) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return list
}

// Principal finds a principal by its object id.
func (d *Directory) Principal(objectID string) (Principal, bool) {
	item, ok := d.principals.Get(strings.ToLower(objectID))
	return item.Value, ok
}

// PrincipalByApp finds a service principal by its client id.
func (d *Directory) PrincipalByApp(appID string) (Principal, bool) {
	d.mu.RLock()
	objectID, ok := d.byApp[strings.ToLower(appID)]
	d.mu.RUnlock()
	if !ok {
		return Principal{}, false
	}
	return d.Principal(objectID)
}

// ResetSecret replaces the client secret of a service principal, ends every token
// that it has, and returns the only copy of the new secret.
func (d *Directory) ResetSecret(ctx context.Context, objectID string) (Principal, secret.String, error) {
	now := time.Now().UTC()
	plain, kept := newClientSecret(now)
	p, err := d.changeApplication(ctx, objectID, func(p *Principal) error {
		p.Secrets = []ClientSecret{kept}
		p.endTokens(now)
		return nil
	})
	if err != nil {
		return Principal{}, "", err
	}
	return p, plain, nil
}

// SetEnabled lets a principal in or keeps it out. Its tokens are refused at once
// when it is kept out, and stay refused afterwards.
func (d *Directory) SetEnabled(ctx context.Context, objectID string, enabled bool) (Principal, error) {
	return d.changePrincipal(ctx, objectID, func(p *Principal) error {
		if !enabled && d.onlyOwner(p.ObjectID) {
			return errLastOwner()
		}
		if p.Enabled && !enabled {
			p.endTokens(time.Now().UTC())
		}
		p.Enabled = enabled
		return nil
	})
}

// RevokeTokens ends every token and refresh token that a principal has.
func (d *Directory) RevokeTokens(ctx context.Context, objectID string) (Principal, error) {
	return d.changePrincipal(ctx, objectID, func(p *Principal) error {
		if p.Type == Group {
			return fault.New(fault.Invalid, "InvalidRequest", "Principal %q is a Group; it has no tokens.", p.Name)
		}
		p.endTokens(time.Now().UTC())
		return nil
	})
}

// DeletePrincipal removes a principal and the roles assigned to it. The last one
// who is Owner of everything stays.
func (d *Directory) DeletePrincipal(ctx context.Context, objectID string) (Principal, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	item, ok := d.principals.Get(strings.ToLower(objectID))
	if !ok {
		return Principal{}, errNoPrincipal(objectID)
	}
	p := item.Value
	if d.onlyOwner(p.ObjectID) {
		return Principal{}, errLastOwner()
	}
	if err := d.principals.Delete(ctx, item.Key, item.Revision); err != nil {
		return Principal{}, err
	}
	for _, a := range d.Assignments(resource.Root, AssignmentFilter{PrincipalID: p.ObjectID}) {
		if err := d.assignments.Delete(ctx, a.ID().Key(), 0); err != nil {
			return Principal{}, err
		}
	}
	return p, nil
}

// changePrincipal stores what change makes of a principal.
func (d *Directory) changePrincipal(ctx context.Context, objectID string, change func(*Principal) error) (Principal, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	item, ok := d.principals.Get(strings.ToLower(objectID))
	if !ok {
		return Principal{}, errNoPrincipal(objectID)
	}
	p := item.Value
	if err := change(&p); err != nil {
		return Principal{}, err
	}
	if _, err := d.principals.Update(ctx, item.Key, p, item.Revision); err != nil {
		return Principal{}, err
	}
	return p, nil
}

func errNoPrincipal(objectID string) error {
	return fault.New(fault.NotFound, "PrincipalNotFound", "There is no principal with object id %q.", objectID)
}

// groupsOf returns the groups that a principal is in, nested ones included.
// Source: spec/access.md sections 2.2 and 6.
func (d *Directory) groupsOf(objectID string) []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var groups []string
	seen := map[string]bool{objectID: true}
	for todo := []string{objectID}; len(todo) > 0; todo = todo[1:] {
		for group := range d.groups[todo[0]] {
			if !seen[group] {
				seen[group] = true
				groups = append(groups, group)
				todo = append(todo, group)
			}
		}
	}
	slices.Sort(groups)
	return groups
}

// endTokens refuses every token that was issued until now. Tokens count in whole
// seconds: one issued in the second that has begun must not outlive it, and neither must
// one that was issued since the tokens were ended last, which counts from there.
func (p *Principal) endTokens(now time.Time) {
	from := now.Add(time.Second - 1).Truncate(time.Second)
	if !from.After(p.ValidFrom) {
		from = p.ValidFrom.Add(time.Second)
	}
	p.ValidFrom = from
}

// newClientSecret returns a secret of 260 random bits in letters and digits, safe
// in a shell and a form, and what is kept of it.
func newClientSecret(now time.Time) (secret.String, ClientSecret) {
	plain := rand.Text() + rand.Text()
	kept := ClientSecret{Hint: plain[:3], Salt: make([]byte, 16), Created: now}
	_, _ = rand.Read(kept.Salt) // crypto/rand.Read never fails
	kept.Hash = kept.hash(plain)
	return secret.String(plain), kept
}

func (s ClientSecret) hash(plain string) []byte {
	h := sha256.New()
	h.Write(s.Salt)
	h.Write([]byte(plain))
	return h.Sum(nil)
}

// HasSecret reports whether plain is a client secret of the principal. Every kept
// secret is tried, and each in constant time.
func (p Principal) HasSecret(plain secret.String) bool {
	found := 0
	for _, s := range p.Secrets {
		same := subtle.ConstantTimeCompare(s.Hash, s.hash(plain.Reveal()))
		if s.holds() {
			found |= same
		}
	}
	return found == 1
}
