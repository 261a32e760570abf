package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/telemetry"
)

// pairCheck is how often the files of a pair are looked at.
const pairCheck = 10 * time.Second

// pair is a certificate of the operator's own with its key, in two files. It is read
// again when they change. Files that do not make a good pair change nothing: the
// certificate from before is served until they do.
type pair struct {
	certFile, keyFile string
	log               *slog.Logger
	replaced          func(*tls.Certificate) error // told of each certificate that is served
	failed            func()                       // counts what was refused

	current atomic.Pointer[tls.Certificate]

	mu      sync.Mutex
	tried   [2][]byte // what was read last, good or not
	problem error     // why that is not served; nil when it is
}

// openPair reads a pair for the first time; one that is not good is an error. One that
// has ended is served, which is more than nothing, with a warning.
func openPair(certFile, keyFile string, log *slog.Logger, replaced func(*tls.Certificate) error, failed func()) (*pair, error) {
	p := &pair{certFile: certFile, keyFile: keyFile, log: log, replaced: replaced, failed: failed}
	cert, err := p.load()
	if err != nil {
		return nil, err
	}
	p.current.Store(cert)
	return p, replaced(cert)
}

// load reads the files. Its errors name the flags and never show what is in a file.
func (p *pair) load() (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(p.certFile)
	if err != nil {
		return nil, fmt.Errorf("--tls-certificate cannot be read: %w", withoutPath(err))
	}
	keyPEM, err := os.ReadFile(p.keyFile)
	if err != nil {
		return nil, fmt.Errorf("--tls-key cannot be read: %w", withoutPath(err))
	}
	p.tried = [2][]byte{certPEM, keyPEM}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("--tls-certificate and --tls-key are no pair of a certificate and its key in PEM form: %w", err)
	}
	return &cert, nil
}

// holds returns an error when a certificate is not valid at a time.
func holds(cert *tls.Certificate, now time.Time) error {
	switch {
	case now.After(cert.Leaf.NotAfter):
		return fmt.Errorf("the certificate of --tls-certificate ended at %s", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.Leaf.NotBefore):
		return fmt.Errorf("the certificate of --tls-certificate begins at %s", cert.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func withoutPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// run looks at the files now and then, and whenever told to, until ctx ends.
func (p *pair) run(ctx context.Context, now <-chan os.Signal) error {
	tick := time.NewTicker(pairCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-now:
			p.check(true)
		case <-tick.C:
			p.check(false)
		}
	}
}

// check takes the pair that is in the files, if it differs from the last one. asked
// says that somebody waits for word of it.
func (p *pair) check(asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, known := p.tried, p.problem
	cert, err := p.load()
	if err == nil && holds(p.current.Load(), time.Now()) == nil {
		err = holds(cert, time.Now())
	}
	changed := !bytes.Equal(before[0], p.tried[0]) || !bytes.Equal(before[1], p.tried[1])
	switch {
	case err == nil && (changed || known != nil || asked):
		if err = p.replaced(cert); err == nil {
			p.current.Store(cert)
			p.log.Info("certificate read", "expires", cert.Leaf.NotAfter, "names", cert.Leaf.DNSNames)
		}
	case err == nil:
		return
	}
	p.problem = err
	if err != nil && (changed || asked || known == nil || known.Error() != err.Error()) {
		p.failed()
		p.log.Error("certificate refused, the one from before is served", telemetry.Error, err)
	}
}

// warning says why the files are not what is served, "" when they are.
func (p *pair) warning() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem == nil {
		return ""
	}
	return "the new certificate is refused and the one from before is served: " + p.problem.Error()
}

// roots returns the certificates of a chain that signed themselves: what a client has to
// trust that does not know them yet.
func roots(chain *tls.Certificate) []byte {
	var out []byte
	for _, der := range chain.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil || !bytes.Equal(c.RawSubject, c.RawIssuer) || c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
			continue
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}
