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
	transport := func(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
		return &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        g.TLS(certificate...),
			TLSHandshakeTimeout:    DialTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		}
	}
	return &http.Client{
		Transport:     &guarded{check: g.CheckURL, secure: transport(g.DialContext), clear: transport(g.DialClear)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
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
