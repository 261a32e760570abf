package broker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
)

// messages is a Sender of messages: it answers each by its number of the sending.
type messages struct {
	answer func(sending, i int) Response

	sendings [][]string // bodies of each
	counts   [][]int
	whole    []Response
}

func (m *messages) Send(_ context.Context, r *Request) Response {
	if r.Fill() != nil {
		return Response{Outcome: Canceled}
	}
	var bodies []string
	var counts []int
	for i := range r.Parts {
		p := &r.Parts[i]
		bodies, counts = append(bodies, string(r.Body[p.From:p.To])), append(counts, p.Count)
		p.Response = m.answer(len(m.sendings), i)
	}
	m.sendings, m.counts = append(m.sendings, bodies), append(m.counts, counts)
	m.whole = append(m.whole, Together(r.Parts))
	return m.whole[len(m.whole)-1]
}

func (m *messages) Close() {}

// TestMessages holds that of an attempt that hands over messages each has its own
// outcome: what was taken is settled, and only the others are tried again.
func TestMessages(t *testing.T) {
	bubble(t, "some fail", func(t *testing.T) {
		m := &messages{answer: func(sending, i int) Response {
			switch {
			case sending == 0: // what is published meanwhile waits, and goes together
				time.Sleep(time.Second)
				return answerOK
			case sending > 1:
				return answerOK
			case i == 1:
				return Response{Outcome: Busy, Detail: "full"}
			case i == 2:
				return Response{Outcome: PayloadTooLarge}
			case i == 3:
				return Response{Outcome: Canceled}
			}
			return answerOK
		}}
		es := limitedTo(0, 0, 1)
		es.Destination.Type, es.Destination.Target = "Nats", &resource.Target{}
		p := startProcess(t, newStore().open(-1), map[string]Sender{es.Name: m}, es)
		publish(t, p.Broker, 9, 1, "s")
		synctest.Wait()
		publish(t, p.Broker, 0, 5, "s")
		time.Sleep(time.Minute)
		synctest.Wait()
		finish(t, p)
		if len(m.sendings) != 4 || len(m.sendings[1]) != 5 {
			t.Fatalf("sendings %q", m.sendings)
		}
		m.sendings, m.counts, m.whole = m.sendings[1:], m.counts[1:], m.whole[1:]
		for i, body := range m.sendings[0] {
			if got := idsIn([]byte("[" + body + "]")); len(got) != 1 || got[0] != fmt.Sprint(i) {
				t.Errorf("message %d is %s", i, body)
			}
		}
		if m.whole[0].Outcome != Busy {
			t.Errorf("the whole counts as %s", m.whole[0].Outcome)
		}
		// what was cut short is sent again at once as if it had not been tried, what the
		// destination was too busy for when its time has come
		if len(m.sendings[1]) != 1 || m.sendings[1][0] != m.sendings[0][3] || m.counts[1][0] != 0 {
			t.Errorf("second sending %q %d", m.sendings[1], m.counts[1])
		}
		if len(m.sendings[2]) != 1 || m.sendings[2][0] != m.sendings[0][1] || m.counts[2][0] != 1 {
			t.Errorf("third sending %q %d", m.sendings[2], m.counts[2])
		}
		all := letters(t, p.Broker)
		if len(all) != 1 || all[0].DeadLetterReason != ReasonTooLarge || string(all[0].Event) != m.sendings[0][2] {
			t.Errorf("dead letters %+v", all)
		}
	})
}

// TestTogether holds what several outcomes say of their destination.
func TestTogether(t *testing.T) {
	for _, tt := range []struct {
		name string
		of   []Outcome
		want Outcome
	}{
		{"nothing was sent", nil, Canceled},
		{"all were taken", []Outcome{Delivered, Delivered}, Delivered},
		{"one was too large", []Outcome{Delivered, PayloadTooLarge}, Delivered},
		{"all were bad", []Outcome{BadRequest, PayloadTooLarge}, BadRequest},
		{"one met a destination that is gone", []Outcome{Delivered, NotFound, BadRequest}, NotFound},
		{"the rest was cut short", []Outcome{Delivered, Canceled}, Delivered},
		{"all were cut short", []Outcome{Canceled, NotAttempted}, Canceled},
	} {
		var parts []Part
		for _, o := range tt.of {
			parts = append(parts, Part{Response: Response{Outcome: o}})
		}
		if got := Together(parts); got.Outcome != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got.Outcome, tt.want)
		}
	}
}
