package cli

import (
	"context"
	"fmt"
	"sync"
)

// The burst of the demonstration's second act.
const (
	burstWorkers = 8
	burstKillAt  = 150 // acknowledged runs at which the server is killed
)

// burst lets runs complete as fast as the server acknowledges them, kills it with
// kill -9 in the middle, starts it again on the same directory, and waits for the
// event of every run that was acknowledged. It returns how many never came.
func (d *demo) burst(ctx context.Context) (lost int, err error) {
	d.title("kill -9 in the middle of a burst")
	acknowledged, err := d.completeRunsUntilKilled(ctx)
	if err != nil {
		return 0, err
	}
	before, _ := d.inbox.runs()
	delivered := 0
	for _, run := range acknowledged {
		if before[run] {
			delivered++
		}
	}
	d.note("killed after %s; %d of their events had been delivered", count(len(acknowledged), "acknowledged run"), delivered)
	took, err := d.startServer(ctx)
	if err != nil {
		return 0, err
	}
	d.note("ready again on the same directory after %s", round(took))

	patience, cancel := context.WithTimeout(ctx, d.recovery)
	defer cancel()
	for _, run := range acknowledged {
		if _, ok := d.inbox.first(patience, 0, func(a arrival) bool { return a.runID == run }); !ok {
			lost++
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	_, repeats := d.inbox.runs()
	if lost > 0 {
		d.note("%s", d.paint.red(fmt.Sprintf("✗ %s lost", count(lost, "acknowledged event"))))
		return lost, nil
	}
	d.note("%s the other %d arrived: 0 acknowledged events lost, %d delivered twice (killed before their outcome was written)", d.paint.green("✓"), len(acknowledged)-delivered, repeats)
	return 0, nil
}

// completeRunsUntilKilled records completed runs from several workers, kills the
// server once enough were acknowledged, and returns the acknowledged run ids.
func (d *demo) completeRunsUntilKilled(ctx context.Context) ([]string, error) {
	var (
		mu           sync.Mutex
		acknowledged []string
		enough       = make(chan struct{})
		workers      sync.WaitGroup
		path         = d.workspace() + "/experiments/burst/runs/"
	)
	work, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	for w := range burstWorkers {
		workers.Go(func() {
			for i := 0; ; i++ {
				run := fmt.Sprintf("burst-%d-%d", w, i)
				if d.client.Put(work, path+run, enveloped(map[string]any{"status": "Completed"}), nil) != nil {
					return // killed: this one was not acknowledged
				}
				mu.Lock()
				acknowledged = append(acknowledged, run)
				if len(acknowledged) == burstKillAt {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-work.Done():
	}
	err := d.serving.kill()
	workers.Wait()
	if err != nil {
		return nil, err
	}
	if len(acknowledged) < burstKillAt {
		return nil, fmt.Errorf("the server acknowledged %d runs only within %s:\n%s", len(acknowledged), d.patience, d.serving.log.text())
	}
	return acknowledged, ctx.Err()
}
