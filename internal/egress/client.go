package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// TLS returns the settings of every outbound TLS connection: version 1.2 at
// least, and the operator's roots. A certificate is shown to every server that asks
// for one, also where the server names authorities that it is not of: then the
// server says no, and not silence. The caller may change what it gets.
// Source: spec/delivery.md section 9.1.
func (g *Guard) TLS(certificate ...tls.Certificate) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: g.roots}
	if len(certificate) > 0 {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate[0], nil }
	}
	return c
}

// Roots returns the system's trusted roots and those in extra, PEM blocks of
// certificates.
func Roots(extra []byte) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil { // no store of the system: the extra roots alone
		pool = x509.NewCertPool()
	}
	if len(extra) > 0 && !pool.AppendCertsFromPEM(extra) {
		return nil, errors.New("the extra root certificates hold no PEM block of a certificate")
	}
	return pool, nil
}

// Client returns an HTTP client whose every connection the guard dials. It uses
// no proxy, follows no redirect (the 3xx is the answer) and reads at most 64 KiB
// of answer headers. timeout bounds a whole exchange, body included. Each call
// makes a client with connections of its own; certificate is for TLS. Errors of
// net/http show the whole URL: a caller that logs them passes them through
// secret.Redact.
func (g *Guard) Client(timeout time.Duration, certificate ...tls.Certificate) *http.Client {
	return &http.Client{
		Transport: g.transport(func() *http.Transport {
			return &http.Transport{
				TLSClientConfig:        g.TLS(certificate...),
				MaxResponseHeaderBytes: 64 << 10,
				MaxIdleConnsPerHost:    64, // as many attempts as an event subscription has under way
				IdleConnTimeout:        30 * time.Second,
			}
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
}

// Passing returns what a reverse proxy sends requests over, for many callers at once. It
// is guarded like a Client, and adds nothing to a request: no wish for compression, no
// bound in time but that of the dial. A connection is left after a short rest, before
// servers close it (uvicorn after 5 s): a request that meets one just being closed fails,
// and one with a body that streams cannot be sent again.
func (g *Guard) Passing() http.RoundTripper {
	return g.transport(func() *http.Transport {
		return &http.Transport{
			TLSClientConfig:       g.TLS(),
			DisableCompression:    true,
			ExpectContinueTimeout: time.Second,
			MaxIdleConnsPerHost:   256,
			IdleConnTimeout:       3 * time.Second,
			WriteBufferSize:       64 << 10,
			ReadBufferSize:        64 << 10,
		}
	})
}

// transport returns a guarded pair of what each call of settings makes.
func (g *Guard) transport(settings func() *http.Transport) *guarded {
	dialling := func(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
		t := settings()
		t.DialContext, t.TLSHandshakeTimeout, t.ForceAttemptHTTP2 = dial, DialTimeout, true
		return t
	}
	return &guarded{check: g.CheckURL, secure: dialling(g.DialContext), clear: dialling(g.DialClear)}
}

// guarded sends each request over the transport that fits its scheme.
type guarded struct {
	check         func(*url.URL) error
	secure, clear *http.Transport
}

// RoundTrip sends one request when its URL may be a destination.
func (t *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.check(r.URL); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // RoundTrip must close it, also on an error
		}
		return nil, err
	}
	if r.URL.Scheme == "http" {
		return t.clear.RoundTrip(r)
	}
	return t.secure.RoundTrip(r)
}

// CloseIdleConnections closes connections that nobody uses.
func (t *guarded) CloseIdleConnections() {
	t.secure.CloseIdleConnections()
	t.clear.CloseIdleConnections()
}
