package consumertest

import (
	"testing"

	"github.com/carillon-events/carillon/consumer"
)

// TestInbox holds an inbox against what package consumer expects of one. open returns an
// empty inbox.
func TestInbox(t *testing.T, open func(t *testing.T) consumer.Inbox) {
	entry := func(source, id, subject, sequencer string) consumer.Entry {
		return consumer.Entry{Source: source, ID: id, Subject: subject, Sequencer: sequencer}
	}
	tagged := func(source, id, subject, sequencer, etag string) consumer.Entry {
		return consumer.Entry{Source: source, ID: id, Subject: subject, Sequencer: sequencer, ETag: etag}
	}
	type step struct {
		entry   consumer.Entry
		want    consumer.Verdict
		handled bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"an event is seen once it was handled", []step{
			{entry("s", "1", "a", "1"), consumer.Unseen, false}, {entry("s", "1", "a", "1"), consumer.Unseen, true}, {entry("s", "1", "a", "1"), consumer.Seen, false},
		}},
		{"also without an order", []step{
			{entry("s", "1", "a", ""), consumer.Unseen, false}, {entry("s", "1", "a", ""), consumer.Unseen, true}, {entry("s", "1", "a", ""), consumer.Seen, false},
			{entry("s", "2", "a", ""), consumer.Unseen, true},
		}},
		{"ids are of a source", []step{
			{entry("s", "1", "a", ""), consumer.Unseen, true}, {entry("t", "1", "a", ""), consumer.Unseen, true},
			{entry("ab", "c", "a", ""), consumer.Unseen, true}, {entry("a", "bc", "a", ""), consumer.Unseen, true},
			{entry("a", "b\x00c", "a", ""), consumer.Unseen, true}, {entry("a\x00b", "c", "a", ""), consumer.Unseen, true},
		}},
		{"what happened before is older", []step{
			{entry("s", "5", "a", "5"), consumer.Unseen, true}, {entry("s", "4", "a", "4"), consumer.Older, false}, {entry("s", "6", "a", "6"), consumer.Unseen, true},
			{entry("s", "55", "a", "55"), consumer.Older, false}, // text, not numbers
		}},
		{"an older one that was handled is seen, and moves nothing", []step{
			{entry("s", "5", "a", "5"), consumer.Unseen, true}, {entry("s", "3", "a", "3"), consumer.Older, true}, {entry("s", "3", "a", "3"), consumer.Seen, false},
			{entry("s", "4", "a", "4"), consumer.Older, false},
		}},
		{"the order is that of an object", []step{
			{entry("s", "5", "a", "5"), consumer.Unseen, true}, {entry("s", "4", "b", "4"), consumer.Unseen, true}, {entry("t", "3", "a", "3"), consumer.Unseen, true},
			{entry("s", "9", "a", ""), consumer.Unseen, true},
		}},
		{"what failed moves nothing", []step{
			{entry("s", "5", "a", "5"), consumer.Unseen, false}, {entry("s", "4", "a", "4"), consumer.Unseen, true}, {entry("s", "5", "a", "5"), consumer.Unseen, true},
		}},
		{"events of one change have one etag", []step{
			{tagged("s", "5", "a", "5", "x"), consumer.Unseen, true}, {tagged("s", "4", "a", "4", "x"), consumer.Unseen, true}, {tagged("s", "3", "a", "3", "w"), consumer.Older, false},
			{tagged("s", "6", "a", "6", "y"), consumer.Unseen, true}, {tagged("s", "2", "a", "2", "x"), consumer.Older, false},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inbox := open(t)
			for i, s := range c.steps {
				v, err := inbox.Begin(t.Context(), s.entry)
				if err != nil || v != s.want {
					t.Fatalf("step %d: %v is %s, want %s, %v", i+1, s.entry, v, s.want, err)
				}
				if v == consumer.Unseen || v == consumer.Older {
					if err := inbox.End(t.Context(), s.entry, s.handled); err != nil {
						t.Fatalf("step %d: %v", i+1, err)
					}
				}
			}
		})
	}
}
