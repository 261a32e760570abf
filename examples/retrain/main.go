// Command retrain runs a command of yours when data drifts, once for each drift run,
// however often the event comes and whenever. README.md says how it is used.
//
//	retrain ADDR COMMAND...
package main

import (
	"cmp"
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
	if _, err := ws.CatchUp(context.Background(), h, consumer.Since(time.Now().Add(-7*24*time.Hour)), nil); err != nil {
		log.Fatal(err) // silence is not success: what drifted while this was down
	}
	log.Fatal(http.ListenAndServe(os.Args[1], h)) //nolint:gosec // behind what ends TLS
}

// handler calls train for what drifted, unless the drift run is not what it was any more.
func handler(ws *consumer.Workspace, key string, inbox consumer.Inbox, train func(context.Context, mlevent.DatasetDriftDetected) error) (*consumer.Handler, error) {
	return consumer.New(consumer.Topics(ws.ID), consumer.Signed(key), consumer.WithInbox(inbox),
		consumer.On(func(ctx context.Context, e consumer.Event[mlevent.DatasetDriftDetected]) error {
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
