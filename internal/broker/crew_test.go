package broker

import (
	"context"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestCrew: of the attempts for an event that many want, so many begin at a time as the crew
// has turns: the others when the first have their answers, or have waited a while.
func TestCrew(t *testing.T) {
	const turns, many = 10, 35
	at := func(after ...time.Duration) map[time.Duration]int {
		begun := map[time.Duration]int{}
		for i, d := range after {
			begun[d] = min(turns, many-i*turns)
		}
		return begun
	}
	for _, tt := range []struct {
		name  string
		takes time.Duration // until a handler answers
		short time.Duration // a wait for a processor
		begun map[time.Duration]int
	}{
		{name: "answered soon", takes: time.Millisecond / 2, begun: at(0, time.Millisecond/2, time.Millisecond, 3*time.Millisecond/2)},
		{name: "answered late", takes: time.Minute / 4, begun: at(0, promptWhile, 2*promptWhile, 3*promptWhile)},
		{name: "processors are short", takes: 5 * time.Millisecond, short: time.Hour, begun: at(0, 5*time.Millisecond, 10*time.Millisecond, 15*time.Millisecond)},
		{name: "processors are short, answered late", takes: time.Minute / 4, short: time.Hour, begun: at(0, promptBusy, 2*promptBusy, 3*promptBusy)},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{t: t, answer: func(ctx context.Context, _ asked) Response { return after(ctx, tt.takes, answerOK) }}
			senders := map[string]Sender{}
			var subs []*resource.EventSubscription
			for n := range many {
				es := testSubscription(n, filter.Filter{})
				senders[es.Name], subs = h, append(subs, es)
			}
			p := startProcess(t, newStore().open(-1), senders, subs...)
			p.prompt.most, p.prompt.short = turns, tt.short
			started := time.Now()
			publish(t, p.Broker, 0, 1, "a")
			time.Sleep(20 * time.Second)
			synctest.Wait()
			begun := map[time.Duration]int{}
			for _, a := range h.got() {
				begun[a.at.Sub(started).Round(promptWhile/4)]++
			}
			if !maps.Equal(begun, tt.begun) {
				t.Errorf("begun %v, want %v", begun, tt.begun)
			}
			if p.prompt.turns != 0 || p.prompt.oldest != nil || p.prompt.newest != nil {
				t.Errorf("%d turns are left", p.prompt.turns)
			}
			finish(t, p)
		})
	}
}

// TestCrewStops holds that whoever waits for a turn when the broker stops is not attempted,
// and is when it goes on.
func TestCrewStops(t *testing.T) {
	bubble(t, "many wait", func(t *testing.T) {
		const turns, many = 10, 50
		var asks atomic.Int32
		hang := &handler{t: t, answer: func(ctx context.Context, _ asked) Response {
			asks.Add(1)
			return after(ctx, time.Hour, answerOK)
		}}
		first, second, h := map[string]Sender{}, map[string]Sender{}, &handler{t: t}
		var subs []*resource.EventSubscription
		for n := range many {
			es := testSubscription(n, filter.Filter{})
			first[es.Name], second[es.Name], subs = hang, h, append(subs, es)
		}
		disk := newStore()
		p := startProcess(t, disk.open(-1), first, subs...)
		p.prompt.most = turns
		publish(t, p.Broker, 0, 1, "a")
		synctest.Wait()
		finish(t, p)
		if n := asks.Load(); n != turns {
			t.Errorf("%d attempts before the stop, want %d", n, turns)
		}
		p = startProcess(t, disk.open(-1), second, subs...)
		settleAll(t, p)
		if n := len(h.got()); n != many {
			t.Errorf("%d attempts after it, want %d", n, many)
		}
		finish(t, p)
	})
}
