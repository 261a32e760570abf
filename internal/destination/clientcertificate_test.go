package destination

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/manage"
)

// signer is an authority of client certificates.
type signer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	s := &signer{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	s.cert, s.key = s.sign(template, nil)
	return s
}

// sign makes a certificate, signed by s or, where by is nil, by itself.
func (s *signer) sign(template *x509.Certificate, by *signer) (*x509.Certificate, *ecdsa.PrivateKey) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	parent, parentKey := template, key
	if by != nil {
		parent, parentKey = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return cert, key
}

// client makes a certificate of a client.
func (s *signer) client(name string, expires time.Time) *tls.Certificate {
	s.t.Helper()
	cert, key := s.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: expires.Add(-24 * time.Hour), NotAfter: expires,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, s)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// strict is a handler that wants client certificates of one authority. It remembers
// whom it saw, one name for each request.
type strict struct {
	*httptest.Server
	guard *egress.Guard // that trusts it

	mu   sync.Mutex
	saw  []string
	from map[string]map[string]bool // names by connection
}

func newStrict(t *testing.T, of *signer, version uint16) *strict {
	t.Helper()
	s := &strict{from: map[string]map[string]bool{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		name := r.TLS.PeerCertificates[0].Subject.CommonName
		s.mu.Lock()
		s.saw = append(s.saw, name)
		if s.from[r.RemoteAddr] == nil {
			s.from[r.RemoteAddr] = map[string]bool{}
		}
		s.from[r.RemoteAddr][name] = true
		s.mu.Unlock()
		_, _ = io.WriteString(w, `{"validationResponse":"`+testCode+`"}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	pool := x509.NewCertPool()
	pool.AddCert(of.cert)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: version, MaxVersion: version}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	s.guard = egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})
	return s
}

// names returns whom the handler saw since it was asked last.
func (s *strict) names() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := strings.Join(s.saw, " ")
	s.saw = nil
	return names
}

func TestClientCertificates(t *testing.T) {
	authority, stranger := newSigner(t), newSigner(t)
	good := authority.client("one", time.Now().Add(time.Hour))
	expired := authority.client("late", time.Now().Add(-time.Hour))
	const refused = "the endpoint refused the client certificate"
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		none := refused + ", or wants one"
		if version == tls.VersionTLS12 { // which has no alert for it
			none = "the TLS handshake failed"
		}
		t.Run(name, func(t *testing.T) {
			s := newStrict(t, authority, version)
			for _, tt := range []struct {
				name        string
				certificate *tls.Certificate
				want        string // whom the handler sees, or the detail
			}{
				{"good", good, "one"},
				{"none", nil, none},
				{"of another authority", stranger.client("stranger", time.Now().Add(time.Hour)), refused + ", or wants one"},
				{"expired", expired, refused + ", which expired at " + expired.Leaf.NotAfter.UTC().Format(time.RFC3339)},
			} {
				t.Run(tt.name, func(t *testing.T) {
					c := manage.Credentials{Certificate: tt.certificate}
					w := newWebhook(t, WebhookConfig{URL: s.URL, Guard: s.guard, Credentials: c})
					for range 2 { // the second time a session is resumed, or another connection made
						got := w.Send(t.Context(), request())
						if saw := s.names(); got.Outcome == broker.Delivered && saw == tt.want {
							s.CloseClientConnections()
						} else if got.Outcome != broker.SocketError || got.Detail != tt.want || saw != "" {
							t.Errorf("%+v; the handler saw %q", got, saw)
						}
					}
					v := validation(event.EventGridSchema, s.URL)
					v.Credentials = c
					result, err := NewHandshaker(s.guard, nil).Validate(t.Context(), v)
					if saw := s.names(); result.Validated && saw != tt.want {
						t.Errorf("in the handshake the handler saw %q", saw)
					} else if !result.Validated && tt.want == none && version == tls.VersionTLS12 {
						checkFault(t, err, "Reason: the connection failed.")
					} else if !result.Validated {
						checkFault(t, err, "Reason: "+refused+", or wants one.")
					}
				})
			}
		})
	}
}

// Event subscriptions with different certificates share no connection, and a
// certificate that was replaced is shown by all that follows.
func TestConnectionsOfCertificates(t *testing.T) {
	authority := newSigner(t)
	s := newStrict(t, authority, tls.VersionTLS13)
	hook := func(name string) *Webhook {
		return newWebhook(t, WebhookConfig{URL: s.URL, Guard: s.guard, Credentials: manage.Credentials{Certificate: authority.client(name, time.Now().Add(time.Hour))}})
	}
	one, two := hook("one"), hook("two")
	for range 3 {
		for _, w := range []*Webhook{one, two} {
			if got := w.Send(t.Context(), request()); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
		}
	}
	if got := s.names(); got != "one two one two one two" {
		t.Errorf("the handler saw %s", got)
	}
	if len(s.from) != 2 {
		t.Errorf("%d connections, want 2", len(s.from))
	}
	for at, names := range s.from {
		if len(names) != 1 {
			t.Errorf("connection %s was used by %v", at, names)
		}
	}
}
