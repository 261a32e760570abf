package server

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/ingest"
)

// lane serves plain publish requests with less work than net/http needs, to the very
// handler that net/http serves: a busy publisher costs its system calls and little
// else. It knows POST to the data plane over clear HTTP/1.1 with a Content-Length.
// At anything else, and at the least doubt, it hands the connection with all that it
// read to net/http, for good: how to refuse what is not well-formed is decided there
// alone.
type lane struct {
	handler http.Handler
	log     *slog.Logger

	closing atomic.Bool
	mu      sync.Mutex
	conns   map[*laneConn]struct{}
	running sync.WaitGroup
}

func newLane(handler http.Handler, log *slog.Logger) *lane {
	return &lane{handler: handler, log: log, conns: map[*laneConn]struct{}{}}
}

const (
	laneHead = 8 << 10   // bytes of a request's head; longer ones are net/http's
	laneRest = 256 << 10 // bytes of a body that are read after the answer was decided
)

// laneConn is one connection. Everything it holds is used again by its next
// request.
type laneConn struct {
	net.Conn
	of       *lane
	busy     atomic.Bool
	answered bool // a request
	r        *bufio.Reader
	remote   string
	until    time.Time // read deadline that is set

	request http.Request
	url     url.URL
	target  string
	header  http.Header
	values  []string
	lines   []headLine // of the last request
	host    string
	length  int64 // of the request's body
	body    laneBody
	answer  laneAnswer
}

// headLine is a header as it was sent, and as it is read. Requests of one publisher
// are much alike: what the last one had is not read again.
type headLine struct{ text, name, value string }

// serve answers requests on c until one comes that is not for the lane; then it
// returns c as net/http is to see it. Nil means that the connection is done with.
// first is what was read of it already.
func (l *lane) serve(c net.Conn, first []byte) net.Conn {
	lc := &laneConn{Conn: c, of: l, remote: c.RemoteAddr().String(), header: http.Header{}}
	lc.answer = laneAnswer{conn: lc, header: http.Header{}}
	if !l.enter(lc) {
		_ = c.Close()
		return nil
	}
	defer l.leave(lc)
	lc.r = bufio.NewReaderSize(&begun{Conn: c, first: first}, laneHead)
	for {
		if !lc.awaitRequest() {
			_ = c.Close()
			return nil
		}
		lc.skipLineEnds()
		end, whole := lc.awaitHead()
		if !whole || !lc.parse(end) {
			return lc.handOver()
		}
		if !lc.exchange() {
			_ = c.Close()
			return nil
		}
	}
}

func (l *lane) enter(c *laneConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing.Load() {
		return false
	}
	l.conns[c] = struct{}{}
	l.running.Add(1)
	return true
}

func (l *lane) leave(c *laneConn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	l.running.Done()
}

// shutdown closes idle connections, and the others once their request is answered;
// those that are not when ctx ends it cuts.
func (l *lane) shutdown(ctx context.Context) {
	l.mu.Lock()
	l.closing.Store(true)
	for c := range l.conns {
		if !c.busy.Load() {
			_ = c.Close()
		}
	}
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		l.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		l.mu.Lock()
		for c := range l.conns {
			_ = c.Close()
		}
		l.mu.Unlock()
		<-done
	}
}

// handOver gives the connection up: net/http reads what was read here once more.
func (c *laneConn) handOver() net.Conn {
	read, _ := c.r.Peek(c.r.Buffered())
	_ = c.SetReadDeadline(time.Time{})
	return &begun{Conn: c.Conn, first: bytes.Clone(read)}
}

// deadline sets the read deadline.
func (c *laneConn) deadline(at time.Time) {
	c.until = at
	_ = c.SetReadDeadline(at)
}

// awaitRequest waits for the beginning of a request; false means that none comes. After
// the first request that are four bytes, as it is for net/http: fewer, and the end of the
// connection, get no answer there.
func (c *laneConn) awaitRequest() bool {
	beginning := 1
	if c.answered {
		beginning = 4
	}
	if c.r.Buffered() >= beginning {
		return true
	}
	// Setting a deadline for every request would be a good part of its cost.
	now := time.Now()
	if left := c.until.Sub(now); left < idleTime*3/4 || left > idleTime {
		c.deadline(now.Add(idleTime))
	}
	_, err := c.r.Peek(beginning)
	return err == nil
}

