package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// seen is what a handler sees of a request.
type seen struct {
	Method, Path, Query, Host, Proto, URI string
	Header                                http.Header
	Length                                int64
	Body                                  string
	Failed                                string
}

// echo answers with what it saw; the query says how.
func echo(w http.ResponseWriter, r *http.Request) {
	s := seen{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Host: r.Host, Proto: r.Proto, URI: r.RequestURI, Header: r.Header, Length: r.ContentLength}
	switch r.URL.RawQuery {
	case "leave": // the body is not read
	case "panic":
		panic(http.ErrAbortHandler)
	case "empty":
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["X-Two"] = []string{"a", "b"}
		w.WriteHeader(http.StatusAccepted)
		return
	default:
		body, err := io.ReadAll(r.Body)
		s.Body = fmt.Sprintf("%d bytes: %.100s", len(body), body)
		if err != nil {
			s.Failed = err.Error()
		}
	}
	w.WriteHeader(http.StatusTeapot)
	_ = json.NewEncoder(w).Encode(s)
}

// answer is what a client sees.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// doors are a listener with a lane, and one with net/http alone.
type doors struct {
	lane, plain string
	taken       *atomic.Int64 // requests that the lane kept
}

func newDoors(t testing.TB) doors {
	var taken atomic.Int64
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	serve := func(l net.Listener) {
		h := &http.Server{Handler: http.HandlerFunc(echo), MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go func() { _ = h.Serve(l) }()
		t.Cleanup(func() { _ = h.Close() })
	}
	fast := newLane(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		taken.Add(1)
		echo(w, r)
	}), slog.New(slog.DiscardHandler))
	both, plain := newSplit(listen(), fast), listen()
	go func() { _ = both.run() }()
	serve(both.clear)
	serve(plain)
	return doors{both.Addr().String(), plain.Addr().String(), &taken}
}

// ask sends bytes, ends its side of the connection, and returns the answers.
func ask(t testing.TB, addr, raw string) []answer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		_, _ = io.WriteString(c, raw)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	var all []answer
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, nil)
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Fatalf("%q: no answer and no end", raw)
		}
		if err != nil {
			return all
		}
		body, _ := io.ReadAll(resp.Body)
		delete(resp.Header, "Date")
		all = append(all, answer{resp.StatusCode, resp.Header, string(body)})
	}
}

const laneStart = "POST /topics/t/api/events HTTP/1.1\r\nHost: localhost\r\n"

