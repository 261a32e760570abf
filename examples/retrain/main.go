// Command retrain runs a command of yours when data drifts, once for each drift run,
// however often the event comes and whenever. README.md says how it is used.
//
//	retrain ADDR COMMAND...
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
		fmt.Fprintln(os.Stderr, "Usage: retrain ADDR COMMAND..., with WORKSPACE, the workspace's resource id, and SIGNING_KEY, whsec_…, set in the environment")
		os.Exit(2)
	}
	inbox, err := boltinbox.Open(cmp.Or(os.Getenv("INBOX"), "retrain.db"), 100_000, 30*24*time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	ws := &consumer.Workspace{
		Server: os.Getenv("CARILLON_URL"), ID: os.Getenv("WORKSPACE"),
		Token: func(context.Context) (string, error) { return os.Getenv("CARILLON_TOKEN"), nil },
	}
	h, err := handler(ws, os.Getenv("SIGNING_KEY"), inbox, func(ctx context.Context, d mlevent.DatasetDriftDetected) error {
		c := exec.CommandContext(ctx, os.Args[2], os.Args[3:]...)
		c.Env = append(os.Environ(), "DRIFT_RUN="+d.RunID, "DRIFT_MONITOR="+d.DataDriftName, "DRIFT_START="+d.StartTime, "DRIFT_END="+d.EndTime)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		return c.Run() // starts a training and ends: a handler has half a minute
	})
	if err != nil {
		log.Fatal(err)
	}
	go catchUp(context.Background(), ws, h, time.Minute)
	log.Fatal(http.ListenAndServe(os.Args[1], h)) //nolint:gosec // behind what ends TLS
}

// catchUp learns what drifted while this was down: silence is not success. What fails comes again.
func catchUp(ctx context.Context, ws *consumer.Workspace, h *consumer.Handler, wait time.Duration) {
	place, err := ws.CatchUp(ctx, h, consumer.Since(time.Now().Add(-7*24*time.Hour)), nil)
	for ; err != nil; place, err = ws.CatchUp(ctx, h, place, nil) {
		log.Printf("%v; again in %s", err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// handler calls train for what drifted: the event comes of every comparison, by a workspace's
// default. A drift run that is not what it was any more is passed over.
func handler(ws *consumer.Workspace, key string, inbox consumer.Inbox, train func(context.Context, mlevent.DatasetDriftDetected) error) (*consumer.Handler, error) {
	return consumer.New(consumer.Topics(ws.ID), consumer.Signed(key), consumer.WithInbox(inbox),
		consumer.On(func(ctx context.Context, e consumer.Event[mlevent.DatasetDriftDetected]) error {
			if e.Data.DriftDetected == nil || !*e.Data.DriftDetected {
				return nil
			}
			fresh, err := ws.Fresh(ctx, e.Envelope)
			if errors.Is(err, consumer.ErrGone) || err == nil && !fresh {
				log.Printf("drift run %s is not as it was: passed over", e.Data.RunID)
				return nil
			} else if err != nil {
				return err
			}
			return train(ctx, e.Data)
		}))
}
