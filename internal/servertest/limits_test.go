package servertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// TestAllowedRate is kept to by the real process, also over kill -9: a handler that
// allowed 1,200 requests a minute gets three at once and then one every 50 ms.
func TestAllowedRate(t *testing.T) {
	s := New(t)
	var mu sync.Mutex
	var at []time.Time
	seen := map[string]bool{}
	handler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", "*")
			w.Header().Set("WebHook-Allowed-Rate", "1200")
			return
		}
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
		seen[r.Header.Get("aeg-output-event-id")] = true
	}))
	t.Cleanup(handler.Close)
	topic, publish := s.Topic("orders")
	s.Subscribe(topic, "slow", handler.URL, map[string]any{"eventDeliverySchema": "CloudEventSchemaV1_0"})
	if state, perMinute := provisioning(s, topic+"/providers/Microsoft.EventGrid/eventSubscriptions/slow"); state != "Succeeded" || perMinute != 1200 {
		t.Fatalf("%s, %d requests a minute", state, perMinute)
	}
	const events = 60
	began := time.Now()
	for i := range events {
		if err := publish(fmt.Sprintf(`[{"id":"%d","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{},"dataVersion":"1"}]`, i)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			got := len(seen)
			mu.Unlock()
			if got >= n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d events arrived", got, n)
			}
		}
	}
	slow := func(process string, began time.Time, at []time.Time) {
		t.Helper()
		// The bucket holds three. Half of the time is left to how busy this machine is:
		// what is exact is tested in package broker.
		least := time.Duration(len(at)-4) * 50 * time.Millisecond / 2
		if took := at[len(at)-1].Sub(began); took < least {
			t.Errorf("%s process: %d requests within %s", process, len(at), took)
		}
	}
	waitFor(25)
	s.Kill()
	mu.Lock()
	killed := len(at)
	slow("first", began, at)
	mu.Unlock()
	s.Restart()
	waitFor(events)
	mu.Lock()
	defer mu.Unlock()
	slow("second", at[killed], at[killed:])
}