// skipLineEnds passes over line ends at the beginning of a request that follows another,
// within its first four bytes, as net/http does behind a POST. Source: RFC 9112 section 2.2.
func (c *laneConn) skipLineEnds() {
	if !c.answered {
		return
	}
	beginning, _ := c.r.Peek(4)
	_, _ = c.r.Discard(len(beginning) - len(bytes.TrimLeft(beginning, "\r\n")))
}

var headEnd = []byte("\r\n\r\n")

// awaitHead waits for the whole head of a request and returns its length.
func (c *laneConn) awaitHead() (length int, whole bool) {
	for again := false; ; again = true {
		read, _ := c.r.Peek(c.r.Buffered())
		if at := bytes.Index(read, headEnd); at >= 0 {
			return at + len(headEnd), true
		}
		if len(read) >= laneHead || !bytes.HasPrefix(read, post[:min(len(post), len(read))]) {
			return 0, false
		}
		if !again {
			c.deadline(time.Now().Add(headerTime))
		}
		if _, err := c.r.Peek(len(read) + 1); err != nil {
			return 0, false
		}
	}
}

var (
	post    = []byte("POST /")
	http1   = []byte(" HTTP/1.1")
	lineEnd = []byte("\r\n")
)

// parse reads the head into the request; false means that net/http shall.
func (c *laneConn) parse(end int) bool {
	read, _ := c.r.Peek(end)
	if !bytes.HasPrefix(read, post) {
		return false
	}
	line, rest, _ := bytes.Cut(read[:end-len(lineEnd)], lineEnd) // each line ends with one
	target, ok := bytes.CutSuffix(line[len("POST "):], http1)
	if !ok {
		return false
	}
	if string(target) != c.target {
		c.target = string(target)
		u, ok := plainTarget(c.target)
		if !ok {
			return false
		}
		c.url = *u
	}
	n, another := 0, false
	for ; len(rest) > 0; n++ {
		line, rest, _ = bytes.Cut(rest, lineEnd)
		if n == len(c.lines) {
			c.lines = append(c.lines, headLine{})
			another = true
		}
		if string(line) == c.lines[n].text {
			continue
		}
		another = true
		if !c.lines[n].parse(string(line)) {
			return false
		}
	}
	if another || n < len(c.lines) {
		c.lines = c.lines[:n]
		if !c.collect() {
			return false
		}
	}
	u := c.url
	c.body = laneBody{conn: c, left: c.length}
	c.request = http.Request{
		Method: http.MethodPost, URL: &u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: c.header, Body: &c.body,
		ContentLength: c.length, Host: c.host, RemoteAddr: c.remote, RequestURI: c.target,
	}
	if !ingest.Serves(&c.request) {
		return false
	}
	_, _ = c.r.Discard(end)
	return true
}

// parse reads one header; false means that net/http shall.
func (h *headLine) parse(text string) bool {
	name, value, ok := strings.Cut(text, ":")
	if !ok || !plainName(name) || !plainValue(value) {
		return false
	}
	*h = headLine{text, textproto.CanonicalMIMEHeaderKey(name), strings.Trim(value, " \t")}
	return true
}

// collect makes the headers, the host and the length of the request of its lines; false
// means that net/http shall.
func (c *laneConn) collect() bool {
	clear(c.header)
	c.values = slices.Grow(c.values[:0], len(c.lines))
	c.host, c.length = "", -1
	for i := range c.lines {
		name, value := c.lines[i].name, c.lines[i].value
		switch name {
		case "Host":
			if c.host != "" || !plainHost(value) {
				return false
			}
			c.host = value
			continue
		case "Content-Length":
			v, err := strconv.ParseUint(value, 10, 31)
			if err != nil || c.length >= 0 {
				return false
			}
			c.length = int64(v)
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return false
			}
		case "Transfer-Encoding", "Trailer", "Expect", "Upgrade":
			return false
		}
		if before, again := c.header[name]; again {
			c.header[name] = append(before, value)
			continue
		}
		c.values = append(c.values, value)
		c.header[name] = c.values[len(c.values)-1 : len(c.values) : len(c.values)]
	}
	return c.host != "" && c.length >= 0
}

// plainTarget parses a request target in which nothing is to be decoded.
func plainTarget(target string) (*url.URL, bool) {
	if strings.HasPrefix(target, "//") || !only(target, "/-_.~?=&") {
		return nil, false
	}
	u, err := url.ParseRequestURI(target)
	return u, err == nil
}

