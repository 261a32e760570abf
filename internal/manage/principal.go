package manage

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/url"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Principals returns every principal by name.
func (p *Plane) Principals(ctx context.Context, caller access.Caller) ([]access.Principal, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalRead, resource.Root); err != nil {
		return nil, err
	}
	return p.Directory.Principals(), nil
}

// Principal returns one principal by its object id.
func (p *Plane) Principal(ctx context.Context, caller access.Caller, objectID string) (access.Principal, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalRead, resource.Root); err != nil {
		return access.Principal{}, err
	}
	found, ok := p.Directory.Principal(objectID)
	if !ok {
		return found, notFound("PrincipalNotFound", "There is no principal with object id '%s'.", objectID)
	}
	return found, nil
}

// writePrincipal makes a change of a principal for a caller who may. unread says why the
// request could not be read, nil when it could.
func (p *Plane) writePrincipal(ctx context.Context, caller access.Caller, verb string, unread error, change func() (access.Principal, error)) (access.Principal, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalWrite, resource.Root); err != nil {
		return access.Principal{}, err
	}
	if unread != nil {
		return access.Principal{}, unread
	}
	changed, err := change()
	if err == nil {
		p.principalChanged(ctx, caller, verb, changed)
	}
	return changed, err
}

// CreatePrincipal makes a service principal and returns the only copy of its
// client secret.
func (p *Plane) CreatePrincipal(ctx context.Context, caller access.Caller, name string, unread error) (made access.Principal, plain secret.String, err error) {
	made, err = p.writePrincipal(ctx, caller, "create", unread, func() (_ access.Principal, err error) {
		made, plain, err = p.Directory.CreatePrincipal(ctx, name, caller)
		return made, err
	})
	return made, plain, err
}

// CreateUser makes a user. Without a password it returns the only copy of a link by which
// the user sets one.
func (p *Plane) CreateUser(ctx context.Context, caller access.Caller, name string, password secret.String, unread error) (made access.Principal, link secret.String, err error) {
	made, err = p.writePrincipal(ctx, caller, "create", unread, func() (_ access.Principal, err error) {
		made, link, err = p.Directory.CreateUser(ctx, name, password, caller)
		return made, err
	})
	return made, p.signInLink(made, link), err
}

// signInLink is the address that a user sets a password at.
func (p *Plane) signInLink(user access.Principal, link secret.String) secret.String {
	if link == "" {
		return ""
	}
	return secret.String(p.PublicURL + "/setpassword?" + url.Values{"user": {user.ObjectID}, "link": {link.Reveal()}}.Encode())
}

// CreateGroup makes a group of principals.
func (p *Plane) CreateGroup(ctx context.Context, caller access.Caller, name string, unread error) (access.Principal, error) {
	return p.writePrincipal(ctx, caller, "create", unread, func() (access.Principal, error) {
		return p.Directory.CreateGroup(ctx, name, caller)
	})
}

// SetMember puts a principal into a group or takes it out. It holds for the next
// request of the member.
func (p *Plane) SetMember(ctx context.Context, caller access.Caller, group, member string, in bool) (access.Principal, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalWrite, resource.Root); err != nil {
		return access.Principal{}, err
	}
	g, changed, err := p.Directory.SetMember(ctx, group, member, in)
	if err == nil && changed {
		p.principalChanged(ctx, caller, map[bool]string{true: "add member", false: "remove member"}[in], g)
	}
	return g, err
}

// ResetPrincipal gives a service principal a new client secret, or a user a link to set a
// new password; it returns the only copy and ends the tokens.
func (p *Plane) ResetPrincipal(ctx context.Context, caller access.Caller, objectID string) (reset access.Principal, plain secret.String, err error) {
	reset, err = p.writePrincipal(ctx, caller, "reset secret", nil, func() (_ access.Principal, err error) {
		if of, _ := p.Directory.Principal(objectID); of.Type == access.User {
			reset, plain, err = p.Directory.ResetPassword(ctx, objectID)
			plain = p.signInLink(reset, plain)
			return reset, err
		}
		reset, plain, err = p.Directory.ResetSecret(ctx, objectID)
		return reset, err
	})
	return reset, plain, err
}

// SetPrincipalEnabled lets a principal in or keeps it out, with all its tokens.
func (p *Plane) SetPrincipalEnabled(ctx context.Context, caller access.Caller, objectID string, enabled bool) (access.Principal, error) {
	changed, err := p.writePrincipal(ctx, caller, map[bool]string{true: "enable", false: "disable"}[enabled], nil, func() (access.Principal, error) {
		return p.Directory.SetEnabled(ctx, objectID, enabled)
	})
	return changed, p.endSessions(ctx, err)
}

