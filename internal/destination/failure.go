package destination

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
)

// tlsError is a TLS handshake that failed.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// headError is an answer whose head cannot be read.
type headError struct{ err error }

func (e *headError) Error() string { return "read answer: " + e.err.Error() }
func (e *headError) Unwrap() error { return e.err }

// expiredError is a refusal of our client certificate after its end.
type expiredError struct {
	ended time.Time
	err   error
}

func (e *expiredError) Error() string { return "expired client certificate: " + e.err.Error() }
func (e *expiredError) Unwrap() error { return e.err }

func canceled() broker.Response {
	return broker.Response{Outcome: broker.Canceled, Detail: "the attempt was cut short"}
}

func timedOut(hold time.Duration) broker.Response {
	return broker.Response{Outcome: broker.TimedOut, Detail: "no answer within " + hold.String()}
}

// unreached reports whether err is that a host was not connected to.
func unreached(err error) bool {
	_, refused := errors.AsType[*egress.RefusedError](err)
	_, failed := errors.AsType[*egress.DialError](err)
	return refused || failed
}

// unconnected tells why there is no connection.
func unconnected(err error) broker.Response {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		detail := "the host name could not be resolved"
		if dns.IsNotFound {
			detail = "the host name does not exist"
		}
		return broker.Response{Outcome: broker.ResolutionError, Detail: short(placed(err, detail))}
	}
	return broker.Response{Outcome: broker.SocketError, Detail: short(classOf(err))}
}

// connectError is that there is no connection for an exchange.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// errUnfilled is that the body of a request is gone.
var errUnfilled = errors.New("the body cannot be had")

// noAnswer tells why an exchange, which had so long, has no answer.
func noAnswer(ctx context.Context, err error, hold time.Duration) broker.Response {
	_, apart := errors.AsType[*connectError](err)
	switch {
	case ctx.Err() != nil, errors.Is(err, errUnfilled):
		return canceled()
	case apart:
		return unconnected(err)
	case isTimeout(err):
		return timedOut(hold)
	}
	if _, ok := errors.AsType[*headError](err); ok && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !isSocket(err) {
		return broker.Response{Outcome: broker.GenericError, Detail: "the answer is not HTTP/1.1, or its head is longer than 16 KiB"}
	}
	return broker.Response{Outcome: broker.SocketError, Detail: classOf(err)}
}

// placed puts the host and the port before a text that could not be connected: they need
// not be those that somebody wrote, for brokers name others.
func placed(err error, text string) string {
	if dial, ok := errors.AsType[*egress.DialError](err); ok {
		return at(dial.Destination, text)
	}
	return text
}

// at puts an address before a text that does not name it.
func at(address, text string) string {
	if strings.Contains(text, address) {
		return text
	}
	return address + ": " + text
}

// classOf names the class of a connection's failure, and whereto it was, for whoever set
// up the destination. It shows nothing that the other side wrote.
func classOf(err error) string {
	if refused, ok := errors.AsType[*egress.RefusedError](err); ok {
		return refused.Error()
	}
	return placed(err, className(err))
}

func className(err error) string {
	if text := certificateClass(err); text != "" {
		return text
	}
	if expired, ok := errors.AsType[*expiredError](err); ok {
		return "the endpoint refused the client certificate, which expired at " + expired.ended.UTC().Format(time.RFC3339)
	}
	if refusesCertificate(err) {
		return "the endpoint refused the client certificate, or wants one"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the endpoint does not speak TLS"
	}
	if remote, ok := errors.AsType[*net.OpError](err); ok && remote.Op == "remote error" && remote.Err != nil && remote.Err.Error() == noProtocol {
		return "the endpoint does not speak HTTP/1.1"
	}
	if _, ok := errors.AsType[*tlsError](err); ok && !isSocket(err) && !isTimeout(err) {
		return "the TLS handshake failed"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection was reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the host cannot be reached"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed without an answer"
	case isTimeout(err), errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		return "the connection could not be opened in time"
	}
	return "the connection failed"
}

// certificateClass tells what is wrong with the certificate, "" when nothing is.
func certificateClass(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the certificate is signed by an authority that is not trusted here; the operator of the server can add it with --destination-ca"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the certificate is not for this host"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "the certificate has expired or is not valid yet"
		}
		return "the certificate is not valid"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the certificate cannot be verified"
	}
	return ""
}

// certificateAlerts are the TLS alerts that blame our certificate, in the words of
// crypto/tls, which has no exported type for them. Source: RFC 8446 section 6.2.
var certificateAlerts = []string{
	"tls: bad certificate", "tls: unsupported certificate", "tls: revoked certificate", "tls: expired certificate", "tls: unknown certificate",
	"tls: unknown certificate authority", "tls: access denied", "tls: certificate required",
}

// noProtocol is the TLS alert of a server that speaks none of the protocols that it was
// offered, HTTP/2 alone, say. Source: RFC 7301 section 3.2.
const noProtocol = "tls: no application protocol"

// refusesCertificate reports whether the other side ended a connection because of our
// certificate, or because there was none.
func refusesCertificate(err error) bool {
	remote, ok := errors.AsType[*net.OpError](err)
	return ok && remote.Op == "remote error" && remote.Err != nil && slices.Contains(certificateAlerts, remote.Err.Error())
}

func isSocket(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}

// isTimeout tells whether one of our own deadlines ended it. A TCP connection
// that the system gave up is not that.
func isTimeout(err error) bool {
	type timeout interface {
		error
		Timeout() bool
	}
	t, ok := errors.AsType[timeout](err)
	return ok && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}

// short cuts a text to what a Response may hold.
func short(text string) string { return text[:min(len(text), 200)] }
