package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

// interested is the number of event subscriptions that want every event.
const interested = 10

// BenchmarkUninterested publishes to a topic of 10 event subscriptions that all want
// every event, then to one of 500, of which the same 10 do, and reports the rate at
// which events were published and delivered, and the ratio of the second to the
// first. published/s counts the publish requests alone: a burst is stored faster than
// it is matched, so only the whole walk tells of a rate that lasts.
func BenchmarkUninterested(b *testing.B) {
	var alone float64
	for _, subs := range []int{interested, 500} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			fanOut(b, subs)
			if subs == interested {
				alone = rate(b, b.N, 0)
			} else {
				rate(b, b.N, alone)
				b.ReportMetric(0.8, "bar")
			}
		})
	}
}

// fanOut publishes b.N events, 100 per request, and waits until the interested have
// all of them, up to 100 per request.
func fanOut(b *testing.B, subs int) {
	s := servertest.NewLocal(b)
	total := max(b.N/100, 1)
	handler, bystander := newSink(b, total*100*interested), newSink(b, 1)
	t := newTopic(b, s)
	for i := range subs {
		name, url, filter := fmt.Sprintf("wants-%d", i), handler.url, map[string]any{"subjectBeginsWith": "models/churn:"}
		if i >= interested {
			name, url, filter = fmt.Sprintf("wants-none-%d", i), bystander.url, otherFilter(i)
		}
		t.subscribe(name, batches(url), filter)
	}
	payload := body(100)
	began := cpu()
	b.ResetTimer()
	t.post(payload, 16, total)
	published := b.Elapsed()
	select {
	case <-handler.done:
	case <-time.After(5 * time.Minute):
		b.Fatalf("%d of %d events delivered", handler.count.Load(), handler.want)
	}
	b.StopTimer()
	b.ReportMetric(float64(total*100)/published.Seconds(), "published/s")
	reportCPU(b, began, total*100)
	if n := bystander.count.Load(); n > 0 {
		b.Fatalf("%d events reached event subscriptions that do not want them", n)
	}
}

// otherFilter is a filter that events of this package do not pass. The kinds of
// filters take turns; several look at what the event has.
func otherFilter(i int) map[string]any {
	condition := func(operator, key, member string, operand any) map[string]any {
		return map[string]any{"advancedFilters": []any{map[string]any{"operatorType": operator, "key": key, member: operand}}}
	}
	switch i % 8 {
	case 0:
		return map[string]any{"subjectBeginsWith": fmt.Sprintf("models/fraud-%d:", i)}
	case 1:
		return map[string]any{"includedEventTypes": []string{fmt.Sprintf("bench.event.of.team-%d", i)}}
	case 2:
		return condition("StringIn", "data.owner", "values", []string{fmt.Sprintf("user%d@example.com", i)})
	case 3:
		return condition("NumberGreaterThan", "data.n", "value", 1_000_000+i)
	case 4:
		return condition("StringNotIn", "eventType", "values", []string{"bench.event", fmt.Sprintf("bench.other-%d", i)})
	case 5:
		return condition("IsNotNull", fmt.Sprintf("data.tags.team-%d", i), "values", nil)
	case 6:
		return condition("StringContains", "subject", "values", []string{fmt.Sprintf("churn-%d", i)})
	default:
		return map[string]any{"subjectBeginsWith": "models/churn:", "subjectEndsWith": fmt.Sprintf(":%d", 100+i)}
	}
}
