package arm

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// principalBody is a principal on the wire; this API is Carillon's own.
type principalBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"` // the object id
	Type       string              `json:"type"`
	Properties principalProperties `json:"properties"`
}

type principalProperties struct {
	ObjectID      string       `json:"objectId"`
	AppID         string       `json:"appId,omitempty"`
	Tenant        string       `json:"tenant"`
	DisplayName   string       `json:"displayName"`
	PrincipalType string       `json:"principalType"`
	Enabled       bool         `json:"enabled"`
	Members       []string     `json:"members,omitempty"` // object ids, of a group
	Secrets       []secretHint `json:"secrets"`

	Certificates         []certificateBody `json:"certificates,omitempty"`
	FederatedCredentials []federatedBody   `json:"federatedCredentials,omitempty"`
	Password             *passwordBody     `json:"password,omitempty"` // of a user
	TokensValidFrom      string            `json:"tokensValidFrom"`    // those issued before are refused

	CreatedBy string `json:"createdBy"`
	CreatedAt string `json:"createdAt"`
}

// secretHint tells client secrets apart without showing them.
type secretHint struct {
	KeyID     string `json:"keyId"`
	Hint      string `json:"hint"` // its first characters
	CreatedAt string `json:"createdAt"`
	Expires   string `json:"endDateTime,omitempty"`
}

// certificateBody shows a certificate that an application signs in with.
type certificateBody struct {
	KeyID      string `json:"keyId"`
	Subject    string `json:"subject"`
	Thumbprint string `json:"thumbprint"` // SHA-256, hex
	CreatedAt  string `json:"createdAt"`
	Expires    string `json:"endDateTime"`
}

// federatedBody is a federated credential.
type federatedBody struct {
	Name      string   `json:"name"`
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
	CreatedAt string   `json:"createdAt"`
}

// passwordBody tells how the password of a user stands.
type passwordBody struct {
	SetAt       string `json:"setAt,omitempty"`
	LinkExpires string `json:"linkExpires,omitempty"` // of the link by which it is to be set
}

func (b *principalBody) credentials(p access.Principal) {
	for _, s := range p.Secrets {
		hint := secretHint{KeyID: s.ID(), Hint: s.Hint, CreatedAt: armTime(s.Created)}
		if !s.Expires.IsZero() {
			hint.Expires = armTime(s.Expires)
		}
		b.Properties.Secrets = append(b.Properties.Secrets, hint)
	}
	for _, c := range p.Certificates {
		parsed, err := x509.ParseCertificate(c.DER)
		if err != nil {
			continue // it was checked when it was added
		}
		sum := sha256.Sum256(c.DER)
		b.Properties.Certificates = append(b.Properties.Certificates, certificateBody{
			KeyID: c.ID(), Subject: parsed.Subject.String(), Thumbprint: hex.EncodeToString(sum[:]), CreatedAt: armTime(c.Created), Expires: armTime(parsed.NotAfter),
		})
	}
	for _, f := range p.Federated {
		b.Properties.FederatedCredentials = append(b.Properties.FederatedCredentials, federatedBody{f.Name, f.Issuer, f.Subject, f.Audiences, armTime(f.Created)})
	}
	if p.Type == access.User {
		b.Properties.Password = &passwordBody{}
		if p.Password != nil {
			b.Properties.Password.SetAt = armTime(p.Password.Created)
		}
		if p.Link != nil {
			b.Properties.Password.LinkExpires = armTime(p.Link.Expires)
		}
	}
}

func principalOf(p access.Principal) principalBody {
	b := principalBody{
		ID: principalID(p.ObjectID), Name: p.ObjectID, Type: "Carillon.Identity/principals",
		Properties: principalProperties{
			ObjectID: p.ObjectID, AppID: p.AppID, Tenant: p.TenantID, DisplayName: p.Name, PrincipalType: string(p.Type),
			Enabled: p.Enabled, Members: p.Members, Secrets: []secretHint{}, TokensValidFrom: armTime(p.ValidFrom), CreatedBy: p.Created.By, CreatedAt: armTime(p.Created.At),
		},
	}
	b.credentials(p)
	return b
}

