package consumer_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// Keys of the test vector. Source: spec/delivery.md section 9.6.
var (
	sharedKey  = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	publicKey  = "whpk_6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="
	privateKey = "whsk_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x07", ed25519.SeedSize)))
	otherKey   = "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 32)))
)

// checked sends one event, and both handshakes, and reports the statuses. An event that was
// refused must not have reached a function.
func checked(t *testing.T, option consumer.Option, set func(s *consumertest.Sender)) (delivery, validation, options int) {
	t.Helper()
	saw := &seen{}
	h := newHandler(t, consumer.On(saw.completed), option)
	sender := &consumertest.Sender{Handler: h, Header: http.Header{}}
	set(sender)
	delivery = send(t, sender, consumertest.NewSource(workspace).Event(run("1"))).Status
	if (saw.take() != "") != (delivery == 200) {
		t.Errorf("answered %d, and the function saw something else", delivery)
	}
	yes, a, err := sender.Validate(workspace)
	if err != nil || yes != (a.Status == 200) {
		t.Errorf("%t, %+v, %v", yes, a, err)
	}
	allowed, b, err := sender.Ask("eventgrid.azure.net")
	if err != nil || allowed != (b.Status == 200) {
		t.Errorf("%t, %+v, %v", allowed, b, err)
	}
	return delivery, a.Status, b.Status
}

func TestSigned(t *testing.T) {
	for _, c := range []struct {
		name   string
		keys   []string
		sender consumertest.Sender
		status int
	}{
		{"v1", []string{sharedKey}, consumertest.Sender{Key: sharedKey}, 200},
		{"v1a", []string{publicKey}, consumertest.Sender{Key: privateKey}, 200},
		{"the second key", []string{otherKey, sharedKey}, consumertest.Sender{Key: sharedKey}, 200},
		{"either kind", []string{otherKey, publicKey}, consumertest.Sender{Key: privateKey}, 200},
		{"no signature", []string{sharedKey}, consumertest.Sender{}, 401},
		{"another key", []string{sharedKey}, consumertest.Sender{Key: otherKey}, 401},
		{"a v1a signature for a v1 key", []string{sharedKey}, consumertest.Sender{Key: privateKey}, 401},
		{"a minute old", []string{sharedKey}, consumertest.Sender{Key: sharedKey, Time: time.Now().Add(-time.Minute)}, 200},
		{"six minutes old", []string{sharedKey}, consumertest.Sender{Key: sharedKey, Time: time.Now().Add(-6 * time.Minute)}, 401},
		{"an hour ahead", []string{sharedKey}, consumertest.Sender{Key: sharedKey, Time: time.Now().Add(time.Hour)}, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, v, o := checked(t, consumer.Signed(c.keys...), func(s *consumertest.Sender) { s.Key, s.Time = c.sender.Key, c.sender.Time })
			if d != c.status || v != c.status || o != 200 {
				t.Errorf("answered %d, %d, %d", d, v, o)
			}
		})
	}
}

// TestSignatureBytes changes each part of a signed request.
func TestSignatureBytes(t *testing.T) {
	h := newHandler(t, consumer.On((&seen{}).completed), consumer.Signed(sharedKey, publicKey))
	for _, key := range []string{sharedKey, privateKey} {
		var signed http.Header
		var body string
		capture := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			signed = r.Header
			raw := make([]byte, r.ContentLength)
			_, _ = r.Body.Read(raw)
			body = string(raw)
		})
		send(t, &consumertest.Sender{Handler: capture, Key: key}, consumertest.NewSource(workspace).Event(run("1")))
		signature := signed.Get("Webhook-Signature")
		for _, c := range []struct {
			name, header, value, body string
			status                    int
		}{
			{"as it was", "X", "", body, 200},
			{"the body", "X", "", body + " ", 401},
			{"the id", "Webhook-Id", "another", body, 401},
			{"no id", "Webhook-Id", "", body, 401},
			{"the time", "Webhook-Timestamp", signed.Get("Webhook-Timestamp") + "0", body, 401},
			{"a time that is none", "Webhook-Timestamp", "now", body, 401},
			{"the version", "Webhook-Signature", "v2" + signature[strings.IndexByte(signature, ','):], body, 401},
			{"a signature too short", "Webhook-Signature", signature[:len(signature)-8], body, 401},
			{"a signature of nothing", "Webhook-Signature", "v1, v1a,", body, 401},
			{"others before it", "Webhook-Signature", "v1,AAAA v1a,AAAA v9,x " + signature, body, 200},
			{"a flood before it", "Webhook-Signature", strings.Repeat("v1,AAAA ", 1000) + signature, body, 401},
		} {
			r := httptest.NewRequest("POST", "/", strings.NewReader(c.body))
			r.Header = signed.Clone()
			r.Header.Set(c.header, c.value)
			if w := record(h, r); w.Code != c.status {
				t.Errorf("%s: %s: answered %d", key[:5], c.name, w.Code)
			}
		}
	}
}

