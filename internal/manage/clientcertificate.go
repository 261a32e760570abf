package manage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// ClientCertificateChange is a client certificate as a request gives it, both parts in
// PEM. The zero value takes the present one away.
type ClientCertificateChange struct {
	Chain string  // the certificate, then those that it is signed by
	Key   *string // nil keeps the one that is there
}

const certificateField = webhookFields + "clientCertificate"

// maxPEM bounds each part of a client certificate, of a webhook or for a cluster. It is ours.
const maxPEM = 64 << 10

// clientCertificate checks what a request says of the client certificate and puts it
// into w. The key that it returns, PEM, is to be sealed into w, unless it is nil.
// endpoint is the URL that w is to have.
func (p *Plane) clientCertificate(v *checker, es *resource.EventSubscription, c *ClientCertificateChange, w, present *resource.WebHook, endpoint string) []byte {
	var there *resource.ClientCertificate
	if present != nil {
		there = present.ClientCertificate
	}
	switch {
	case c == nil && there == nil, c != nil && *c == ClientCertificateChange{}:
		return nil
	case strings.HasPrefix(strings.ToLower(endpoint), "http:"):
		v.field(certificateField, "A client certificate is shown in TLS, and the endpointUrl begins with http://: use https://, or take the certificate away with {}.")
		return nil
	case c == nil:
		w.ClientCertificate = there
		return nil
	}
	chain, leaf, err := readChain(c.Chain)
	if err != nil {
		v.field(certificateField+".certificate", "The client certificate cannot be used: %v.", err)
		return nil
	}
	next := &resource.ClientCertificate{Chain: chain, Expires: leaf.NotAfter.UTC()}
	w.ClientCertificate = next
	if now := time.Now(); there == nil || there.Chain != chain { // one that stays may have expired meanwhile
		switch {
		case now.After(leaf.NotAfter):
			v.field(certificateField+".certificate", "The client certificate expired at %s: give one that is valid.", leaf.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(leaf.NotBefore):
			v.field(certificateField+".certificate", "The client certificate is not valid before %s: give it then.", leaf.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	if c.Key == nil {
		if there == nil || !p.fitsPresentKey(es, there, chain) {
			v.field(certificateField+".key", "A client certificate needs its private key in PEM; it can be left out only while the present one fits.")
			return nil
		}
		next.SealedKey = there.SealedKey
		return nil
	}
	key, err := readKey(*c.Key)
	if err == nil {
		if _, pairErr := tls.X509KeyPair([]byte(chain), key); pairErr != nil {
			err = errors.New("it is not the key of the certificate, or of a kind that TLS does not know")
		}
	}
	if err != nil { // no part of the text is repeated: it is a key, or nearly one
		v.field(certificateField+".key", "The private key cannot be used: %v.", err)
		return nil
	}
	return key
}

func (p *Plane) fitsPresentKey(es *resource.EventSubscription, there *resource.ClientCertificate, chain string) bool {
	key, err := p.Sealer.Open(there.SealedKey, es.ClientKeyOwner())
	if err != nil {
		return false
	}
	_, err = tls.X509KeyPair([]byte(chain), key)
	return err == nil
}

// readChain reads certificates in PEM and writes them anew, with nothing else that the
// text held: what it returns is shown to everybody who may read the resource.
func readChain(text string) (chain string, leaf *x509.Certificate, err error) {
	if len(text) > maxPEM {
		return "", nil, errors.New("it has more than 64 KiB")
	}
	var out strings.Builder
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", nil, errors.New("its PEM holds more than certificates: a private key belongs into key")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", nil, errors.New("a CERTIFICATE block in its PEM is not an X.509 certificate")
		}
		if leaf == nil {
			leaf = c
		}
		_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // a Builder takes everything
	}
	if leaf == nil {
		return "", nil, errors.New("it is not PEM: it begins with -----BEGIN CERTIFICATE-----")
	}
	return out.String(), leaf, nil
}

// readKey reads a private key in PEM and returns it alone. Its errors show nothing of
// the text.
func readKey(text string) ([]byte, error) {
	if len(text) > maxPEM {
		return nil, errors.New("it has more than 64 KiB")
	}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it is not PEM: it begins with -----BEGIN PRIVATE KEY-----")
		}
		switch {
		case strings.Contains(block.Type, "ENCRYPTED"), strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("it is encrypted: decrypt it first, for example with openssl pkey")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}), nil
		}
	}
}

// When the end of a client certificate is told of, and how often.
const (
	certificateNotice = 30 * 24 * time.Hour
	certificateAgain  = 24 * time.Hour
)

// warnCertificate logs that the client certificate of an event subscription ends soon,
// once a day. It returns when there is something to say again. Only the sweep calls it.
func (p *Plane) warnCertificate(ctx context.Context, es *resource.EventSubscription, now time.Time) time.Time {
	ends := es.Destination.WebHook.ClientCertificate.Expires
	if begin := ends.Add(-certificateNotice); now.Before(begin) {
		return begin
	}
	last, told := p.warned[es.UID]
	if told && last.ends.Equal(ends) && now.Before(last.at.Add(certificateAgain)) {
		return last.at.Add(certificateAgain)
	}
	text := "client certificate of an event subscription expires soon"
	if now.After(ends) {
		text = "client certificate of an event subscription has expired"
	}
	p.Log.LogAttrs(ctx, slog.LevelWarn, text, slog.String(telemetry.EventSubscription, es.ID().String()), slog.Time("expires", ends))
	if p.warned == nil {
		p.warned = map[resource.UID]certificateWarning{}
	}
	p.warned[es.UID] = certificateWarning{ends, now}
	return now.Add(certificateAgain)
}

// certificateWarning is a warning of the end of a certificate.
type certificateWarning struct{ ends, at time.Time }

// hasCertificate reports whether an event subscription shows a client certificate.
func hasCertificate(es *resource.EventSubscription) bool {
	return es.Destination.WebHook != nil && es.Destination.WebHook.ClientCertificate != nil
}
