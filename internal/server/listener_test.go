package server

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

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
func (p pipes) Addr() net.Addr { return nil }

// TestAnswerNotRead: a connection whose peer does not read its answer ends, in the lane
// and in net/http.
func TestAnswerNotRead(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name, request string
	}{
		{"lane", laneStart + "Content-Length: 0\r\n\r\n"},
		{"net/http", get},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = w.Write(make([]byte, 64<<10))
				})
				s := newSplit(pipes{make(chan net.Conn), make(chan struct{})}, newLane(handler, slog.New(slog.DiscardHandler)))
				server := &http.Server{Handler: handler}
				ended := make(chan error, 2)
				go func() { ended <- s.run() }()
				go func() { ended <- server.Serve(s.clear) }()
				ours, theirs := net.Pipe()
				s.Listener.(pipes).conns <- ours
				began := time.Now()
				if _, err := io.WriteString(theirs, tt.request); err != nil {
					t.Fatal(err)
				}
				time.Sleep(writeTime + time.Second)
				synctest.Wait()
				if n, err := io.Copy(io.Discard, theirs); n != 0 || err != nil {
					t.Errorf("after %s: %d bytes, %v; want the end", time.Since(began), n, err)
				}
				_ = server.Close()
				<-ended
				<-ended
			})
		})
	}
}
