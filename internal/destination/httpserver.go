package destination

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/carillon-events/carillon/internal/egress"
)

// Limits of one exchange. Source: spec/delivery.md section 9.5 rule 5.
const (
	maxHead    = 16 << 10 // bytes of the answer's head
	mostAnswer = 64 << 10 // bytes of the answer's body that are read
)

// drainTime is how long the rest of an answer may take once its head is here, where the
// head decides: the rest is read only so that the connection can be kept.
const drainTime = time.Second

// httpServer is whom requests of HTTP/1.1 go to: a host and a port, spoken to with TLS or
// without.
//
// It writes and pools its connections itself and reads answers with fasthttp:
// fasthttp's own client knows no context, and hides whether a connection was
// used before, which decides about the one repetition.
type httpServer struct {
	addr string // host:port
	tls  *tls.Config
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	idle *pool

	closed sync.Once

	certificateEnds time.Time // of the client certificate; zero for none
}

// newHTTPServer returns the server of a URL, which has a host and the scheme http or https. It
// connects to nothing; whether the address may be reached is decided when an attempt dials
// it. pools may be nil, and certificate.
func newHTTPServer(u *url.URL, guard *egress.Guard, pools *Pools, certificate *tls.Certificate) *httpServer {
	s := &httpServer{dial: guard.DialClear}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	s.addr = net.JoinHostPort(u.Hostname(), port)
	if name := u.Scheme + "://" + s.addr; pools != nil && certificate == nil { // connections with one are its owner's
		s.idle = pools.pool(name)
	} else {
		s.idle = pools.alone(name)
	}
	if u.Scheme == "https" {
		s.dial = guard.DialContext
		s.tls = guard.TLS()
		if certificate != nil {
			s.tls, s.certificateEnds = guard.TLS(*certificate), certificate.Leaf.NotAfter
		}
		s.tls.ServerName = u.Hostname()
		s.tls.NextProtos = []string{"http/1.1"}
		s.tls.ClientSessionCache = s.idle.sessions
	}
	return s
}

// leave lets go of the connections.
func (s *httpServer) leave() { s.closed.Do(s.idle.leave) }

// dialogue is a request and what becomes of its answer. Where a connection that was used
// before turns out to be closed it begins once more.
type dialogue interface {
	// Fill has the body ready, once there is a connection.
	Fill() error
	// write sends the request.
	write(c *conn) error
	// read looks at an answer whose head is read, and reads its body: it reports whether
	// that was all of it.
	read(a *answer, c *conn) bool
	// again reports whether it may be sent again where nobody knows if it was read.
	again() bool
}

// exchange sends a request and reads the answer, within the time that there is. The error
// is one for noAnswer.
func (s *httpServer) exchange(ctx context.Context, d dialogue, until time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c := s.idle.get(ctx); c != nil {
		if stale, err := s.speak(ctx, c, d, until); !stale {
			return err
		}
	}
	c, err := s.connect(ctx, until)
	if err != nil {
		return &connectError{err}
	}
	c.closeWith(ctx)
	_, err = s.speak(ctx, c, d, until)
	return err
}

