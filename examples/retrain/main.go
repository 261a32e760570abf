// Command retrain runs a command when data drifts, once for each drift run: see README.md.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/boltinbox"
	"github.com/carillon-events/carillon/mlevent"
)

func main() {
	if len(os.Args) < 3 || os.Getenv("WORKSPACE") == "" || os.Getenv("SIGNING_KEY") == "" {
		log.Fatal("usage: retrain ADDR COMMAND..., with WORKSPACE, its resource id, and SIGNING_KEY, whsec_..., in the environment")
	}
	inbox, err := boltinbox.Open("retrain.db", 100_000, 30*24*time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	ws := &consumer.Workspace{Server: os.Getenv("CARILLON_URL"), ID: os.Getenv("WORKSPACE"), Token: func(context.Context) (string, error) { return os.Getenv("CARILLON_TOKEN"), nil }}
	h, err := handler(ws, os.Getenv("SIGNING_KEY"), inbox, func(ctx context.Context, d mlevent.DatasetDriftDetected) error {
		c := exec.CommandContext(ctx, os.Args[2], os.Args[3:]...) // starts a training and ends: it has half a minute
		c.Stdout, c.Stderr, c.Env = os.Stdout, os.Stderr, append(os.Environ(), "DRIFT_RUN="+d.RunID, "DRIFT_MONITOR="+d.DataDriftName, "DRIFT_START="+d.StartTime, "DRIFT_END="+d.EndTime)
		return c.Run()
	})
	if err != nil {
		log.Fatal(err)
	}
	go catchUp(context.Background(), ws, h, time.Minute) // silence is not success: what no event told, and what failed
	log.Fatal(http.ListenAndServe(os.Args[1], h))        //nolint:gosec // behind what ends TLS
}

func catchUp(ctx context.Context, ws *consumer.Workspace, h *consumer.Handler, every time.Duration) {
	for place, err := consumer.Since(time.Now().Add(-7*24*time.Hour)), error(nil); ctx.Err() == nil; <-time.After(every) {
		if place, err = ws.CatchUp(ctx, h, place, nil); err != nil {
			log.Print(err)
		}
	}
}

// handler has train called for what drifted, and not for every comparison, unless it is not so any more.
func handler(ws *consumer.Workspace, key string, inbox consumer.Inbox, train func(context.Context, mlevent.DatasetDriftDetected) error) (*consumer.Handler, error) {
	return consumer.New(consumer.Topics(ws.ID), consumer.Signed(key), consumer.WithInbox(inbox), consumer.On(func(ctx context.Context, e consumer.Event[mlevent.DatasetDriftDetected]) error {
		if e.Data.DriftDetected == nil || !*e.Data.DriftDetected {
			return nil
		} else if fresh, err := ws.Fresh(ctx, e.Envelope); !fresh && (err == nil || errors.Is(err, consumer.ErrGone)) {
			return nil
		} else if err != nil {
			return err
		}
		return train(ctx, e.Data)
	}))
}
