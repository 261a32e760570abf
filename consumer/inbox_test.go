package consumer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
)

func TestMemory(t *testing.T) {
	consumertest.TestInbox(t, func(*testing.T) consumer.Inbox { return consumer.NewMemory(1000, time.Hour) })
}

// TestMemoryForgets holds what is forgotten against the bounds.
func TestMemoryForgets(t *testing.T) {
	now := time.Now()
	m := consumer.NewMemory(100, time.Hour)
	consumer.SetMemoryNow(m, func() time.Time { return now })
	entry := func(n int) consumer.Entry {
		return consumer.Entry{Source: "s", ID: fmt.Sprint(n), Subject: fmt.Sprint("subject", n), Sequencer: "5"}
	}
	judge := func(e consumer.Entry) consumer.Verdict {
		v, err := m.Begin(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for n := range 1000 {
		if err := m.End(t.Context(), entry(n), true); err != nil {
			t.Fatal(err)
		}
	}
	known := 0
	for n := range 1000 {
		older := entry(n)
		older.ID = "older"
		older.Sequencer = "4"
		v, o := judge(entry(n)), judge(older)
		if n >= 900 && (v != consumer.Seen || o != consumer.Older) {
			t.Errorf("one of the latest 100, %d, is %s and %s", n, v, o)
		}
		if v == consumer.Seen {
			known++
		}
	}
	if known > 200 {
		t.Errorf("it remembers %d events", known)
	}
	now = now.Add(59 * time.Minute)
	if v := judge(entry(999)); v != consumer.Seen {
		t.Errorf("after 59 minutes: %s", v)
	}
	now = now.Add(61 * time.Minute)
	if v := judge(entry(999)); v != consumer.Unseen {
		t.Errorf("after two hours: %s", v)
	}
}

// TestMemoryNumberAlone has no age.
func TestMemoryNumberAlone(t *testing.T) {
	for _, age := range []time.Duration{0, -time.Hour} {
		now := time.Now()
		m := consumer.NewMemory(2, age)
		consumer.SetMemoryNow(m, func() time.Time { now = now.Add(1000 * time.Hour); return now })
		for n := range 5 {
			if err := m.End(t.Context(), consumer.Entry{Source: "s", ID: fmt.Sprint(n)}, true); err != nil {
				t.Fatal(err)
			}
		}
		for id, want := range map[string]consumer.Verdict{"0": consumer.Unseen, "3": consumer.Seen, "4": consumer.Seen} {
			if v, err := m.Begin(t.Context(), consumer.Entry{Source: "s", ID: id}); v != want || err != nil {
				t.Errorf("age %s: %s is %s, %v", age, id, v, err)
			}
		}
	}
}
