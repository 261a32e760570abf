package servertest

import (
	"net"
	"net/http"
	"sync/atomic"
	"testing"
)

// Fickle serves a handler on an address of its own, and can be taken away and brought
// back there.
type Fickle struct {
	Tries atomic.Int64 // connections while it is down, each of which is closed at once

	t       testing.TB
	handler http.Handler
	address string
	end     func()
}

// NewFickle starts a Fickle, which is up.
func NewFickle(t testing.TB, handler http.Handler) *Fickle {
	f := &Fickle{t: t, handler: handler, address: "127.0.0.1:0"}
	f.Up()
	t.Cleanup(func() { f.end() })
	return f
}

// URL is where it is.
func (f *Fickle) URL() string { return "http://" + f.address }

// Up has it answer.
func (f *Fickle) Up() {
	l := f.listen()
	srv := &http.Server{Handler: f.handler}
	go func() { _ = srv.Serve(l) }()
	f.end = func() { _ = srv.Close() }
}

// Down ends all connections and each new one.
func (f *Fickle) Down() {
	l := f.listen()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			f.Tries.Add(1)
			_ = c.Close()
		}
	}()
	f.end = func() { _ = l.Close() }
}

// listen takes the place of what there was.
func (f *Fickle) listen() net.Listener {
	f.t.Helper()
	if f.end != nil {
		f.end()
	}
	l, err := net.Listen("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.address = l.Addr().String()
	return l
}
