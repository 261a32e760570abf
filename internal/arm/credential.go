package arm

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// credentialsBody shows by what a webhook knows whom a message is from, without the
// secrets. Its members are Carillon's own.
type credentialsBody struct {
	TokenIssuer       *tokenIssuerBody       `json:"tokenIssuer,omitempty"`
	ClientCertificate *clientCertificateBody `json:"clientCertificate,omitempty"`
}

type tokenIssuerBody struct {
	TokenURL     string `json:"tokenUrl,omitempty"`
	ClientID     string `json:"clientId"`
	ClientSecret any    `json:"clientSecret"` // null: it is secret
	Scope        string `json:"scope,omitempty"`
	Audience     string `json:"audience,omitempty"`
}

// clientCertificateBody shows a client certificate. What is below the key comes out of
// the certificate and is not read.
type clientCertificateBody struct {
	Certificate string `json:"certificate"`
	Key         any    `json:"key"` // null: it is secret
	Subject     string `json:"subject"`
	Issuer      string `json:"issuer"`
	Thumbprint  string `json:"thumbprint"` // SHA-256, hex
	NotBefore   string `json:"notBefore"`
	Expires     string `json:"expires"`
}

func credentialsOf(hook *resource.WebHook) credentialsBody {
	var b credentialsBody
	if i := hook.TokenIssuer; i != nil {
		b.TokenIssuer = &tokenIssuerBody{TokenURL: i.TokenURL, ClientID: i.ClientID, Scope: i.Scope, Audience: i.Audience}
	}
	if c := hook.ClientCertificate; c != nil {
		b.ClientCertificate = &clientCertificateBody{Certificate: c.Chain, Expires: armTime(c.Expires)}
		block, _ := pem.Decode([]byte(c.Chain))
		if block == nil {
			return b
		}
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			sum := sha256.Sum256(leaf.Raw)
			b.ClientCertificate.Subject, b.ClientCertificate.Issuer = leaf.Subject.String(), leaf.Issuer.String()
			b.ClientCertificate.Thumbprint, b.ClientCertificate.NotBefore = hex.EncodeToString(sum[:]), armTime(leaf.NotBefore)
		}
	}
	return b
}

// tokenIssuerChange reads the tokenIssuer member of a webhook, nil when it is absent:
// clients that do not know it leave it as it is.
func tokenIssuerChange(p fields) *manage.TokenIssuerChange {
	f, given := p.object("tokenIssuer")
	if !given {
		return nil
	}
	c := &manage.TokenIssuerChange{TokenURL: f.str("tokenUrl"), ClientID: f.str("clientId"), Scope: f.str("scope"), Audience: f.str("audience")}
	if text := f.text("clientSecret"); text != nil {
		c.ClientSecret = (*secret.String)(text)
	}
	return c
}

// clientCertificateChange reads the clientCertificate member of a webhook, nil when it
// is absent.
func clientCertificateChange(p fields) *manage.ClientCertificateChange {
	f, given := p.object("clientCertificate")
	if !given {
		return nil
	}
	return &manage.ClientCertificateChange{Chain: f.str("certificate"), Key: f.text("key")}
}
