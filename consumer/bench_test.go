package consumer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// stream makes requests of n events, each event with an id and a sequencer of its own.
type stream struct {
	body   []byte
	places []int // of the numbers in it
	next   int
	reader bytes.Reader
	r      *http.Request
	header http.Header
}

func newStream(n int) *stream {
	s := &stream{header: http.Header{}}
	const number = "0000000000000000"
	s.body = append(s.body, '[')
	for i := range n {
		if i > 0 {
			s.body = append(s.body, ',')
		}
		s.body = fmt.Appendf(s.body, `{"topic":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default",`+
			`"subject":"experiments/7d1c3f4e-90ab-4cde-8f01-23456789abcd/runs/run%d","eventType":"Microsoft.MachineLearningServices.RunCompleted","eventTime":"2026-03-02T09:14:07.5310000Z",`+
			`"id":"5b0f6a52-%04d-5d5c-%s","dataVersion":"2","metadataVersion":"1","data":{"experimentId":"7d1c3f4e-90ab-4cde-8f01-23456789abcd","experimentName":"churn","runId":"run%d",`+
			`"runType":"automl","runTags":{"team":"growth","stage":"candidate"},"runProperties":{"auc":"0.913"},"etag":"0x8DE3A1B2C3D4E5F","sequencer":"0000000000000001%s"}}`, i, i, number, i, number)
	}
	s.body = append(s.body, ']')
	for at := 0; ; {
		i := bytes.Index(s.body[at:], []byte(number[1:]))
		if i < 0 {
			break
		}
		for at += i; s.body[at] == '0'; at++ {
		}
		s.places = append(s.places, at)
	}
	s.r = &http.Request{Method: "POST", Header: http.Header{
		"Content-Type": {"application/json; charset=utf-8"}, "Aeg-Event-Type": {"Notification"}, "Aeg-Subscription-Name": {"ES1"}, "Aeg-Delivery-Count": {"0"},
	}}
	return s
}

// request returns the next request.
func (s *stream) request() *http.Request {
	s.next++
	for _, at := range s.places {
		for i, n := at-1, s.next; n > 0; i, n = i-1, n/10 {
			s.body[i] = byte('0' + n%10)
		}
	}
	s.reader.Reset(s.body)
	s.r.Body, s.r.ContentLength = io.NopCloser(&s.reader), int64(len(s.body))
	return s.r
}

func (s *stream) Header() http.Header         { return s.header }
func (s *stream) Write(b []byte) (int, error) { return len(b), nil }
func (s *stream) WriteHeader(status int) {
	if status != http.StatusOK {
		panic(status)
	}
}

// decode does with a request what any handler has to do: it reads the body, takes the events
// apart and reads their data.
func (s *stream) decode(h *Handler, work func(Event[mlevent.RunCompleted])) error {
	r := s.request()
	body, err := h.readBody(s, r)
	if err == nil {
		err = event.Check(body)
	}
	if err != nil {
		return err
	}
	for c := event.Walk(body); c.Next(); {
		e := Envelope{Delivery: deliveryOf(r.Header)}
		data, err := e.read(c.Value)
		if err != nil {
			return err
		}
		run, err := mlevent.Parse[mlevent.RunCompleted](data)
		if err != nil {
			return err
		}
		work(Event[mlevent.RunCompleted]{e, run})
	}
	return nil
}

func benchHandler(tb testing.TB, options ...Option) *Handler {
	h, err := New(append([]Option{
		Topics("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default"),
		WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
		On(func(_ context.Context, e Event[mlevent.RunCompleted]) error { return nil }),
	}, options...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// BenchmarkHandler measures what the rules cost for each event: handle, less decode.
func BenchmarkHandler(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("events=%d/op=decode", n), func(b *testing.B) {
			h, s := benchHandler(b), newStream(n)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.decode(h, func(Event[mlevent.RunCompleted]) {}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
		})
		b.Run(fmt.Sprintf("events=%d/op=handle", n), func(b *testing.B) {
			h, s := benchHandler(b), newStream(n)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(s, s.request())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
			if got := h.Stats().Handled; got != int64(b.N*n) {
				b.Fatalf("%d events of %d were handled", got, b.N*n)
			}
		})
		b.Run(fmt.Sprintf("events=%d/op=difference", n), func(b *testing.B) {
			h, s := benchHandler(b), newStream(n)
			var more []float64 // the median is what a busy machine leaves alone
			for b.Loop() {
				began := time.Now()
				if err := s.decode(h, func(Event[mlevent.RunCompleted]) {}); err != nil {
					b.Fatal(err)
				}
				decoded := time.Now()
				h.ServeHTTP(s, s.request())
				more = append(more, float64(time.Since(decoded)-decoded.Sub(began)))
			}
			slices.Sort(more)
			b.ReportMetric(more[len(more)/2]/float64(n), "more-ns/event")
		})
	}
}

// TestAllocations holds the handler to two allocations an event beyond decoding.
func TestAllocations(t *testing.T) {
	for _, n := range []int{1, 100} {
		h := benchHandler(t, WithInbox(&forgetful{}))
		s := newStream(n)
		decode := testing.AllocsPerRun(20, func() {
			if err := s.decode(h, func(Event[mlevent.RunCompleted]) {}); err != nil {
				t.Fatal(err)
			}
		})
		handle := testing.AllocsPerRun(20, func() { h.ServeHTTP(s, s.request()) })
		if more := (handle - decode) / float64(n); more > 2 {
			t.Errorf("requests of %d events: %.2f allocations an event beyond the %.2f of decoding", n, more, decode/float64(n))
		}
	}
}

// forgetful is an inbox without maps, which grow at times of their own.
type forgetful struct{}

func (*forgetful) Begin(context.Context, Entry) (Verdict, error) { return Unseen, nil }
func (*forgetful) End(context.Context, Entry, bool) error        { return nil }