// connect opens a connection, with TLS where the URL wants it.
func (s *httpServer) connect(ctx context.Context, until time.Time) (*conn, error) {
	if limit := time.Now().Add(egress.DialTimeout); limit.Before(until) {
		until = limit
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	raw, err := s.dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	if s.tls == nil {
		return &conn{Conn: raw, raw: raw}, nil
	}
	secured := tls.Client(raw, s.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, &tlsError{s.blame(err)}
	}
	return &conn{Conn: secured, raw: raw}, nil
}

// speak makes the exchange on c; then it keeps c or closes it. stale means that c was used
// before and the receiver had closed it without reading anything that mattered: the attempt
// goes on with a new connection. Decision 32.
func (s *httpServer) speak(ctx context.Context, c *conn, d dialogue, until time.Time) (stale bool, err error) {
	used := c.used
	c.used = true
	keep := false
	defer func() {
		if keep {
			s.idle.put(c)
		} else {
			s.idle.drop(c)
		}
	}()
	if d.Fill() != nil {
		keep = true
		return false, errUnfilled
	}
	_ = c.raw.SetDeadline(until) // a closed connection shows itself below
	err = d.write(c)
	if err != nil && !isTimeout(err) {
		// A receiver may refuse a body before it read all of it, and close.
		_ = c.raw.SetReadDeadline(time.Now().Add(drainTime))
		if c.await() == nil {
			err = nil
		}
	} else if err == nil {
		err = c.await()
	}
	if err != nil {
		return used && d.again() && ctx.Err() == nil && !isTimeout(err), s.blame(err)
	}
	a := answers.Get().(*answer)
	defer answers.Put(a)
	keep, err = a.of(c, d)
	return false, err
}

// blame says of an endpoint that refuses our client certificate that ours has expired,
// if it has. In TLS 1.3 the refusal comes after the handshake.
func (s *httpServer) blame(err error) error {
	if !s.certificateEnds.IsZero() && refusesCertificate(err) && time.Now().After(s.certificateEnds) {
		return &expiredError{s.certificateEnds, err}
	}
	return err
}

// maxCopied bounds the body that is copied behind its head to be one write.
const maxCopied = 16 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// send writes head and body, and returns the head's buffer.
func (c *conn) send(head, body []byte) ([]byte, error) {
	if len(body) > maxCopied {
		parts := net.Buffers{head, body}
		_, err := parts.WriteTo(c.Conn)
		return head, err
	}
	head = append(head, body...) // one write: one packet, one TLS record
	_, err := c.Conn.Write(head)
	return head, err
}

// answer reads one answer. It is pooled, for it holds the buffers.
type answer struct {
	r    *bufio.Reader
	http fasthttp.Response
}

var answers = sync.Pool{New: func() any { return &answer{r: bufio.NewReaderSize(nil, maxHead)} }}

// of reads the answer to d, whose first byte is here. keep tells whether the connection is
// ready for the next request.
func (a *answer) of(c *conn, d dialogue) (keep bool, err error) {
	a.r.Reset(c)
	defer a.r.Reset(nil)
	h := &a.http.Header
	for interim := 0; ; interim++ {
		if err := h.Read(a.r); err != nil {
			return false, &headError{err}
		}
		// Informational heads come before the answer; 101 is one by itself.
		if s := h.StatusCode(); s >= 200 || s == fasthttp.StatusSwitchingProtocols {
			break
		}
		if interim == 8 {
			return false, &headError{errors.New("too many informational heads")}
		}
	}
	keep = d.read(a, c) && !h.ConnectionClose() && h.StatusCode() >= 200
	if keep && (a.r.Buffered() > 0 || c.early > 0) {
		keep, c.unasked = false, true
	}
	return keep, nil
}

// bodiless reports whether no body follows, whatever the head says.
func (a *answer) bodiless() bool {
	status := a.http.Header.StatusCode()
	return status < 200 || status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified
}

// drain reads the body for nobody and reports whether all of it was read.
func (a *answer) drain(c *conn) bool {
	h := &a.http.Header
	length := h.ContentLength()
	if a.bodiless() {
		return true
	}
	if h.ConnectionClose() || length > mostAnswer || length < -1 { // longer than we read, or up to the end of the connection
		return false
	}
	if length < 0 || length > a.r.Buffered() {
		_ = c.raw.SetReadDeadline(time.Now().Add(drainTime)) // a closed connection shows itself below
	}
	if length >= 0 {
		_, err := a.r.Discard(length)
		return err == nil
	}
	defer a.http.ResetBody()
	return a.http.ReadBody(a.r, mostAnswer) == nil && h.ReadTrailer(a.r) == nil
}

// body reads the body, of which no more than mostAnswer, and reports whether that was all of
// it. The error tells what ended it early.
func (a *answer) body() (body []byte, all bool, err error) {
	h := &a.http.Header
	length := h.ContentLength()
	switch {
	case a.bodiless():
		return nil, true, nil
	case length >= 0:
		body = make([]byte, min(length, mostAnswer))
		n, err := io.ReadFull(a.r, body)
		return body[:n], n == length, err
	case length == -1: // chunks
		defer a.http.ResetBody()
		if err = a.http.ReadBody(a.r, mostAnswer); err == nil {
			err = h.ReadTrailer(a.r)
		}
		return bytes.Clone(a.http.Body()), err == nil, err
	}
	body, err = io.ReadAll(io.LimitReader(a.r, mostAnswer))
	return body, false, err
}
