package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// storedIDs reads the ids of logged events.
func storedIDs(t *testing.T, events []LoggedEvent) (ids []string) {
	t.Helper()
	for _, e := range events {
		var parsed event.Event
		if err := parsed.Parse(e.Event, e.Schema); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, string(parsed.ID))
	}
	return ids
}

func newest(t *testing.T, b *Broker, stream resource.Stream, n int, back *LookBack) (events []LoggedEvent) {
	t.Helper()
	for e, err := range b.Newest(t.Context(), stream, back) {
		if err != nil {
			t.Fatal(err)
		}
		if events = append(events, e); len(events) == n {
			break
		}
	}
	return events
}

// smallLookBack bounds looks back for one test.
func smallLookBack(t *testing.T, most, on int64) {
	a, b := maxLookBack, countOn
	maxLookBack, countOn = most, on
	t.Cleanup(func() { maxLookBack, countOn = a, b })
}

func TestNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := one(t, &handler{}, testSubscription(0, filter.Filter{}))
		const other = resource.UID(0x71)
		for i := range 300 { // frames of 1 to 3 events, of two topics by turns
			publish(t, p.Broker, 10*i, 1+i%3, "s")
			if i%2 == 0 {
				if err := p.Publish(t.Context(), other, []event.Event{testEvent("other", "s")}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var want []string
		for i := 299; i >= 0; i-- {
			for r := i % 3; r >= 0; r-- {
				want = append(want, strconv.Itoa(10*i+r))
			}
		}
		var back LookBack
		if got := storedIDs(t, newest(t, p.Broker, testStream, 0, &back)); !slices.Equal(got, want) {
			t.Errorf("%d events %v, want %d", len(got), got, len(want))
		}
		if back.Frames != 450 || back.Cut || back.Oldest.IsZero() {
			t.Errorf("read %+v, want 450 frames", back)
		}
		if got := storedIDs(t, newest(t, p.Broker, testStream, 5, nil)); !slices.Equal(got, want[:5]) {
			t.Errorf("the last five are %v", got)
		}
		if got := newest(t, p.Broker, resource.Stream{Topic: other}, 0, nil); len(got) != 150 || got[0].Position <= got[1].Position || got[0].Sequencer <= got[1].Sequencer {
			t.Errorf("%d events of the other topic", len(got))
		}
		if got := newest(t, p.Broker, resource.Stream{Topic: 1}, 0, nil); got != nil {
			t.Errorf("a topic that nobody knows has events %v", got)
		}
		finish(t, p)
	})
	t.Run("bound", func(t *testing.T) {
		smallLookBack(t, 6400, 0) // 64 frames of the fake log
		synctest.Test(t, func(t *testing.T) {
			p := one(t, &handler{}, testSubscription(0, filter.Filter{}))
			for i := range 200 {
				publish(t, p.Broker, i, 1, "s")
			}
			var back LookBack
			if got := newest(t, p.Broker, testStream, 0, &back); len(got) != 64 || !back.Cut || back.Bytes != 6400 {
				t.Errorf("%d events, %+v", len(got), back)
			}
			_, err := p.FindEvent(t.Context(), testStream, "3")
			if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "among the newest 64 events") || !strings.Contains(err.Error(), "by its sequencer") {
				t.Errorf("not found: %v", err)
			}
			finish(t, p)
		})
	})
}

func TestFindEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := one(t, &handler{}, testSubscription(0, filter.Filter{}))
		publish(t, p.Broker, 0, 3, "s")
		publish(t, p.Broker, 1, 1, "twice")
		odd := testEvent(`quoted "id"`, "s")
		escaped := testEvent("x", "s")
		escaped.Raw = []byte(strings.Replace(string(escaped.Raw), `"id":"x"`, `"id":"e\u0073c"`, 1))
		if err := p.Publish(t.Context(), testTopicUID, []event.Event{odd, escaped}); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, ask, id string
			frame, index  int
			same          int
		}{
			{"by id", "2", "2", 1, 2, 1},
			{"the newest of two", "1", "1", 2, 0, 2},
			{"by sequencer", fmt.Sprintf("%016x%012x%04x", 7, 1, 1), "1", 1, 1, 0},
			{"by sequencer in capitals", strings.ToUpper(fmt.Sprintf("%016x%012x%04x", 7, 3, 1)), "esc", 3, 1, 0},
			{"by position", fmt.Sprintf("%012x%04x", 3, 0), `quoted "id"`, 3, 0, 0},
			{"an id that is escaped in the log", "esc", "esc", 3, 1, 1},
			{"an id that has to be escaped", `quoted "id"`, `quoted "id"`, 3, 0, 1},
		} {
			e, err := p.FindEvent(t.Context(), testStream, tt.ask)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			if id := storedIDs(t, []LoggedEvent{e})[0]; id != tt.id || e.Position.Seq() != uint64(tt.frame) || e.Position.Index() != tt.index || e.SameID != tt.same || e.PublishTime.IsZero() {
				t.Errorf("%s: %s at %s, %d of that id", tt.name, id, e.Position, e.SameID)
			}
		}
		for _, tt := range []struct{ name, ask string }{
			{"no such id", "nothing"}, {"generation of another log", fmt.Sprintf("%016x%012x%04x", 8, 1, 1)}, {"behind the end", fmt.Sprintf("%012x%04x", 99, 0)},
			{"no such record", fmt.Sprintf("%012x%04x", 1, 7)}, {"no hex", "zzzzzzzzzzzzzzzz"}, {"part of an id", "quoted"},
		} {
			if _, err := p.FindEvent(t.Context(), testStream, tt.ask); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "among the 6 events") {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if _, err := p.FindEvent(t.Context(), resource.Stream{Topic: 1}, fmt.Sprintf("%012x%04x", 1, 1)); !fault.Is(err, fault.NotFound) {
			t.Errorf("found in another topic: %v", err)
		}
		finish(t, p)
	})
}
