package consumer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// TestOverTLS has a sender with a client certificate, and one without, over real connections.
func TestOverTLS(t *testing.T) {
	ours := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	saw := &seen{}
	h := newHandler(t, consumer.On(saw.completed), consumer.ClientCertificate(roots, "sender"))
	server := httptest.NewUnstartedServer(h)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	source := consumertest.NewSource(workspace)
	for _, c := range []struct {
		name   string
		shown  bool
		status int
	}{{"without", false, 401}, {"with", true, 200}} {
		client := server.Client()
		if c.shown {
			cert, key := ours.client(t, func(*x509.Certificate) {})
			client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
				RootCAs:      client.Transport.(*http.Transport).TLSClientConfig.RootCAs,
				Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
			}}}
			defer client.CloseIdleConnections()
		}
		sender := &consumertest.Sender{URL: server.URL + "/hook", Client: client, Schema: event.CloudEventSchemaV1_0}
		if a := send(t, sender, source.Event(run("1"))); a.Status != c.status || a.Delivered() != c.shown || a.GivenUp() == c.shown {
			t.Errorf("%s: answered %+v", c.name, a)
		}
		if yes, a, err := sender.Ask("eventgrid.azure.net"); err != nil || yes != c.shown {
			t.Errorf("%s: %+v, %v", c.name, a, err)
		}
	}
	if got := saw.take(); got != "RunCompleted 1" {
		t.Errorf("saw %s", got)
	}
}

// announced is a body of which little comes; it remembers what room it was given.
type announced struct {
	comes int // bytes, and then it breaks off
	room  int
}

func (a *announced) Read(b []byte) (int, error) {
	if a.room = max(a.room, len(b)); a.comes == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := min(a.comes, len(b))
	a.comes -= n
	return n, nil
}

func (a *announced) Close() error { return nil }

// TestRoom gives a body room as it comes, and none to that of a stranger.
func TestRoom(t *testing.T) {
	roots := x509.NewCertPool()
	for _, c := range []struct {
		name        string
		contentType string
		option      consumer.Option
		comes, room int
		status      int
	}{
		{"a byte", "application/json", consumer.Signed(sharedKey), 1, 16 << 10, 500},
		{"100 KiB", "application/json", consumer.Signed(sharedKey), 100 << 10, 128 << 10, 500},
		{"another content type", "text/plain", consumer.Signed(sharedKey), 1, 0, 415},
		{"no shared key", "application/json", consumer.SharedKey("k"), 1, 0, 401},
		{"no certificate", "application/json", consumer.ClientCertificate(roots), 1, 0, 401},
		{"no token", "application/json", consumer.BearerToken(consumer.Token{Issuer: "https://issuer.example", Audience: []string{"a"}}), 1, 0, 401},
	} {
		h := newHandler(t, consumer.On((&seen{}).completed), c.option)
		body := &announced{comes: c.comes}
		r := httptest.NewRequest("POST", "/", body)
		r.Header.Set("Content-Type", c.contentType)
		r.ContentLength = 2 << 20
		if w := record(h, r); w.Code != c.status || body.room > c.room || (body.room > 0) != (c.room > 0) {
			t.Errorf("%s: answered %d, the body had room for %d bytes", c.name, w.Code, body.room)
		}
	}
}

// TestSlowBody does not wait for a body for ever, be it that of a stranger, nor ends a connection
// whose body has come.
func TestSlowBody(t *testing.T) {
	for status, option := range map[int]consumer.Option{500: consumer.Signed(sharedKey), 401: consumer.SharedKey("k")} {
		h := newHandler(t, consumer.On((&seen{}).completed), option)
		consumer.SetBodyTime(h, 50*time.Millisecond)
		server := httptest.NewServer(h)
		defer server.Close()
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n["); err != nil {
			t.Fatal(err)
		}
		if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || answer.StatusCode != status {
			t.Errorf("answered %+v, %v, want %d", answer, err, status)
		}
	}
	// The deadline is that of the body alone.
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		slow := newHandler(t, consumer.On(func(ctx context.Context, _ consumer.Event[mlevent.RunCompleted]) error {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
			ended <- ctx.Err()
			return nil
		}))
		consumer.SetBodyTime(slow, time.Second)
		l := pipes{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: slow}
		go func() { _ = server.Serve(l) }()
		defer func() { _ = server.Close() }()
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			return ours, nil
		}}}
		defer client.CloseIdleConnections()
		if a := send(t, &consumertest.Sender{URL: "http://hooks.example", Client: client}, consumertest.NewSource(workspace).Event(run("1"))); a.Status != 200 {
			t.Errorf("answered %+v", a)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pipes is a listener of pipes.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.done); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }
