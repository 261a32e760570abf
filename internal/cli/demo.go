package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

// handlerWork is how long the handler works on each event before it answers, so
// that the kill finds deliveries on their way.
const handlerWork = 40 * time.Millisecond

// Patience of the demonstration.
const (
	readyPatience    = 30 * time.Second // for a process to be ready
	arrivalPatience  = 5 * time.Second  // for one event to arrive
	recoveryPatience = 10 * time.Second // for all events after a kill
	stopPatience     = 5 * time.Second  // for a process to end by itself
)

func (a *app) demoCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "demo", Short: "Show the whole story: a server, a handler, and each of the five events", Args: noArguments,
		Long: "Start a server on an empty temporary directory and a handler as a process of its own,\nlet something happen to runs, a model, an endpoint and a dataset, show each event as it\narrives, and kill the server in the middle of a burst to show that nothing that it\nacknowledged is lost. The exit code is 0 only if all of it went well.",
		Example: `  carillon demo
  carillon demo --keep       # stay up afterwards, for a look around`}
	keep := cmd.Flags().Bool("keep", false, "Stay up afterwards, until interrupted, and keep the directory.")
	verbose := cmd.Flags().Bool("verbose", false, "Show the server's log on standard error.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		self, err := thisProgram()
		if err != nil {
			return err
		}
		d := &demo{app: a, self: self, address: localAddress, patience: arrivalPatience, recovery: recoveryPatience, paint: a.painter(), inbox: newInbox(), keep: *keep, verbose: *verbose}
		return d.run(cmd.Context())
	}
	return cmd
}

// demo is one demonstration.
type demo struct {
	*app
	self     program
	address  func(dir string, life time.Duration) (address, error)
	patience time.Duration // for one event to arrive
	recovery time.Duration // for all of them after a kill
	paint    paint
	keep     bool
	verbose  bool

	dir     string
	listen  string // where the server listens; port 0 until it is known
	serving *child
	handler *child
	client  *arm.Client
	inbox   *inbox
	missing []string // event types that did not arrive
	act     int
}

func (d *demo) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "carillon-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demonstration: %w", err)
	}
	d.dir, d.listen = dir, "127.0.0.1:0"
	defer d.cleanUp()

	d.say("Carillon: something happens to a run, a model, an endpoint or a dataset, and a handler hears of it.")
	d.title("A server on an empty directory")
	took, err := d.startServer(ctx)
	if err != nil {
		return err
	}
	d.note("ready at %s after %s", d.client.BaseURL, round(took))
	if err := d.startHandler(ctx); err != nil {
		return err
	}
	if err := d.lifecycle(ctx); err != nil {
		return err
	}
	lost := 0
	if len(d.missing) == 0 {
		if lost, err = d.burst(ctx); err != nil {
			return err
		}
	}
	return d.conclude(ctx, lost)
}

// startServer starts a server on the demonstration's directory and waits until it
// takes traffic.
func (d *demo) startServer(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	var log io.Writer
	if d.verbose {
		log = d.stderr
	}
	var err error
	if d.serving, err = d.self.start(log, "serve", "--data", d.data(), "--listen", d.listen); err != nil {
		return 0, err
	}
	patience, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	line, err := d.serving.firstLine(patience)
	if err != nil {
		return 0, err
	}
	url, ok := readyURL(line)
	if !ok {
		return 0, fmt.Errorf("the server's first line is %q, not \"ready url=…\"", line)
	}
	took := time.Since(begin)
	at, err := d.address(d.data(), defaultTokenLife)
	if err != nil {
		return 0, err
	}
	roots, err := trust(at.ca)
	if err != nil {
		return 0, err
	}
	d.client = arm.NewClient(url, at.token, roots)
	_, d.listen, _ = strings.Cut(url, "://")
	return took, nil
}

func (d *demo) data() string { return filepath.Join(d.dir, "data") }

// readyURL reads the URL out of the line that serve prints when it takes traffic.
func readyURL(line string) (string, bool) {
	rest, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		return "", false
	}
	for _, word := range strings.Fields(rest) {
		if url, ok := strings.CutPrefix(word, "url="); ok {
			return strings.TrimRight(url, "/"), true
		}
	}
	return "", false
}

// startHandler starts the handler and subscribes it to the workspace's events.
func (d *demo) startHandler(ctx context.Context) error {
	var err error
	if d.handler, err = d.self.start(nil, "listen", "-o", "json", "--delay", handlerWork.String()); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	line, err := d.handler.firstLine(patience)
	if err != nil {
		return err
	}
	url := text([]byte(line), "listening")
	if url == "" {
		return fmt.Errorf("the handler's first line is %q, not its address", line)
	}
	go d.inbox.fill(d.handler.lines)
	d.title("A handler, a process of its own")
	d.note("listening on %s", url)

	d.title("An event subscription on the workspace " + defaultWorkspace)
	body := enveloped(map[string]any{
		"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": url}},
		"filter":      map[string]any{"includedEventTypes": machineLearningEventTypes},
	})
	var made json.RawMessage
	if err := d.client.Put(ctx, d.workspace()+eventSubscriptions+"/demo", body, &made); err != nil {
		return err
	}
	d.note("the handler answered the validation handshake: %s", text(made, "properties.provisioningState"))
	return nil
}

func (d *demo) workspace() string {
	return "/subscriptions/" + defaultSubscription + "/resourceGroups/" + defaultGroup +
		learningWorkspaces + "/" + defaultWorkspace
}

// happening is one thing that happens and the event that must follow.
type happening struct {
	what      string
	eventType string
	subject   string // how the event's subject ends
	do        func(ctx context.Context) error
}

// lifecycle lets each of the five events be raised, and waits for each.
func (d *demo) lifecycle(ctx context.Context) error {
	ws := d.workspace()
	run := func(id string) string { return ws + "/experiments/churn/runs/" + id }
	put := func(path string, properties map[string]any) error {
		return d.client.Put(ctx, path, enveloped(properties), nil)
	}
	patch := func(path string, properties map[string]any) error {
		return d.client.Patch(ctx, path, enveloped(properties), nil)
	}
	d.title("Things happen")
	for _, h := range []happening{
		{"experiment churn: run nightly-1 Running → Completed", "RunCompleted", "/runs/nightly-1", func(context.Context) error {
			if err := put(run("nightly-1"), map[string]any{"status": "Running", "runType": "azureml.PipelineRun", "tags": map[string]string{"team": "growth"}}); err != nil {
				return err
			}
			return patch(run("nightly-1"), map[string]any{"status": "Completed"})
		}},
		{"experiment churn: run nightly-2 Running → Failed", "RunStatusChanged", "/runs/nightly-2", func(context.Context) error {
			if err := put(run("nightly-2"), map[string]any{"status": "Running", "runType": "azureml.PipelineRun"}); err != nil {
				return err
			}
			return patch(run("nightly-2"), map[string]any{"status": "Failed"})
		}},
		{"model churn: a version with tag stage=production is registered", "ModelRegistered", "models/churn:1", func(ctx context.Context) error {
			return d.client.Post(ctx, ws+"/models/churn/versions", enveloped(map[string]any{
				"tags": map[string]string{"stage": "production"}, "runId": "nightly-1"}), nil)
		}},
		{"online endpoint churn-api: churn:1 Transitioning → Healthy", "ModelDeployed", "endpoints/churn-api", func(context.Context) error {
			if err := put(ws+"/onlineEndpoints/churn-api", map[string]any{"computeType": "AKS", "modelIds": "churn:1", "state": "Transitioning"}); err != nil {
				return err
			}
			return patch(ws+"/onlineEndpoints/churn-api", map[string]any{"state": "Healthy"})
		}},
		{"drift monitor orders-weekly: a run finds coefficient 0.41", "DatasetDriftDetected", "", func(ctx context.Context) error {
			monitor := ws + "/driftMonitors/orders-weekly"
			if err := put(monitor, map[string]any{"threshold": 0.2, "baseline": map[string]string{"datasetId": "orders-train"},
				"target": map[string]string{"datasetId": "orders-live"}}); err != nil {
				return err
			}
			return d.client.Post(ctx, monitor+"/runs", enveloped(map[string]any{"startTime": "2026-02-23T00:00:00Z",
				"endTime": "2026-03-02T00:00:00Z", "driftCoefficient": 0.41}), nil)
		}},
	} {
		if err := d.show(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// show lets one thing happen and waits for its event.
func (d *demo) show(ctx context.Context, h happening) error {
	eventType := "Microsoft.MachineLearningServices." + h.eventType
	before := d.inbox.len()
	d.note("%s", h.what)
	begin := time.Now()
	if err := h.do(ctx); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	got, ok := d.inbox.first(patience, before, func(a arrival) bool {
		return a.eventType == eventType && strings.HasSuffix(a.subject, h.subject)
	})
	if !ok {
		d.missing = append(d.missing, eventType)
		d.note("  %s", d.paint.red("✗ "+eventType+" did not arrive in "+d.patience.String()))
		return ctx.Err()
	}
	d.note("  %s %s  %s", d.paint.green("✓"), d.paint.eventType(got.eventType), d.paint.faint(got.subject+", "+round(got.at.Sub(begin))+" later"))
	return nil
}

// conclude says how it went, and stays up if asked to.
func (d *demo) conclude(ctx context.Context, lost int) error {
	if len(d.missing) > 0 || lost > 0 {
		for _, eventType := range d.missing {
			fmt.Fprintf(d.stderr, "error: %s did not arrive.\n", eventType)
		}
		if lost > 0 {
			fmt.Fprintf(d.stderr, "error: %s lost.\n", count(lost, "acknowledged event"))
		}
		if log := d.serving.log.text(); log != "" && !d.verbose {
			fmt.Fprintf(d.stderr, "the end of the server's log:\n%s\n", log)
		}
		return errQuiet
	}
	d.title("All five events arrived, and nothing acknowledged was lost")
	if !d.keep {
		return nil
	}
	d.say("")
	d.say("The server and the handler stay up until Ctrl-C. In another terminal:")
	d.note(`eval "$(carillon env --data %s)"`, d.data())
	d.note("carillon run list")
	d.note("carillon event tail")
	<-ctx.Done()
	return nil
}

func (d *demo) cleanUp() {
	for _, c := range []*child{d.serving, d.handler} {
		if c != nil {
			c.stop(stopPatience)
		}
	}
	if d.keep {
		d.say("kept: " + d.dir)
		return
	}
	_ = os.RemoveAll(d.dir) // a temporary directory; what is left is the system's to sweep
}

func (d *demo) say(line string) { fmt.Fprintln(d.stdout, line) }

func (d *demo) title(line string) {
	d.act++
	fmt.Fprintf(d.stdout, "\n%s %s\n", d.paint.bold(fmt.Sprint(d.act)), d.paint.bold(line))
}

func (d *demo) note(format string, args ...any) {
	fmt.Fprintf(d.stdout, "  "+format+"\n", args...)
}

// round shortens a duration to what a reader wants to know.
func round(t time.Duration) string {
	switch {
	case t < 10*time.Millisecond:
		return t.Round(100 * time.Microsecond).String()
	case t < time.Second:
		return t.Round(time.Millisecond).String()
	default:
		return t.Round(10 * time.Millisecond).String()
	}
}
