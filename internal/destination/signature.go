package destination

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/secret"
)

// Headers of Standard Webhooks. Source: spec/delivery.md section 9.6.
const (
	signatureID   = "webhook-id"
	signatureTime = "webhook-timestamp"
	signatures    = "webhook-signature"
)

// Signer is a key that deliveries are signed with.
type Signer struct {
	Key     secret.SigningKey
	Expires time.Time // zero = never
}

// messageID names what a request delivers, the same at each attempt: the event's
// internal id, or a digest of a batch. A batch of the same events has the same bytes.
func messageID(r *broker.Request) string {
	if r.Single != nil && r.Single.OutputID != "" {
		return r.Single.OutputID
	}
	return bodyID(r.Body)
}

func bodyID(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// appendSignature appends the headers that sign a request: one signature for each key
// that has not expired.
func appendSignature(b []byte, signers []Signer, id string, body []byte, now time.Time) []byte {
	b = appendHeader(b, signatureID, id)
	b = append(b, signatureTime+": "...)
	b = strconv.AppendInt(b, now.Unix(), 10)
	b = append(b, "\r\n"+signatures+":"...)
	for _, s := range signers {
		if s.Expires.IsZero() || now.Before(s.Expires) {
			b = s.Key.AppendSignature(append(b, ' '), id, now.Unix(), body)
		}
	}
	return append(b, "\r\n"...)
}

// Sign puts the headers that sign a body into a request. An id of "" is a digest of the
// body. Without keys it does nothing.
func Sign(h http.Header, id string, keys []secret.SigningKey, body []byte, now time.Time) {
	if len(keys) == 0 {
		return
	}
	if id == "" {
		id = bodyID(body)
	}
	var text []byte
	for _, k := range keys {
		if text != nil {
			text = append(text, ' ')
		}
		text = k.AppendSignature(text, id, now.Unix(), body)
	}
	h.Set(signatureID, id)
	h.Set(signatureTime, strconv.FormatInt(now.Unix(), 10))
	h.Set(signatures, string(text))
}
