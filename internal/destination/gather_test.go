package destination

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
)

func TestGather(t *testing.T) {
	test := func(name string, f func(t *testing.T, g *gather, other net.Conn)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, other := net.Pipe() // a write waits until all of it is read
				g := gathering(ours)
				defer func() {
					_ = other.Close()
					_ = g.Close()
				}()
				f(t, g, other)
			})
		})
	}
	write := func(t *testing.T, g *gather, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if n, err := g.Write([]byte(text)); n != len(text) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
	}
	read := func(t *testing.T, other net.Conn, want string) {
		t.Helper()
		b := make([]byte, 2*mostGathered)
		if n, err := other.Read(b); err != nil || string(b[:n]) != want {
			t.Fatalf("read %d bytes, %.40q, %v; want %d, %.40q", n, b[:n], err, len(want), want)
		}
	}
	test("what comes during a write goes at once", func(t *testing.T, g *gather, other net.Conn) {
		write(t, g, "one ")
		synctest.Wait()
		write(t, g, "two ", "three ")
		read(t, other, "one ")
		read(t, other, "two three ")
		write(t, g, "four ")
		read(t, other, "four ")
	})
	test("a write waits for room", func(t *testing.T, g *gather, other net.Conn) {
		full := string(bytes.Repeat([]byte("x"), mostGathered))
		write(t, g, "one ")
		synctest.Wait()
		write(t, g, full)
		written := make(chan error)
		go func() {
			_, err := g.Write([]byte("two "))
			written <- err
		}()
		synctest.Wait()
		select {
		case err := <-written:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		read(t, other, "one ")
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		read(t, other, full)
		read(t, other, "two ")
	})
	test("what waits is written before the end", func(t *testing.T, g *gather, other net.Conn) {
		write(t, g, "one ")
		synctest.Wait()
		write(t, g, "two ")
		closed := make(chan error)
		go func() { closed <- g.Close() }()
		synctest.Wait()
		if _, err := g.Write([]byte("three ")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the end: %v", err)
		}
		if got, err := io.ReadAll(other); err != nil || string(got) != "one two " {
			t.Errorf("%q, %v", got, err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
	test("a write that waits for room ends with the connection", func(t *testing.T, g *gather, other net.Conn) {
		write(t, g, "one ")
		synctest.Wait()
		write(t, g, string(make([]byte, mostGathered)))
		written := make(chan error)
		go func() {
			_, err := g.Write([]byte("two "))
			written <- err
		}()
		synctest.Wait()
		_ = other.Close()
		if err := <-written; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%v", err)
		}
	})
}

// TestGatherFails holds that whoever uses a connection learns why it could not be written
// to, also who reads only.
func TestGatherFails(t *testing.T) {
	ours, other := net.Pipe()
	defer func() { _ = other.Close() }()
	g := gathering(unwritable{ours})
	read := make(chan error)
	go func() {
		_, err := g.Read(make([]byte, 1))
		read <- err
	}()
	if _, err := g.Write([]byte("one ")); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, errUnwritable) {
		t.Errorf("a read: %v", err)
	}
	if _, err := g.Write([]byte("two ")); !errors.Is(err, errUnwritable) {
		t.Errorf("a write: %v", err)
	}
	_ = g.Close()
}

var errUnwritable = errors.New("it cannot be written to")

type unwritable struct{ net.Conn }

func (unwritable) Write([]byte) (int, error) { return 0, errUnwritable }
