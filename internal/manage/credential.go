package manage

import (
	"crypto/tls"
	"fmt"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Credentials are what an endpoint is shown so that it knows whom a message is from:
// at validation, with each delivery, and with all else that it is sent.
type Credentials struct {
	Token       *TokenRequest    // nil for no bearer token
	Certificate *tls.Certificate // nil for none
}

// TokenRequest says which bearer token is wanted and of whom. Equal requests are for
// the same token.
type TokenRequest struct {
	URL          string // of the issuer's token endpoint; "" for this server's own issuer
	ClientID     string
	ClientSecret secret.String
	Scope        string
	Audience     string // of our own issuer: the application that the token is for

	EventSubscription string // full id; for our own issuer, whose tokens name it
}

// OpenCredentials returns what the endpoint of a destination is shown, secrets
// opened. The destination is one that es has, or is to have.
func OpenCredentials(o Opener, es *resource.EventSubscription, d resource.Destination) (c Credentials, err error) {
	hook := d.WebHook
	if hook == nil {
		return c, nil
	}
	if c.Token, err = openTokenRequest(o, es, hook); err != nil {
		return c, err
	}
	c.Certificate, err = openCertificate(o, es, hook)
	return c, err
}

func openTokenRequest(o Opener, es *resource.EventSubscription, hook *resource.WebHook) (*TokenRequest, error) {
	i := hook.TokenIssuer
	switch {
	case i == nil && hook.Application == "":
		return nil, nil //nolint:nilnil // nil is a request: for none
	case i == nil:
		return &TokenRequest{Audience: hook.Application, EventSubscription: es.ID().String()}, nil
	}
	plain, err := o.Open(i.SealedSecret, es.ClientSecretOwner())
	if err != nil {
		return nil, fmt.Errorf("open the client secret of %s: %w", es.ID(), err)
	}
	r := &TokenRequest{URL: hook.TokenEndpoint(), ClientID: i.ClientID, ClientSecret: secret.String(plain), Scope: i.Scope, Audience: i.Audience}
	if r.Scope == "" && r.Audience == "" && hook.Application != "" {
		r.Scope = hook.Application + "/.default" // Source: spec/delivery.md section 9.2
	}
	return r, nil
}

func openCertificate(o Opener, es *resource.EventSubscription, hook *resource.WebHook) (*tls.Certificate, error) {
	c := hook.ClientCertificate
	if c == nil {
		return nil, nil //nolint:nilnil // nil is a certificate: none
	}
	key, err := o.Open(c.SealedKey, es.ClientKeyOwner())
	if err != nil {
		return nil, fmt.Errorf("open the client key of %s: %w", es.ID(), err)
	}
	pair, err := tls.X509KeyPair([]byte(c.Chain), key)
	if err != nil {
		return nil, fmt.Errorf("read the client certificate of %s: %w", es.ID(), err)
	}
	return &pair, nil
}

// newCredentials are the checked credentials of a webhook, and the secrets that are to
// be sealed into it, if any.
type newCredentials struct {
	resource.WebHook // with nothing but its credentials
	clientSecret     secret.String
	clientKey        []byte // PEM
}

// credentials checks what a request says of the credentials of a webhook. present is
// the destination that is there.
func (p *Plane) credentials(v *checker, es *resource.EventSubscription, d *DestinationChange, present resource.Destination, oldURL, endpoint string) (c newCredentials) {
	c.clientSecret = p.tokens(v, d, &c.WebHook, present.WebHook, sameHost(oldURL, endpoint))
	c.clientKey = p.clientCertificate(v, es, d.ClientCertificate, &c.WebHook, present.WebHook, endpoint)
	return c
}

// sealCredentials puts checked credentials into a webhook.
func (p *Plane) sealCredentials(es *resource.EventSubscription, c newCredentials, w *resource.WebHook) error {
	w.TenantID, w.Application, w.TokenIssuer, w.ClientCertificate = c.TenantID, c.Application, c.TokenIssuer, c.ClientCertificate
	if c.clientSecret != "" {
		sealed, err := p.Sealer.Seal([]byte(c.clientSecret.Reveal()), es.ClientSecretOwner())
		if err != nil {
			return fmt.Errorf("seal the client secret of %s: %w", es.ID(), err)
		}
		w.TokenIssuer.SealedSecret = sealed
	}
	if c.clientKey != nil {
		sealed, err := p.Sealer.Seal(c.clientKey, es.ClientKeyOwner())
		if err != nil {
			return fmt.Errorf("seal the client key of %s: %w", es.ID(), err)
		}
		w.ClientCertificate.SealedKey = sealed
	}
	return nil
}

// sameCredentials reports whether an endpoint knows us by the same. A secret that was
// given anew counts as another one.
func sameCredentials(a, b *resource.WebHook) bool {
	return a.TenantID == b.TenantID && a.Application == b.Application && samePart(a.TokenIssuer, b.TokenIssuer) && samePart(a.ClientCertificate, b.ClientCertificate)
}

func samePart[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
