package bench

import (
	"bytes"
	"fmt"
	"io"
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

// openTriggerBeside is a trigger, which makes a request of each event, beside the client of
// net/http that it uses, with as many connections.
func openTriggerBeside(b *testing.B) counterpart {
	c := hookAt(b, func(url string) map[string]any {
		return map[string]any{"endpointType": "ArgoEvents", "properties": map[string]any{"url": url}}
	})
	url := c.destination["properties"].(map[string]any)["url"].(string)
	c.raw = func(b *testing.B, _ []byte, n int) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
		defer client.CloseIdleConnections()
		events, more := stored(), upTo(n)
		var wg sync.WaitGroup
		for worker := range 64 {
			wg.Go(func() {
				for i := worker; more(); i++ {
					resp, err := client.Post(url, "application/json", bytes.NewReader(events[i%100]))
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
