package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	maxSecrets      = 2 // of one application: two overlap while it is changed
	maxCertificates = 5
	maxFederated    = 20

	// FederatedAudience is the audience of tokens that stand for a client secret.
	// Source: spec/access.md section 3.3.
	FederatedAudience = "api://AzureADTokenExchange"
)

// AppCertificate is a certificate whose key an application signs its assertions with.
type AppCertificate struct {
	DER     []byte    `json:"der"`
	Created time.Time `json:"created"`
}

// parse returns the certificate, if it is in force.
func (c AppCertificate) parse() (*x509.Certificate, error) {
	parsed, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, fmt.Errorf("read a certificate: %w", err)
	}
	if now := time.Now(); now.Before(parsed.NotBefore) || now.After(parsed.NotAfter) {
		return nil, fmt.Errorf("certificate %s is not in force", c.ID())
	}
	return parsed, nil
}

// ID names the certificate among the credentials of its principal.
func (c AppCertificate) ID() string { return keyIDOf(c.DER) }

// ID names the secret among the credentials of its principal.
func (s ClientSecret) ID() string { return keyIDOf(s.Hash) }

// holds reports whether the secret has not expired.
func (s ClientSecret) holds() bool { return s.Expires.IsZero() || time.Now().Before(s.Expires) }

func keyIDOf(credential []byte) string { return uuid.NewSHA1(uuid.NameSpaceOID, credential).String() }

// FederatedCredential lets the tokens of a foreign issuer stand for a client secret: of
// a workload in Kubernetes, or of a pipeline. All three must match exactly.
type FederatedCredential struct {
	Name      string    `json:"name"`
	Issuer    string    `json:"issuer"`
	Subject   string    `json:"subject"`
	Audiences []string  `json:"audiences"`
	Created   time.Time `json:"created"`
}

// AddSecret gives a service principal a client secret beside the one that it has, and
// returns the only copy. A zero time is one that does not expire.
func (d *Directory) AddSecret(ctx context.Context, objectID string, expires time.Time) (Principal, secret.String, error) {
	now := time.Now().UTC()
	if !expires.IsZero() && !expires.After(now) {
		return Principal{}, "", fault.Field("endDateTime", "The end %s of the client secret is not in the future.", expires.Format(time.RFC3339))
	}
	plain, kept := newClientSecret(now)
	kept.Expires = expires.UTC()
	p, err := d.changeApplication(ctx, objectID, func(p *Principal) error {
		p.Secrets = slices.DeleteFunc(slices.Clone(p.Secrets), func(s ClientSecret) bool { return !s.holds() })
		if len(p.Secrets) >= maxSecrets {
			return fault.New(fault.Conflict, "TooManyCredentials", "Principal %q has %d client secrets, the most there can be. Delete one first: carillon principal credential delete.", p.Name, maxSecrets)
		}
		p.Secrets = append(p.Secrets, kept)
		return nil
	})
	if err != nil {
		return Principal{}, "", err
	}
	return p, plain, nil
}

// AddCertificate lets a service principal sign in with assertions that the key of a
// certificate signed.
func (d *Directory) AddCertificate(ctx context.Context, objectID string, certificate *x509.Certificate) (Principal, error) {
	if err := checkAppCertificate(certificate); err != nil {
		return Principal{}, err
	}
	kept := AppCertificate{DER: certificate.Raw, Created: time.Now().UTC()}
	return d.changeApplication(ctx, objectID, func(p *Principal) error {
		p.Certificates = slices.Clone(p.Certificates)
		switch {
		case slices.ContainsFunc(p.Certificates, func(c AppCertificate) bool { return c.ID() == kept.ID() }):
			return fault.New(fault.Conflict, "CredentialExists", "Principal %q has this certificate already.", p.Name)
		case len(p.Certificates) >= maxCertificates:
			return fault.New(fault.Conflict, "TooManyCredentials", "Principal %q has %d certificates, the most there can be. Delete one first: carillon principal credential delete.", p.Name, maxCertificates)
		}
		p.Certificates = append(p.Certificates, kept)
		return nil
	})
}