// laneCases are requests, and how many of their connection the lane keeps.
var laneCases = map[string]struct {
	raw  string
	kept int64
}{
	"plain":                  {laneStart + "Content-Length: 2\r\n\r\n[]", 1},
	"own host":               {"POST /api/events?api-version=2018-01-01 HTTP/1.1\r\nHost: t.local-1.eventgrid.localhost:7443\r\nContent-Length: 2\r\n\r\n[]", 1},
	"three, pipelined":       {strings.Repeat(laneStart+"Content-Length: 2\r\n\r\n[]", 3), 3},
	"with headers":           {laneStart + "aeg-sas-key:  k=  \r\nX-A: 1\r\nx-a: 2\r\nContent-Type: application/json\r\nUser-Agent: a b (c)\r\nContent-Length: 3\r\n\r\n[1]", 1},
	"headers change":         {laneStart + "X-A: 1\r\nContent-Length: 0\r\n\r\n" + laneStart + "Content-Length: 1\r\nX-B: 1\r\nX-a: 3\r\n\r\n5", 2},
	"empty value":            {laneStart + "X-A:\r\nContent-Length: 0\r\n\r\n", 1},
	"keep-alive":             {laneStart + "Connection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", 1},
	"answer without body":    {"POST /topics/t?empty HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 1},
	"body left":              {"POST /topics/t?leave HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc" + laneStart + "Content-Length: 0\r\n\r\n", 2},
	"body short":             {laneStart + "Content-Length: 5\r\n\r\nabc", 1},
	"large body":             {laneStart + "Content-Length: 300000\r\n\r\n" + strings.Repeat("x", 300000) + laneStart + "Content-Length: 1\r\n\r\ny", 2},
	"handler gives up":       {"POST /topics/t?panic HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 1},
	"then another plane":     {laneStart + "Content-Length: 0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + laneStart + "Content-Length: 0\r\n\r\n", 1},
	"another plane":          {"GET /subscriptions HTTP/1.1\r\nHost: localhost\r\n\r\n", 0},
	"POST to another plane":  {"POST /subscriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 0},
	"no length":              {laneStart + "\r\n", 0},
	"chunked":                {laneStart + "Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n", 0},
	"chunked and a length":   {laneStart + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n[]\r\n0\r\n\r\n", 0},
	"two lengths":            {laneStart + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n[1]", 0},
	"two equal lengths":      {laneStart + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n[]", 0},
	"signed length":          {laneStart + "Content-Length: +2\r\n\r\n[]", 0},
	"negative length":        {laneStart + "Content-Length: -1\r\n\r\n[]", 0},
	"length of more bits":    {laneStart + "Content-Length: 99999999999\r\n\r\n[]", 0},
	"a domain":               {"POST /domains/d/api/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]", 1},
	"no host":                {"POST /topics/t/api/events HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 0},
	"two hosts":              {laneStart + "Host: localhost\r\nContent-Length: 2\r\n\r\n[]", 0},
	"odd host":               {"POST /topics/t HTTP/1.1\r\nHost: a b\r\nContent-Length: 2\r\n\r\n[]", 0},
	"HTTP/1.0":               {"POST /topics/t HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]", 0},
	"close":                  {laneStart + "Connection: close\r\nContent-Length: 2\r\n\r\n[]", 0},
	"expect":                 {laneStart + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n[]", 0},
	"absolute target":        {"POST http://localhost/topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]", 0},
	"two slashes":            {"POST //topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]", 0},
	"escapes in the target":  {"POST /topics/%74?a=%20b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]", 0},
	"space before the colon": {laneStart + "X-A : 1\r\nContent-Length: 2\r\n\r\n[]", 0},
	"space before the name":  {laneStart + " X-A: 1\r\nContent-Length: 2\r\n\r\n[]", 0},
	"folded":                 {laneStart + "X-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\n[]", 0},
	"no colon":               {laneStart + "X-A\r\nContent-Length: 2\r\n\r\n[]", 0},
	"no name":                {laneStart + ": 1\r\nContent-Length: 2\r\n\r\n[]", 0},
	"bare line feed":         {laneStart + "X-A: 1\nX-B: 2\r\nContent-Length: 2\r\n\r\n[]", 0},
	"control character":      {laneStart + "X-A: \x01\r\nContent-Length: 2\r\n\r\n[]", 0},
	"beyond ASCII":           {laneStart + "X-A: \xc3\xa4\r\nContent-Length: 2\r\n\r\n[]", 0},
	"large head":             {laneStart + "X-A: " + strings.Repeat("a", laneHead) + "\r\nContent-Length: 2\r\n\r\n[]", 0},
	"huge head":              {laneStart + "X-A: " + strings.Repeat("a", 80<<10) + "\r\nContent-Length: 2\r\n\r\n[]", 0},
	"half a head":            {laneStart, 0},
	"a byte after a request": {laneStart + "Content-Length: 0\r\n\r\nP", 1},
	"a word after a request": {laneStart + "Content-Length: 0\r\n\r\nPOST", 1},
	"line ends after it":     {laneStart + "Content-Length: 0\r\n\r\n\r\n\r\n", 1},
	"line ends between two":  {laneStart + "Content-Length: 0\r\n\r\n\r\n" + laneStart + "Content-Length: 2\r\n\r\n[]", 2},
	"many line ends between": {laneStart + "Content-Length: 0\r\n\r\n\r\n\r\n\r\n" + laneStart + "Content-Length: 2\r\n\r\n[]", 1},
	"alike, one changed":     {laneStart + "X-A: 1\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n" + laneStart + "X-A: 1\r\nX-B: 3\r\nContent-Length: 2\r\n\r\n[]", 2},
	"alike, one more":        {laneStart + "Content-Length: 0\r\n\r\n" + laneStart + "Content-Length: 0\r\nX-A: 1\r\n\r\n", 2},
	"alike, one less":        {laneStart + "Content-Length: 0\r\nX-A: 1\r\nX-A: 2\r\n\r\n" + laneStart + "Content-Length: 0\r\nX-A: 1\r\n\r\n", 2},
	"alike, another order":   {laneStart + "X-A: 1\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n" + laneStart + "X-B: 2\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n", 2},
	"alike, no host":         {laneStart + "Content-Length: 0\r\n\r\nPOST /topics/t/api/events HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 1},
	"alike, no length":       {laneStart + "Content-Length: 0\r\n\r\n" + laneStart + "\r\n", 1},
	"half a method":          {"PO", 0},
	"nothing":                {"", 0},
	"garbage":                {"\x00\x01\r\n\r\n", 0},
	"empty line first":       {"\r\n" + laneStart + "Content-Length: 2\r\n\r\n[]", 0},
}

// TestLane holds the lane against net/http: no client can tell which of them
// answered.
func TestLane(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(laneCases)) {
		t.Run(name, func(t *testing.T) {
			c, d := laneCases[name], newDoors(t)
			got, want := ask(t, d.lane, c.raw), ask(t, d.plain, c.raw)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the lane answers\n%.2000s\nnet/http\n%.2000s", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
			}
			if d.taken.Load() < c.kept {
				t.Errorf("the lane kept %d requests, want %d", d.taken.Load(), c.kept)
			}
		})
	}
}

// FuzzLane sends any bytes to both.
func FuzzLane(f *testing.F) {
	for _, c := range laneCases {
		if len(c.raw) < 1000 {
			f.Add(strings.TrimPrefix(c.raw, laneStart), strings.HasPrefix(c.raw, laneStart))
		}
	}
	d := newDoors(f)
	f.Fuzz(func(t *testing.T, raw string, start bool) {
		if start {
			raw = laneStart + raw
		} else if raw != "" && raw[0] == firstOfTLS {
			t.Skip("a connection of TLS begins elsewhere")
		}
		got, want := ask(t, d.lane, raw), ask(t, d.plain, raw)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: the lane answers\n%+v\nnet/http\n%+v", raw, got, want)
		}
	})
}

// TestLaneTimes holds the lane to the deadlines of a connection.
func TestLaneTimes(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		drip      string // sent every second from then on
		closes    time.Duration
	}{
		{name: "no second request", raw: laneStart + "Content-Length: 2\r\n\r\n[]", closes: idleTime},
		{name: "half a body", raw: laneStart + "Content-Length: 5\r\n\r\n[]", closes: requestTime},
		{name: "a body that drips", raw: laneStart + "Content-Length: 50000\r\n\r\n[]", drip: " ", closes: requestTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				began := time.Now()
				l := newLane(http.HandlerFunc(echo), slog.New(slog.DiscardHandler))
				ended := make(chan time.Duration, 1)
				go func() {
					if next := l.serve(ours, nil); next != nil {
						t.Error("the connection was handed over")
					}
					ended <- time.Since(began)
				}()
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
				_, _ = io.WriteString(theirs, c.raw)
				for c.drip != "" {
					time.Sleep(time.Second)
					if _, err := io.WriteString(theirs, c.drip); err != nil {
						break
					}
				}
				if took := <-ended; took < c.closes || took > c.closes+2*time.Second {
					t.Errorf("the connection ended after %v, want %v", took, c.closes)
				}
			})
		})
	}
}

// TestLaneSlowHead: a head that does not come in time is net/http's.
func TestLaneSlowHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		began, ended := time.Now(), make(chan bool)
		go func() {
			defer close(ended)
			for _, err := io.WriteString(theirs, laneStart+"X-A: "); err == nil; _, err = io.WriteString(theirs, "a") {
				time.Sleep(time.Second)
			}
		}()
		next := newLane(http.HandlerFunc(echo), slog.New(slog.DiscardHandler)).serve(ours, nil)
		if took := time.Since(began); next == nil || took < headerTime || took > headerTime+time.Second {
			t.Fatalf("%v after %v, want a hand-over after %v", next, took, headerTime)
		}
		first := make([]byte, len(laneStart))
		if _, err := io.ReadFull(next, first); err != nil || string(first) != laneStart {
			t.Errorf("net/http sees %q, %v", first, err)
		}
		_ = next.Close()
		<-ended
	})
}

