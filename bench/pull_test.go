package bench

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/carillon-events/carillon/internal/servertest"
)

// BenchmarkPull publishes 100 events a request and has them received and acknowledged by
// 100 at most, by 1 and by 8 receivers, beside the webhook that gets as many in a batch.
func BenchmarkPull(b *testing.B) {
	var hook figure
	b.Run("webhook", func(b *testing.B) {
		hook = walk(b, shape{in: 100, out: 100, connections: 16})
		rate(b, b.N, 0)
	})
	for _, receivers := range []int{1, 8} {
		b.Run(map[int]string{1: "receivers=1", 8: "receivers=8"}[receivers], func(b *testing.B) {
			pull(b, receivers).against(b, hook, 0)
			rate(b, b.N, 0)
		})
	}
}

// pull publishes b.N events and waits until all are acknowledged.
func pull(b *testing.B, receivers int) figure {
	total := max(b.N/100, 1)
	s := servertest.NewLocal(b)
	t := newTopic(b, s)
	s.Must("PUT", t.id+"/providers/Microsoft.EventGrid/eventSubscriptions/inbox",
		map[string]any{"properties": map[string]any{"destination": map[string]any{"endpointType": "Pull", "properties": map[string]any{}}}}, nil)
	ctx, done := context.WithCancel(b.Context())
	defer done()
	ask := func(verb, body string) []byte { // nil when all is done
		r, err := http.NewRequestWithContext(ctx, "POST", s.HTTP()+"/topics/bench/eventsubscriptions/inbox:"+verb, strings.NewReader(body))
		if err != nil {
			b.Error(err)
			return nil
		}
		r.Header.Set("Authorization", "SharedAccessKey "+t.key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			if ctx.Err() == nil {
				b.Error(err)
			}
			return nil
		}
		defer func() { _ = resp.Body.Close() }()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Errorf("%s: %s, %v", verb, resp.Status, err)
			return nil
		}
		return answer
	}
	mark := []byte(`"lockToken":"`)
	began := cpu()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(100 * total))
	var all sync.WaitGroup
	for range receivers {
		all.Go(func() {
			for {
				got := ask("receive?maxEvents=100&maxWaitTime=60", "")
				if got == nil {
					return
				}
				var tokens []string // a real receiver reads the events as well; the webhook's sink does not either
				for at := bytes.Index(got, mark); at >= 0; at = bytes.Index(got, mark) {
					got = got[at+len(mark):]
					tokens = append(tokens, string(got[:bytes.IndexByte(got, '"')]))
				}
				answer := ask("acknowledge", `{"lockTokens":["`+strings.Join(tokens, `","`)+`"]}`)
				if answer == nil || !bytes.HasPrefix(answer, []byte(`{"failedLockTokens":[],`)) {
					b.Errorf("acknowledged: %s", answer)
					return
				}
				if left.Add(-int64(len(tokens))) <= 0 {
					done()
					return
				}
			}
		})
	}
	t.post(body(100), 16, total)
	all.Wait()
	return figure{float64(total*100) / b.Elapsed().Seconds(), reportCPU(b, began, total*100)}
}