func checkAppCertificate(c *x509.Certificate) error {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < SigningKeyBits {
			return fault.Field("certificate", "The key of the certificate has %d bits; it needs at least %d.", key.N.BitLen(), SigningKeyBits)
		}
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize != 256 {
			return fault.Field("certificate", "The key of the certificate is of the curve %s; use P-256 or RSA.", key.Curve.Params().Name)
		}
	default:
		return fault.Field("certificate", "The key of the certificate is neither RSA nor of the curve P-256.")
	}
	if time.Now().After(c.NotAfter) {
		return fault.Field("certificate", "The certificate expired at %s.", c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// RemoveCredential takes a client secret or a certificate away by its id, and ends every
// token of the principal: nobody can tell which credential one came from.
func (d *Directory) RemoveCredential(ctx context.Context, objectID, id string) (Principal, error) {
	return d.changeApplication(ctx, objectID, func(p *Principal) error {
		before := len(p.Secrets) + len(p.Certificates)
		p.Secrets = slices.DeleteFunc(slices.Clone(p.Secrets), func(s ClientSecret) bool { return strings.EqualFold(s.ID(), id) })
		p.Certificates = slices.DeleteFunc(slices.Clone(p.Certificates), func(c AppCertificate) bool { return strings.EqualFold(c.ID(), id) })
		if len(p.Secrets)+len(p.Certificates) == before {
			return fault.New(fault.NotFound, "CredentialNotFound", "Principal %q has no credential with the id %q.", p.Name, id)
		}
		p.endTokens(time.Now().UTC())
		return nil
	})
}

var federatedName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,119}$`)

// PutFederated adds a federated credential to a service principal, or replaces the one
// of its name.
func (d *Directory) PutFederated(ctx context.Context, objectID string, c FederatedCredential) (Principal, error) {
	if len(c.Audiences) == 0 {
		c.Audiences = []string{FederatedAudience}
	}
	if err := c.check(); err != nil {
		return Principal{}, err
	}
	c.Created = time.Now().UTC()
	return d.changeApplication(ctx, objectID, func(p *Principal) error {
		at := slices.IndexFunc(p.Federated, func(o FederatedCredential) bool { return strings.EqualFold(o.Name, c.Name) })
		p.Federated = slices.Clone(p.Federated)
		switch {
		case at >= 0:
			p.Federated[at] = c
			p.endTokens(c.Created)
		case len(p.Federated) >= maxFederated:
			return fault.New(fault.Conflict, "TooManyCredentials", "Principal %q has %d federated credentials, the most there can be. Delete one first: carillon principal federated-credential delete.", p.Name, maxFederated)
		default:
			p.Federated = append(p.Federated, c)
		}
		return nil
	})
}

func (c FederatedCredential) check() error {
	var problems []*fault.Error
	if !federatedName.MatchString(c.Name) {
		problems = append(problems, fault.Field("name", "The name %.130q of a federated credential has up to 120 letters, digits, - and _, and begins with a letter or digit.", c.Name))
	}
	if err := checkIssuer(c.Issuer); err != nil {
		problems = append(problems, fault.Field("issuer", "The issuer %.200q %s.", c.Issuer, err))
	}
	if c.Subject == "" || len(c.Subject) > 600 {
		problems = append(problems, fault.Field("subject", "The subject has 1 to 600 bytes; it is compared exactly."))
	}
	for _, a := range c.Audiences {
		if a == "" || len(a) > 600 || len(c.Audiences) > 10 {
			problems = append(problems, fault.Field("audiences", "The audiences are at most 10, of 1 to 600 bytes each."))
			break
		}
	}
	return fault.Join(problems...)
}

// checkIssuer returns why a text is not the issuer of tokens.
// Source: OpenID Connect Core 1.0, section 2, "iss".
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(issuer) > 600 {
		return fmt.Errorf("is not an https URL without query and fragment")
	}
	return nil
}

// RemoveFederated takes a federated credential away and ends every token of the
// principal.
func (d *Directory) RemoveFederated(ctx context.Context, objectID, name string) (Principal, error) {
	return d.changeApplication(ctx, objectID, func(p *Principal) error {
		before := len(p.Federated)
		p.Federated = slices.DeleteFunc(slices.Clone(p.Federated), func(c FederatedCredential) bool { return strings.EqualFold(c.Name, name) })
		if len(p.Federated) == before {
			return fault.New(fault.NotFound, "CredentialNotFound", "Principal %q has no federated credential named %q.", p.Name, name)
		}
		p.endTokens(time.Now().UTC())
		return nil
	})
}

// changeApplication is changePrincipal for what only service principals have.
func (d *Directory) changeApplication(ctx context.Context, objectID string, change func(*Principal) error) (Principal, error) {
	return d.changePrincipal(ctx, objectID, func(p *Principal) error {
		if p.Type != ServicePrincipal {
			return fault.New(fault.Invalid, "InvalidRequest", "Principal %q is a %s; only service principals have credentials of this kind.", p.Name, p.Type)
		}
		return change(p)
	})
}
