package consumer

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A check refuses requests that do not come from who they should. One that needs the body is
// made when it has been read; the handshake of CloudEvents has none.
type check func(r *http.Request, body []byte) error

// refusal is why a request is not from who it should be: for the log, not for the caller.
type refusal string

func (r refusal) Error() string { return string(r) }

// signatureTolerance is how far the time of a signature may be from now.
// Source: spec/delivery.md section 9.6.
const signatureTolerance = 5 * time.Minute

// Signed has every POST verified against the signatures of Standard Webhooks: whsec_ keys for
// v1 (HMAC-SHA256), whpk_ keys for v1a (ed25519). One signature by one of the keys is enough,
// so while keys are exchanged give both, the new one before the sender has it. A signature
// of more than five minutes ago, or ahead, is refused.
//
// The validation event is signed as well. Give the key to the event subscription as
// signing.key when you create it: one that the server makes is told with its answer, too late
// for the handshake. OPTIONS has no body and no signature.
func Signed(keys ...string) Option {
	return func(h *Handler) error {
		if len(keys) == 0 {
			return errors.New("Signed: there is no key")
		}
		var k signingKeys
		for i, text := range keys {
			if err := k.add(text); err != nil {
				return fmt.Errorf("Signed: key %d: %w", i+1, err)
			}
		}
		h.bodyChecks = append(h.bodyChecks, func(r *http.Request, body []byte) error { return k.verify(r.Header, body, h.now()) })
		return nil
	}
}

type signingKeys struct {
	secret [][]byte
	public []ed25519.PublicKey
}

// add reads a key. Its errors do not show the text.
func (k *signingKeys) add(text string) error {
	if encoded, ok := strings.CutPrefix(text, "whsec_"); ok {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(raw) < 24 || len(raw) > 64 {
			return errors.New("a whsec_ key is base64 of 24 to 64 bytes")
		}
		k.secret = append(k.secret, raw)
		return nil
	}
	encoded, ok := strings.CutPrefix(text, "whpk_")
	if !ok {
		return errors.New("a key begins with whsec_ (v1) or whpk_ (v1a, the public key)")
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return fmt.Errorf("a whpk_ key is base64 of %d bytes", ed25519.PublicKeySize)
	}
	k.public = append(k.public, raw)
	return nil
}

// maxSignatures bounds the work that one request can ask for.
const maxSignatures = 16

func (k *signingKeys) verify(header http.Header, body []byte, now time.Time) error {
	id, stamp := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || id == "" {
		return refusal("it is not signed")
	}
	if off := now.Sub(time.Unix(seconds, 0)); off > signatureTolerance || off < -signatureTolerance {
		return refusal("its signature is of another time")
	}
	var room [sha256.Size]byte
	var signed []byte // for v1a
	n := 0
	for signature := range strings.FieldsSeq(header.Get("Webhook-Signature")) {
		if n++; n > maxSignatures {
			break
		}
		version, encoded, _ := strings.Cut(signature, ",")
		raw, err := base64.StdEncoding.AppendDecode(room[:0], []byte(encoded))
		switch {
		case err != nil:
		case version == "v1":
			for _, key := range k.secret {
				mac := hmac.New(sha256.New, key)
				mac.Write([]byte(id + "." + stamp + "."))
				mac.Write(body)
				if hmac.Equal(mac.Sum(nil), raw) {
					return nil
				}
			}
		case version == "v1a":
			if signed == nil {
				signed = append([]byte(id+"."+stamp+"."), body...)
			}
			for _, key := range k.public {
				if ed25519.Verify(key, signed, raw) {
					return nil
				}
			}
		}
	}
	return refusal("none of its signatures is by one of our keys")
}

// SharedKey has every request carry one of the keys, as ?code= in the URL that the event
// subscription has or as header x-functions-key, the way of Azure Functions.
func SharedKey(keys ...string) Option {
	return func(h *Handler) error {
		if len(keys) == 0 || slices.Contains(keys, "") {
			return errors.New("SharedKey: there is no key, or an empty one")
		}
		sums := make([][sha256.Size]byte, len(keys))
		for i, key := range keys {
			sums[i] = sha256.Sum256([]byte(key))
		}
		h.checks = append(h.checks, func(r *http.Request, _ []byte) error {
			given := r.Header.Get("X-Functions-Key")
			if given == "" && r.URL.RawQuery != "" {
				given = r.URL.Query().Get("code")
			}
			sum, good := sha256.Sum256([]byte(given)), 0
			for i := range sums {
				good |= subtle.ConstantTimeCompare(sum[:], sums[i][:])
			}
			if good == 0 {
				return refusal("it has none of our keys in code")
			}
			return nil
		})
		return nil
	}
}

// ClientCertificate has every request come over TLS with a client certificate that leads to
// roots and is for one of the names: a DNS name or URI among its alternative names, or its
// common name. Without names any certificate of roots will do. The server's tls.Config has
// to ask for one: ClientAuth tls.RequestClientCert or more.
func ClientCertificate(roots *x509.CertPool, names ...string) Option {
	return func(h *Handler) error {
		if roots == nil {
			return errors.New("ClientCertificate: there are no roots")
		}
		if slices.Contains(names, "") {
			return errors.New("ClientCertificate: a name is empty")
		}
		h.checks = append(h.checks, func(r *http.Request, _ []byte) error {
			if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
				return refusal("it comes without a client certificate")
			}
			own, between := r.TLS.PeerCertificates[0], x509.NewCertPool()
			for _, c := range r.TLS.PeerCertificates[1:] {
				between.AddCert(c)
			}
			if _, err := own.Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between, CurrentTime: h.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}); err != nil {
				return refusal("its client certificate is not good: " + err.Error())
			}
			if len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return isNamed(own, name) }) {
				return refusal("its client certificate has another name")
			}
			return nil
		})
		return nil
	}
}

func isNamed(c *x509.Certificate, name string) bool {
	for _, u := range c.URIs {
		if u.String() == name {
			return true
		}
	}
	return strings.EqualFold(c.Subject.CommonName, name) || slices.ContainsFunc(c.DNSNames, func(dns string) bool { return strings.EqualFold(dns, name) })
}