// RevokeTokens ends every token and refresh token of a principal.
func (p *Plane) RevokeTokens(ctx context.Context, caller access.Caller, objectID string) (access.Principal, error) {
	changed, err := p.writePrincipal(ctx, caller, "revoke tokens", nil, func() (access.Principal, error) {
		return p.Directory.RevokeTokens(ctx, objectID)
	})
	return changed, p.endSessions(ctx, err)
}

// endSessions removes sessions that hold no longer, unless err is one. They are refused
// whether they are removed or not.
func (p *Plane) endSessions(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return p.Directory.EndSessions(context.WithoutCancel(ctx))
}

// AddSecret gives a service principal a second client secret and returns the only copy.
func (p *Plane) AddSecret(ctx context.Context, caller access.Caller, objectID string, expires time.Time, unread error) (changed access.Principal, plain secret.String, err error) {
	changed, err = p.writePrincipal(ctx, caller, "add secret", unread, func() (_ access.Principal, err error) {
		changed, plain, err = p.Directory.AddSecret(ctx, objectID, expires)
		return changed, err
	})
	return changed, plain, err
}

// AddCertificate lets a service principal sign in by a certificate, given in PEM. A
// private key in it is refused, for it has no place here.
func (p *Plane) AddCertificate(ctx context.Context, caller access.Caller, objectID, text string, unread error) (access.Principal, error) {
	return p.writePrincipal(ctx, caller, "add certificate", unread, func() (access.Principal, error) {
		certificate, err := onlyCertificate(text)
		if err != nil {
			return access.Principal{}, err
		}
		return p.Directory.AddCertificate(ctx, objectID, certificate)
	})
}

func onlyCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	more, _ := pem.Decode(rest)
	if block == nil || block.Type != "CERTIFICATE" || more != nil {
		return nil, fault.Field("certificate", "The certificate must be one PEM block CERTIFICATE and nothing else: no key and no chain.")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Field("certificate", "The certificate cannot be read.").Because(err)
	}
	return certificate, nil
}

// RemoveCredential takes a client secret or a certificate away and ends the tokens.
func (p *Plane) RemoveCredential(ctx context.Context, caller access.Caller, objectID, id string) (access.Principal, error) {
	return p.writePrincipal(ctx, caller, "remove credential", nil, func() (access.Principal, error) {
		return p.Directory.RemoveCredential(ctx, objectID, id)
	})
}

// PutFederated adds or replaces a federated credential of a service principal.
func (p *Plane) PutFederated(ctx context.Context, caller access.Caller, objectID string, c access.FederatedCredential, unread error) (access.Principal, error) {
	return p.writePrincipal(ctx, caller, "put federated credential", unread, func() (access.Principal, error) {
		return p.Directory.PutFederated(ctx, objectID, c)
	})
}

// RemoveFederated takes a federated credential away and ends the tokens.
func (p *Plane) RemoveFederated(ctx context.Context, caller access.Caller, objectID, name string) (access.Principal, error) {
	return p.writePrincipal(ctx, caller, "remove federated credential", nil, func() (access.Principal, error) {
		return p.Directory.RemoveFederated(ctx, objectID, name)
	})
}

// DeletePrincipal removes a principal with the roles assigned to it, and reports
// whether it was there.
func (p *Plane) DeletePrincipal(ctx context.Context, caller access.Caller, objectID string) (bool, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalWrite, resource.Root); err != nil {
		return false, err
	}
	gone, err := p.Directory.DeletePrincipal(ctx, objectID)
	switch {
	case fault.Is(err, fault.NotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	p.principalChanged(ctx, caller, "delete", gone)
	return true, p.endSessions(ctx, nil)
}

func (p *Plane) principalChanged(ctx context.Context, caller access.Caller, verb string, of access.Principal) {
	p.changed(ctx, caller, verb, resource.Root.Extension("Carillon.Identity", "principals", of.ObjectID), slog.String("name", of.Name))
}

// SigningKeys returns the keys of the built-in issuer.
func (p *Plane) SigningKeys(ctx context.Context, caller access.Caller) ([]access.Key, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalRead, resource.Root); err != nil {
		return nil, err
	}
	return p.TokenKeys.Keys(), nil
}

// RotateSigningKeys makes a new key sign tokens. revoke also ends every token that
// another key signed.
func (p *Plane) RotateSigningKeys(ctx context.Context, caller access.Caller, revoke bool, unread error) ([]access.Key, error) {
	if err := p.authorize(ctx, caller, access.ActionPrincipalWrite, resource.Root); err != nil {
		return nil, err
	}
	if unread != nil {
		return nil, unread
	}
	if err := p.TokenKeys.Rotate(ctx, revoke); err != nil {
		return nil, err
	}
	p.changed(ctx, caller, "rotate", access.SigningKeysID, slog.Bool("revoke", revoke))
	return p.TokenKeys.Keys(), nil
}
