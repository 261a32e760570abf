package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/internal/servertest"
	"github.com/carillon-events/carillon/mlevent"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// The true server tells of a comparison that finds none, and of drift; the same delivery
// comes again, and once more when the handler has forgotten everything and the drift run is
// gone. What drifted while nobody listened is learned at the next start.
func TestRetrainOnce(t *testing.T) {
	s := servertest.New(t)
	ws := &consumer.Workspace{Server: s.URL, ID: servertest.Workspace, Client: s.Client.HTTP, Token: func(context.Context) (string, error) { return s.Client.Token, nil }}
	const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	trained := make(chan string, 10)
	var failing atomic.Bool
	start := func() *consumer.Handler {
		t.Helper()
		h, err := handler(ws, key, consumer.NewMemory(100, time.Hour), func(_ context.Context, d mlevent.DatasetDriftDetected) error {
			if failing.Swap(false) {
				return errors.New("no machine is free")
			}
			trained <- d.RunID
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := start()
	listening := h
	deliveries := make(chan *http.Request, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		again := r.Clone(context.WithoutCancel(r.Context()))
		again.Body, r.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
		if listening.ServeHTTP(w, r); r.Header.Get("Aeg-Event-Type") == "Notification" {
			deliveries <- again
		}
	}))
	defer server.Close()
	s.Must("PUT", ws.ID+"/driftMonitors/orders", map[string]any{"properties": map[string]any{"baseline": map[string]any{"datasetId": "a"}, "target": map[string]any{"datasetId": "b"}}}, nil)
	s.Must("PUT", ws.ID+"/providers/Microsoft.EventGrid/eventSubscriptions/drift", map[string]any{"properties": map[string]any{
		"filter": map[string]any{"includedEventTypes": []string{mlevent.DatasetDriftDetectedType}},
		"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{
			"endpointUrl": server.URL, "signing": map[string]any{"version": "v1", "key": key},
		}},
	}}, nil)
	drift := func(day string, coefficient float64) {
		t.Helper()
		s.Must("POST", ws.ID+"/driftMonitors/orders/runs", map[string]any{"properties": map[string]any{"startTime": day + "T00:00:00Z", "endTime": day + "T12:00:00Z", "driftCoefficient": coefficient}}, nil)
	}
	drift("2026-02-23", 0.1)
	if <-deliveries; len(trained) != 0 {
		t.Fatal("trained, and nothing drifted")
	}
	drift("2026-03-02", 0.5)
	delivery, first := <-deliveries, <-trained
	redeliver := func(what string) {
		t.Helper()
		r := delivery.Clone(t.Context())
		body, _ := io.ReadAll(delivery.Body)
		delivery.Body, r.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK || len(trained) != 0 {
			t.Errorf("%s: answered %d, %d trainings more", what, w.Code, len(trained))
		}
	}
	redeliver("a duplicate")

	s.Must("DELETE", ws.ID+"/providers/Microsoft.EventGrid/eventSubscriptions/drift", nil, nil)
	drift("2026-03-09", 0.5)
	drift("2026-03-16", 0.1)
	failing.Store(true) // the training itself, at first
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); catchUp(ctx, ws, h, time.Millisecond) }()
	second := <-trained
	cancel()
	if <-ended; second == first || len(trained) != 0 {
		t.Errorf("after an outage: %s after %s, and %d more", second, first, len(trained))
	}
	s.Must("DELETE", ws.ID+"/driftMonitors/orders", nil, nil)
	h = start() // with an empty inbox
	redeliver("of a drift run that is gone")
}
