// Command drift-retrain is the handler of the example: when orders drift it trains a new
// model, and when a model is registered as a candidate it deploys it. README.md tells
// the story.
//
//	drift-retrain generate DIR   writes the orders of some weeks
//	drift-retrain handle ADDR    waits for events
package main

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"

	"github.com/carillon-events/carillon/mlevent"
)

func main() {
	log.SetFlags(0)
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "generate":
		err = generate(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "handle":
		err = handle(os.Args[2])
	default:
		err = fmt.Errorf("usage: drift-retrain generate DIR, or drift-retrain handle ADDR")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// handler holds what the handler was told in its environment.
type handler struct {
	carillon *carillon
	key      string // that callers must know
	orders   string // directory that generate wrote to
}

func handle(addr string) error {
	c, err := connect()
	if err != nil {
		return err
	}
	h := &handler{carillon: c, key: os.Getenv("HANDLER_KEY"), orders: os.Getenv("ORDERS")}
	if h.key == "" || h.orders == "" {
		return fmt.Errorf("HANDLER_KEY and ORDERS must be set")
	}
	return http.ListenAndServe(addr, h)
}

// ServeHTTP takes a delivery. It answers at once: what takes long is begun before the
// answer, under a name of its own, and done after it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.URL.Query().Get("code")), []byte(h.key)) != 1 {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	var events []struct {
		EventType string
		Data      json.RawMessage
	}
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(raw, &events)
	}
	if err != nil || len(events) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.Header.Get("aeg-event-type") == "SubscriptionValidation" { // the handshake
		var data struct{ ValidationCode string }
		_ = json.Unmarshal(events[0].Data, &data)
		_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": data.ValidationCode})
		return
	}
	for _, e := range events {
		if err := h.take(e.EventType, e.Data); err != nil {
			log.Printf("%s is not done, it will come again: %v", e.EventType, err)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
}

// take does what an event asks for. Doing it twice is doing it once.
func (h *handler) take(eventType string, data json.RawMessage) error {
	switch eventType {
	case mlevent.DatasetDriftDetectedType:
		e, err := mlevent.ParseDatasetDriftDetected(data)
		if err != nil {
			return err
		}
		return h.retrain(e)
	case mlevent.ModelRegisteredType:
		e, err := mlevent.ParseModelRegistered(data)
		if err != nil {
			return err
		}
		return h.deploy(e)
	case mlevent.DriftClearedType:
		e, err := mlevent.ParseDriftCleared(data)
		if err == nil {
			log.Printf("cleared: the orders of %.10s are like those that the model knows, coefficient %.2f", e.StartTime, e.DriftCoefficient)
		}
		return err
	}
	return nil // somebody else's
}

// retrain starts a training on the orders that drifted. Its run is named after the
// drift run: whoever makes it trains, and an event that comes again makes none.
func (h *handler) retrain(e mlevent.DatasetDriftDetected) error {
	run := "experiments/orders-training/runs/after-" + e.RunID
	made, err := h.carillon.create(run, map[string]any{"status": "Running", "properties": map[string]string{"dataDriftName": e.DataDriftName, "since": e.StartTime}})
	if err != nil || !made {
		return err
	}
	log.Printf("drift of %s: the orders of %.10s moved, coefficient %.2f; training begins", e.DataDriftName, e.StartTime, e.DriftCoefficient)
	for _, d := range e.DriftDetails {
		if d.Drifted {
			log.Printf("  %s: %s", d.Column, d.Change)
		}
	}
	go func() {
		if err := h.train(e, run); err != nil {
			log.Printf("the training failed: %v", err)
			_ = h.carillon.change(run, map[string]any{"status": "Failed", "properties": map[string]string{"error": err.Error()}})
		}
	}()
	return nil
}

// train stands for your training: it learns the mean amount of an order, registers
// that as a model, and has the monitor compare with what it was trained on from now on.
func (h *handler) train(e mlevent.DatasetDriftDetected, run string) error {
	live := filepath.Join(h.orders, "live", e.StartTime[:len("2006-01-02")]+".csv")
	mean, rows, err := meanAmount(live)
	if err != nil {
		return err
	}
	version, err := h.carillon.register("orders", map[string]any{
		"runId":      "after-" + e.RunID,
		"modelUri":   "file://" + live,
		"tags":       map[string]string{"stage": "candidate", "because": "drift"},
		"properties": map[string]string{"meanAmount": fmt.Sprintf("%.2f", mean), "rows": fmt.Sprint(rows)},
	})
	if err != nil {
		return err
	}
	log.Printf("trained: orders:%s on %d orders, mean amount %.2f", version, rows, mean)
	if err := h.carillon.change("driftMonitors/"+e.DataDriftName, map[string]any{"baseline": map[string]string{"uri": live}}); err != nil {
		return err
	}
	log.Printf("from now on %s compares with these orders", e.DataDriftName)
	return h.carillon.change(run, map[string]any{"status": "Completed"})
}

// deploy stands for your deployment: a service for each version, so that an event that
// comes again deploys nothing new and finishes what was cut short.
func (h *handler) deploy(e mlevent.ModelRegistered) error {
	service := "onlineEndpoints/orders-v" + e.ModelVersion
	made, err := h.carillon.create(service, map[string]any{"computeType": "CUSTOM", "modelIds": e.ModelName + ":" + e.ModelVersion, "state": "Transitioning"})
	if err != nil {
		return err
	}
	if err := h.carillon.change(service, map[string]any{"state": "Healthy"}); err != nil {
		return err
	}
	if made {
		log.Printf("deployed: %s:%s, a candidate", e.ModelName, e.ModelVersion)
	}
	return nil
}