// TestLaneShutdown: idle connections close at once, a request in flight is answered.
func TestLaneShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(3 * time.Second)
			echo(w, r)
		}), slog.New(slog.DiscardHandler))
		answers := make(chan string, 2)
		open := func(raw string) {
			ours, theirs := net.Pipe()
			go l.serve(ours, nil)
			go func() {
				all, err := io.ReadAll(theirs)
				answers <- fmt.Sprintf("%.12s %v %v", all, strings.Contains(string(all), "Connection: close"), err)
			}()
			if raw != "" {
				_, _ = io.WriteString(theirs, raw)
			}
		}
		open("")
		open(laneStart + "Content-Length: 0\r\n\r\n")
		synctest.Wait()
		began := time.Now()
		l.shutdown(context.Background())
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("shutdown took %v, want 3s", took)
		}
		if got := <-answers; got != " false <nil>" {
			t.Errorf("idle connection: %q", got)
		}
		if got := <-answers; got != "HTTP/1.1 418 true <nil>" {
			t.Errorf("request in flight: %q", got)
		}
		ours, theirs := net.Pipe()
		if l.serve(ours, nil) != nil {
			t.Error("a connection was handed over after shutdown")
		}
		if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection after shutdown: %v", err)
		}
	})
}

// TestLaneShutdownCuts: what is not answered in time is cut.
func TestLaneShutdownCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(http.HandlerFunc(echo), slog.New(slog.DiscardHandler))
		ours, theirs := net.Pipe()
		go l.serve(ours, nil)
		_, _ = io.WriteString(theirs, laneStart+"Content-Length: 5\r\n\r\n")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		began := time.Now()
		l.shutdown(ctx)
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("shutdown took %v, want 4s", took)
		}
	})
}
