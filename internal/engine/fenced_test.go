package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// intrude writes to a stream past the owner, as one that took over would.
func intrude(t *testing.T, s *stream, subject string, msg []byte) {
	t.Helper()
	if _, err := s.store(t.Context(), subject, msg); err != nil {
		t.Fatal(err)
	}
}

func TestStrangerStopsPartition(t *testing.T) {
	foreign := encode(9, 9, 12345, time.Unix(1, 0), []Record{{Kind: KindTakeover, Data: []byte("other")}})
	cases := map[string]struct {
		intrude func(t *testing.T, p *Partition)
		write   func(p *Partition) error
	}{
		"in the log": {
			func(t *testing.T, p *Partition) { intrude(t, p.log, logSubject, foreign) },
			func(p *Partition) error { _, err := p.Append(t.Context(), []Record{eventRecord("x")}); return err },
		},
		"in the journal": {
			func(t *testing.T, p *Partition) { intrude(t, p.journal.stream, journalSubject, foreign) },
			func(p *Partition) error { _, err := p.Journal().Append(t.Context(), []byte("x")); return err },
		},
		"in the log, purged since": {
			func(t *testing.T, p *Partition) {
				for range 3 {
					intrude(t, p.log, logSubject, foreign)
				}
				if err := p.log.purge(t.Context(), p.last.Load()+3); err != nil {
					t.Fatal(err)
				}
			},
			func(p *Partition) error { _, err := p.Append(t.Context(), []Record{eventRecord("x")}); return err },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := open(t, Options{}).Partition()
			mustAppend(t, p, eventRecord("ours"))
			c.intrude(t, p)
			if err := c.write(p); !fault.Is(err, fault.Unavailable) || !errors.Is(err, errFenced) {
				t.Fatalf("write after a stranger's: %v", err)
			}
			if _, err := p.Append(t.Context(), []Record{eventRecord("y")}); !fault.Is(err, fault.Unavailable) {
				t.Errorf("append after the stop: %v", err)
			}
			if _, err := p.Journal().Append(t.Context(), []byte("y")); !fault.Is(err, fault.Unavailable) {
				t.Errorf("journal append after the stop: %v", err)
			}
			if !errors.Is(p.Err(), errFenced) {
				t.Errorf("partition says %v", p.Err())
			}
		})
	}
}

func TestFirstMessageIsFenced(t *testing.T) {
	e := open(t, Options{})
	s, err := e.node.ensure(t.Context(), streamConfig("X", "x"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := newFencedWriter(s, "x", func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	intrude(t, s, "x", []byte("stranger's message"))
	if err := w.write(t.Context(), make([]byte, 20)); !errors.Is(err, errFenced) {
		t.Errorf("first message of an owner that believes the stream empty: %v", err)
	}
}

// TestLostAcks loses the ack, the message, or both, and wants each message once.
func TestLostAcks(t *testing.T) {
	cases := map[string]func(w *fencedWriter) (repair func()){
		"ack lost, message stored": func(w *fencedWriter) func() {
			inbox := w.acks.inbox
			w.acks.inbox = "nobody.listens."
			return func() { w.acks.inbox = inbox }
		},
		"message lost": func(w *fencedWriter) func() {
			w.subject = "nobody.stores"
			return func() { w.subject = logSubject }
		},
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			p := open(t, Options{}).Partition()
			mustAppend(t, p, eventRecord("a"))
			p.writer.limit = 20 * time.Millisecond
			repair := lose(p.writer)
			var told []bool
			p.writer.stuck = func(err error) {
				told = append(told, err != nil)
				p.engine.lateness.set(logStream, err)
				if err != nil {
					repair()
				}
			}
			b := mustAppend(t, p, eventRecord("b"))
			p.writer.limit = ackLimit
			c := mustAppend(t, p, eventRecord("c"))
			if b.Seq != 3 || c.Seq != 4 || fmt.Sprint(events(t, p, 0)) != "[a b c]" {
				t.Errorf("b in frame %d, c in frame %d, events %v", b.Seq, c.Seq, events(t, p, 0))
			}
			if fmt.Sprint(told) != "[true false]" || p.Err() != nil {
				t.Errorf("told %v, now %v", told, p.Err())
			}
		})
	}
}

func TestStoreRefusal(t *testing.T) {
	e := open(t, Options{})
	p := e.Partition()
	a := mustAppend(t, p, eventRecord("a"))
	c := streamConfig(logStream, logSubject)
	c.MaxMsgSize = 200
	if _, err := e.node.ensure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Append(t.Context(), []Record{eventRecord(strings.Repeat("x", 500))}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("refused by the store: %v", err)
	}
	if b := mustAppend(t, p, eventRecord("b")); b.Seq != a.Seq+1 {
		t.Errorf("frame %d after %d: the refused frame left a gap", b.Seq, a.Seq)
	}
}

func TestWriterGivesUpWithItsContext(t *testing.T) {
	p := open(t, Options{}).Partition()
	w, err := newFencedWriter(p.log, "nobody.stores", func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	w.last = p.last.Load()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errDone)
	defer cancel()
	if err := w.write(ctx, make([]byte, 20)); !errors.Is(err, errDone) {
		t.Errorf("got %v", err)
	}
}