func principalID(objectID string) string {
	return resource.Root.Extension("Carillon.Identity", "principals", objectID).String()
}

// credentialBody shows a client secret, or the link by which a user sets a password,
// once.
type credentialBody struct {
	AppID       string `json:"appId,omitempty"`
	Password    string `json:"password,omitempty"`
	SignInLink  string `json:"signInLink,omitempty"`
	Tenant      string `json:"tenant"`
	ObjectID    string `json:"objectId"`
	DisplayName string `json:"displayName"`
}

func credentialOf(p access.Principal, plain secret.String) credentialBody {
	b := credentialBody{AppID: p.AppID, Tenant: p.TenantID, ObjectID: p.ObjectID, DisplayName: p.Name}
	if p.Type == access.User {
		b.SignInLink = plain.Reveal()
	} else {
		b.Password = plain.Reveal()
	}
	return b
}

func listPrincipals(a *api, r *request) (answer, error) {
	principals, err := a.Plane.Principals(r.ctx, r.caller)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(principals, func(p *access.Principal) entry {
		return entry{p.ObjectID, p.Name, func() any { return principalOf(*p) }}
	}))
}

func getPrincipal(a *api, r *request) (answer, error) {
	p, err := a.Plane.Principal(r.ctx, r.caller, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(principalOf(p)), nil
}

func createPrincipal(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	name, kind := f.str("name"), f.str("principalType")
	is := func(t access.PrincipalType) bool { return strings.EqualFold(kind, string(t)) }
	if kind != "" && !is(access.Group) && !is(access.User) && !is(access.ServicePrincipal) {
		f.refuse("principalType", "The principal type '%.40s' is not one that can be made: use ServicePrincipal, User or Group.", kind)
	}
	password := f.text("password")
	if password != nil && !is(access.User) {
		f.refuse("password", "Only a User has a password that can be given; the secret of a ServicePrincipal is made here.")
	}
	switch {
	case is(access.Group):
		g, err := a.Plane.CreateGroup(r.ctx, r.caller, name, f.verdict(unread))
		if err != nil {
			return answer{}, err
		}
		return answer{status: http.StatusCreated, body: principalOf(g)}, nil
	case is(access.User):
		var plain secret.String
		if password != nil {
			plain = secret.String(*password)
		}
		u, link, err := a.Plane.CreateUser(r.ctx, r.caller, name, plain, f.verdict(unread))
		if err != nil {
			return answer{}, err
		}
		return answer{status: http.StatusCreated, body: credentialOf(u, link)}, nil
	}
	p, plain, err := a.Plane.CreatePrincipal(r.ctx, r.caller, name, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: credentialOf(p, plain)}, nil
}

func addMember(a *api, r *request) (answer, error) { return setMember(a, r, true) }

func removeMember(a *api, r *request) (answer, error) { return setMember(a, r, false) }

func setMember(a *api, r *request, in bool) (answer, error) {
	g, err := a.Plane.SetMember(r.ctx, r.caller, r.names[0], r.names[1], in)
	if err != nil {
		return answer{}, err
	}
	return ok(principalOf(g)), nil
}

func resetPrincipal(a *api, r *request) (answer, error) {
	p, plain, err := a.Plane.ResetPrincipal(r.ctx, r.caller, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(credentialOf(p, plain)), nil
}

func deletePrincipal(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeletePrincipal(r.ctx, r.caller, r.names[0]))
}

func enablePrincipal(a *api, r *request) (answer, error)  { return setEnabled(a, r, true) }
func disablePrincipal(a *api, r *request) (answer, error) { return setEnabled(a, r, false) }

func setEnabled(a *api, r *request, enabled bool) (answer, error) {
	return changedPrincipal(a.Plane.SetPrincipalEnabled(r.ctx, r.caller, r.names[0], enabled))
}

func revokeTokens(a *api, r *request) (answer, error) {
	return changedPrincipal(a.Plane.RevokeTokens(r.ctx, r.caller, r.names[0]))
}

// changedPrincipal answers with a principal that was changed.
func changedPrincipal(p access.Principal, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return ok(principalOf(p)), nil
}

// addCredential adds a certificate, or else a client secret, which it shows once.
func addCredential(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	if certificate := f.text("certificate"); certificate != nil {
		return changedPrincipal(a.Plane.AddCertificate(r.ctx, r.caller, r.names[0], *certificate, f.verdict(unread)))
	}
	var expires time.Time
	if end := f.text("endDateTime"); end != nil {
		var err error
		if expires, err = time.Parse(time.RFC3339, *end); err != nil {
			f.refuse("endDateTime", "The end '%.40s' is not a time like 2030-01-31T00:00:00Z.", *end)
		}
	}
	p, plain, err := a.Plane.AddSecret(r.ctx, r.caller, r.names[0], expires, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: credentialOf(p, plain)}, nil
}

func removeCredential(a *api, r *request) (answer, error) {
	return changedPrincipal(a.Plane.RemoveCredential(r.ctx, r.caller, r.names[0], r.names[1]))
}

func putFederated(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	c := access.FederatedCredential{Name: r.names[1], Issuer: f.str("issuer"), Subject: f.str("subject")}
	if audiences := value[[]string](f, "audiences", "an array of texts"); audiences != nil {
		c.Audiences = *audiences
	}
	return changedPrincipal(a.Plane.PutFederated(r.ctx, r.caller, r.names[0], c, f.verdict(unread)))
}

func removeFederated(a *api, r *request) (answer, error) {
	return changedPrincipal(a.Plane.RemoveFederated(r.ctx, r.caller, r.names[0], r.names[1]))
}

// whoAmIBody tells a caller who it is here: what roles are assigned to.
type whoAmIBody struct {
	ObjectID      string   `json:"objectId"`
	Name          string   `json:"displayName"`
	PrincipalType string   `json:"principalType"`
	AppID         string   `json:"appId,omitempty"`
	Tenant        string   `json:"tenant"`
	Issuer        string   `json:"issuer,omitempty"` // of a foreign token
	Groups        []string `json:"groups"`
}

func whoAmI(_ *api, r *request) (answer, error) {
	c := r.caller
	return ok(whoAmIBody{c.ObjectID, c.Name, string(c.Type), c.AppID, c.TenantID, c.Issuer, append([]string{}, c.Groups...)}), nil
}

// signingKeyOfTokens is a key of the built-in issuer, without the key.
type signingKeyOfTokens struct {
	KeyID         string `json:"keyId"`
	State         string `json:"state"` // next, signing or retired
	CreatedAt     string `json:"createdAt,omitempty"`
	VerifiesUntil string `json:"verifiesUntil,omitempty"` // of a retired one
}

func signingKeysOf(keys []access.Key) answer {
	list := []signingKeyOfTokens{}
	for _, k := range keys {
		b := signingKeyOfTokens{KeyID: k.ID, State: string(k.State)}
		if k.State == access.KeyRetired {
			b.VerifiesUntil = armTime(k.Until)
		} else {
			b.CreatedAt = armTime(k.Created)
		}
		list = append(list, b)
	}
	return whole(list)
}

func listSigningKeys(a *api, r *request) (answer, error) {
	keys, err := a.Plane.SigningKeys(r.ctx, r.caller)
	if err != nil {
		return answer{}, err
	}
	return signingKeysOf(keys), nil
}

func rotateSigningKeys(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	revoke := value[bool](f, "revoke", "true or false")
	keys, err := a.Plane.RotateSigningKeys(r.ctx, r.caller, revoke != nil && *revoke, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	return signingKeysOf(keys), nil
}