// plainName reports whether s is a header's name as nearly all are.
func plainName(s string) bool { return s != "" && only(s, "-") }

// plainHost reports whether s is a host, with or without a port.
func plainHost(s string) bool { return s != "" && only(s, "-.:[]") }

// only reports whether s consists of letters, digits and others.
func only(s, others string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', strings.IndexByte(others, b) >= 0:
		default:
			return false
		}
	}
	return true
}

// plainValue reports whether s is printable ASCII.
func plainValue(s string) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' && b != '\t' || b > '~' {
			return false
		}
	}
	return true
}

// exchange lets the handler answer the request, and reports whether the connection
// goes on.
func (c *laneConn) exchange() bool {
	c.busy.Store(true)
	defer c.busy.Store(false)
	a := &c.answer
	clear(a.header)
	a.status, a.body = 0, a.body[:0]
	if !c.handle() {
		return false
	}
	keep := c.body.drain() && !c.of.closing.Load()
	a.out = a.appendTo(a.out[:0], keep)
	_, err := c.Write(a.out)
	c.answered = true
	return err == nil && keep
}

// handle runs the handler. One that panics has its connection closed, as net/http
// does.
func (c *laneConn) handle() (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.of.log.Debug("http server", "message", "a handler gave its connection up")
		}
	}()
	c.of.handler.ServeHTTP(&c.answer, &c.request)
	return true
}

// laneBody is the body of a request.
type laneBody struct {
	conn   *laneConn
	left   int64
	waited bool // the deadline of the body is set
}

func (b *laneBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if !b.waited && int64(b.conn.r.Buffered()) < b.left {
		b.waited = true
		b.conn.deadline(time.Now().Add(requestTime))
	}
	n, err := b.conn.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err == nil && b.left == 0:
		err = io.EOF
	}
	return n, err
}

// Close does nothing: drain reads what the handler left.
func (b *laneBody) Close() error { return nil }

// drain reads what the handler left of the body, within bounds, and reports whether
// the next request can be read.
func (b *laneBody) drain() bool {
	if b.left > 0 {
		_, _ = io.CopyN(io.Discard, b, laneRest) // what is left tells
	}
	return b.left == 0
}

// laneAnswer is the answer as the handler writes it: whole in memory, for answers
// to publishers are short.
type laneAnswer struct {
	conn   *laneConn
	header http.Header
	status int
	body   []byte
	keys   []string
	out    []byte
}

func (a *laneAnswer) Header() http.Header { return a.header }

func (a *laneAnswer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

func (a *laneAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, p...)
	return len(p), nil
}

// SetReadDeadline lets http.ResponseController bound the reading of the body.
func (a *laneAnswer) SetReadDeadline(t time.Time) error {
	a.conn.until = t
	a.conn.body.waited = true
	return a.conn.SetReadDeadline(t)
}

// appendTo appends the answer as it is sent.
func (a *laneAnswer) appendTo(b []byte, keep bool) []byte {
	status := a.status
	if status == 0 {
		status = http.StatusOK
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	a.keys = a.keys[:0]
	for key := range a.header {
		a.keys = append(a.keys, key)
	}
	slices.Sort(a.keys)
	for _, key := range a.keys {
		for _, value := range a.header[key] {
			b = append(append(b, key...), ": "...)
			for i := range len(value) {
				if v := value[i]; v >= ' ' || v == '\t' {
					b = append(b, v)
				}
			}
			b = append(b, "\r\n"...)
		}
	}
	if len(a.body) > 0 && a.header["Content-Type"] == nil {
		b = append(append(append(b, "Content-Type: "...), http.DetectContentType(a.body)...), "\r\n"...)
	}
	b = append(b, "Date: "...)
	b = appendDate(b, time.Now())
	if !keep {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(a.body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, a.body...)
}

// date is the header Date of one second.
type date struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[date]

// appendDate appends the time as the header Date has it: the same a second long.
func appendDate(b []byte, now time.Time) []byte {
	d := lastDate.Load()
	if second := now.Unix(); d == nil || d.second != second {
		d = &date{second, now.UTC().Format(http.TimeFormat)}
		lastDate.Store(d)
	}
	return append(b, d.text...)
}
