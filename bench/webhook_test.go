package bench

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// runWebHook runs a handler that counts events that come singly, and gives their number to
// who asks with GET.
func runWebHook(string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	var taken atomic.Int64
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodGet:
				_, _ = fmt.Fprint(w, taken.Load())
			case consents(w, r):
			default:
				_, _ = io.Copy(io.Discard, r.Body)
				taken.Add(1)
			}
		}))
	}()
	return "http://" + l.Addr().String() + "/hook", nil
}

// openWebHookBeside is a webhook beside fasthttp's client with 64 connections, which sends
// the headers of a delivery.
func openWebHookBeside(b *testing.B) counterpart {
	return hookAt(b, func(url string) map[string]any {
		return map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": url}}
	})
}

// openArgoEventsBeside is a trigger that passes events on as they are, beside net/http's
// client.
func openArgoEventsBeside(b *testing.B) counterpart {
	return triggerAt(b, "ArgoEvents", nil, "", func(_ int, event []byte) []byte { return event })
}

// openAirflowBeside is a trigger whose request is made of the whole event by an expression,
// the usual one, beside net/http's client that sends such requests.
func openAirflowBeside(b *testing.B) counterpart {
	return triggerAt(b, "Airflow", map[string]any{"dagId": "retrain"}, "/api/v2/dags/retrain/dagRuns", func(i int, event []byte) []byte {
		return fmt.Appendf(nil, `{"dag_run_id":"carillon__%032x","logical_date":null,"conf":{"event":%s}}`, i, event)
	})
}

// openAirflowFieldsBeside is the same whose expression takes some values from the event.
func openAirflowFieldsBeside(b *testing.B) counterpart {
	return triggerAt(b, "Airflow", map[string]any{"dagId": "retrain", "conf": `{"n": data.n, "model": subject.split("/")[1], "large": data.n > 50}`}, "/api/v2/dags/retrain/dagRuns",
		func(i int, _ []byte) []byte {
			return fmt.Appendf(nil, `{"dag_run_id":"carillon__%032x","logical_date":null,"conf":{"large":false,"model":"churn:%d","n":%d}}`, i, i%100, i%100)
		})
}

// triggerAt is a trigger, which makes a request of each event, beside net/http's client with
// as many connections that posts to the path what body makes.
func triggerAt(b *testing.B, kind string, properties map[string]any, path string, body func(i int, event []byte) []byte) counterpart {
	c := hookAt(b, func(url string) map[string]any {
		of := map[string]any{"url": url}
		maps.Copy(of, properties)
		return map[string]any{"endpointType": kind, "properties": of}
	})
	url := c.destination["properties"].(map[string]any)["url"].(string) + path
	c.raw = func(b *testing.B, _ []byte, n int) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
		defer client.CloseIdleConnections()
		events, more := stored(), upTo(n)
		var wg sync.WaitGroup
		for worker := range 64 {
			wg.Go(func() {
				for i := worker; more(); i++ {
					resp, err := client.Post(url, "application/json", bytes.NewReader(body(i, events[i%100])))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		}
		wg.Wait()
	}
	return c
}

func hookAt(b *testing.B, destination func(url string) map[string]any) counterpart {
	url := spawn(b, "WebHook")
	return counterpart{
		destination: destination(url),
		raw: func(b *testing.B, _ []byte, n int) {
			client := &fasthttp.Client{MaxConnsPerHost: 64, MaxIdleConnDuration: time.Minute, Name: "Microsoft-Azure-EventGrid"}
			defer client.CloseIdleConnections()
			events, more := stored(), upTo(n)
			var wg sync.WaitGroup
			for worker := range 64 {
				wg.Go(func() {
					req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
					defer fasthttp.ReleaseRequest(req)
					defer fasthttp.ReleaseResponse(resp)
					req.SetRequestURI(url)
					req.Header.SetMethod("POST")
					for _, h := range [][2]string{{"Accept", "*/*"}, {"aeg-event-type", "Notification"}, {"aeg-subscription-name", "BENCH"},
						{"aeg-delivery-count", "0"}, {"aeg-data-version", "1"}, {"aeg-metadata-version", "1"}} {
						req.Header.Set(h[0], h[1])
					}
					req.Header.SetContentType("application/json; charset=utf-8")
					for i := worker; more(); i++ {
						req.Header.Set("aeg-output-event-id", uuid.NewString())
						req.SetBodyRaw(fmt.Appendf(nil, "[%s]", events[i%100]))
						if err := client.Do(req, resp); err != nil || resp.StatusCode() != 200 {
							b.Errorf("status %d: %v", resp.StatusCode(), err)
							return
						}
					}
				})
			}
			wg.Wait()
		},
		taken: func() int64 {
			_, text, err := fasthttp.Get(nil, url)
			if err != nil {
				b.Fatal(err)
			}
			n, err := strconv.ParseInt(string(text), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		},
	}
}