// TestSignatureVector verifies the signatures of the specification's example, up to five
// minutes before and after.
func TestSignatureVector(t *testing.T) {
	for _, signature := range []string{
		"v1,tgidHLSUzSC7Db3GEGfW1B+HjSUo6E5rf0F9OUgw+4g=",
		"v1a,ECHgfmaKDcVDTrh2okhC6jKuiQSjQRGFHQjFdwasUC1LdaClLa+82AdSOr0y4Pk1G+qIQVhQHTjtwkyqLNqtAQ==",
	} {
		header := http.Header{"Webhook-Id": {"evt_0001"}, "Webhook-Timestamp": {"1760000000"}, "Webhook-Signature": {signature}}
		body := []byte(`{"type":"ml.model.registered","data":{"name":"m","version":"3"}}`)
		for seconds, good := range map[int64]bool{0: true, 300: true, -300: true, 301: false, -301: false} {
			if err := consumer.VerifySignature([]string{sharedKey, publicKey}, header, body, time.Unix(1760000000+seconds, 0)); (err == nil) != good {
				t.Errorf("%s after %d s: %v", signature, seconds, err)
			}
		}
	}
}

func TestSharedKey(t *testing.T) {
	for _, c := range []struct {
		url, header string
		status      int
	}{
		{"/hook?code=s3cret", "", 200}, {"/hook?functionName=f&code=n%C3%A9xt", "", 200}, {"/hook", "s3cret", 200},
		{"/hook", "", 401}, {"/hook?code=", "", 401}, {"/hook?code=s3cre", "", 401}, {"/hook?Code=s3cret", "", 401}, {"/hook?code=s3cret", "wrong", 401},
	} {
		d, v, o := checked(t, consumer.SharedKey("s3cret", "néxt"), func(s *consumertest.Sender) {
			s.URL = c.url
			if c.header != "" {
				s.Header.Set("x-functions-key", c.header)
			}
		})
		if d != c.status || v != c.status || o != c.status {
			t.Errorf("%+v: answered %d, %d, %d", c, d, v, o)
		}
	}
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.sign(t, template)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, parentKey := a.cert, a.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) client(t *testing.T, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "sender"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	change(template)
	return a.sign(t, template)
}

func TestClientCertificate(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	uri, _ := url.Parse("spiffe://example/sender")
	client := func(a *authority, change func(*x509.Certificate)) *x509.Certificate {
		cert, _ := a.client(t, change)
		return cert
	}
	for _, c := range []struct {
		name   string
		cert   *x509.Certificate
		names  []string
		status int
	}{
		{"of ours", client(ours, func(*x509.Certificate) {}), nil, 200},
		{"by common name", client(ours, func(*x509.Certificate) {}), []string{"x", "Sender"}, 200},
		{"by DNS name", client(ours, func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} }), []string{"a.example"}, 200},
		{"by URI", client(ours, func(c *x509.Certificate) { c.URIs = []*url.URL{uri} }), []string{uri.String()}, 200},
		{"of another name", client(ours, func(*x509.Certificate) {}), []string{"somebody"}, 401},
		{"of others", client(theirs, func(*x509.Certificate) {}), nil, 401},
		{"over", client(ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, 401},
		{"of a server", client(ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, 401},
		{"none", nil, nil, 401},
	} {
		h := newHandler(t, consumer.On((&seen{}).completed), consumer.ClientCertificate(roots, c.names...))
		for _, clear := range []bool{false, true} {
			over := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.TLS = (&tls.ConnectionState{}); c.cert != nil {
					r.TLS.PeerCertificates = []*x509.Certificate{c.cert}
				}
				if clear {
					r.TLS = nil
				}
				h.ServeHTTP(w, r)
			})
			want := c.status
			if clear {
				want = 401
			}
			if a := send(t, &consumertest.Sender{Handler: over}, consumertest.NewSource(workspace).Event(run("1"))); a.Status != want {
				t.Errorf("%s: answered %d", c.name, a.Status)
			}
		}
	}
}

// TestEveryCheck wants all checks to be satisfied.
func TestEveryCheck(t *testing.T) {
	h := newHandler(t, consumer.On((&seen{}).completed), consumer.Signed(sharedKey), consumer.SharedKey("k"))
	source := consumertest.NewSource(workspace)
	for _, c := range []struct {
		sender consumertest.Sender
		status int
	}{
		{consumertest.Sender{Key: sharedKey, URL: "/?code=k"}, 200}, {consumertest.Sender{Key: sharedKey}, 401}, {consumertest.Sender{URL: "/?code=k"}, 401},
	} {
		c.sender.Handler, c.sender.Schema = h, event.CloudEventSchemaV1_0
		if a := send(t, &c.sender, source.Event(mlevent.RunCompleted{RunID: "r"})); a.Status != c.status || strings.Contains(string(a.Body), "key") {
			t.Errorf("answered %+v", a)
		}
	}
}
