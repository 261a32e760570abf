package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/consumer"
)

// maxDelivery is the largest request that listen reads: a full batch of 1 MiB
// events would not fit, but no destination of a person's terminal wants one.
const maxDelivery = 16 << 20

func (a *app) listenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "listen", Short: "Be a handler: answer handshakes and print what arrives", Args: noArguments,
		Long: "Be a handler: answer both validation handshakes and print what arrives. With --subscribe\nit also makes the event subscription that leads to it, on the current workspace or on\n--source-resource-id; the filter flags are that one's. It goes when listen ends, with what\nwaits for it, unless --keep is given; if listen is killed, it takes no more events after two\nhours, and goes. One that is there already stays as it is: it is joined if its events come to\nthis listener anyway, and else refused. Without --subscribe no server is needed.\n\nWith --forward the server need not reach this machine: events are received over a connection\nthat listen makes, each is posted to the URL as a webhook would get it, and the answer decides\nas for a webhook: 200 to 204 is delivered, 400, 401, 403 and 413 make a dead letter, anything\nelse has it come again. With --signing or --signing-key what is posted is signed.",
		Example: `  carillon listen --subscribe to-my-terminal
  carillon listen --forward http://localhost:3000/events --included-event-types Microsoft.MachineLearningServices.ModelRegistered
  carillon listen --forward http://localhost:3000/events --signing v1     # shows the key whsec_… for the handler
  carillon listen --port 9000 --path /hooks -o json
  carillon listen --status 503 --delay 2s     # a handler in trouble`}
	listen := cmd.Flags().String("listen", "127.0.0.1:0", "Address to listen on; port 0 takes a free one.")
	port := cmd.Flags().Int("port", 0, "Port to listen on, at 127.0.0.1.")
	path := cmd.Flags().String("path", "", "Take deliveries at this path only; every path by default.")
	status := cmd.Flags().Int("status", http.StatusOK, "Status to answer deliveries with; handshakes are always answered.")
	delay := cmd.Flags().Duration("delay", 0, "How long to wait before a delivery is answered.")
	subscribe := cmd.Flags().String("subscribe", "", "Create the event subscription of this name for it, until listen ends.")
	keep := cmd.Flags().Bool("keep", false, "With --subscribe: leave the event subscription behind.")
	forward := cmd.Flags().String("forward", "", "Post the events of a server to this URL, which the server need not reach.")
	from := a.bySource(cmd)
	filters := filterFlags(cmd)
	schema := cmd.Flags().String("event-delivery-schema", "EventGridSchema", "With --subscribe or --forward: EventGridSchema, CloudEventSchemaV1_0 or CustomInputSchema.")
	sign := a.forwardSigningFlags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-delivery-schema",
		cobra.FixedCompletions([]string{"EventGridSchema", "CloudEventSchemaV1_0", "CustomInputSchema"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("subscribe", a.completeNames(offered(from)))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		address := *listen
		if cmd.Flag("port").Changed {
			address = "127.0.0.1:" + strconv.Itoa(*port)
		}
		if *status < 200 || *status > 599 {
			return usagef(cmd, "--status %d is not an answer to a delivery: it is 200 to 599.", *status)
		}
		if *forward != "" {
			for _, other := range []string{"listen", "port", "path", "status", "delay"} {
				if cmd.Flag(other).Changed {
					return usagef(cmd, "--%s is of a handler of its own; with --forward %s is the handler.", other, *forward)
				}
			}
			if err := handlerFits(cmd, *forward); err != nil {
				return err
			}
			if *subscribe == "" {
				*subscribe = "listen-" + uuid.NewString()[:8]
			}
		} else if cmd.Flag("signing").Changed || cmd.Flag("signing-key").Changed {
			return usagef(cmd, "--signing is of --forward: what a server sends itself it signs by event-subscription create --signing.")
		}
		subscription, chosen := map[string]any{}, false
		if *subscribe != "" {
			word, err := oneOf(cmd, "event-delivery-schema", *schema, "EventGridSchema", "CloudEventSchemaV1_0", "CustomInputSchema")
			if err != nil {
				return err
			}
			filter := map[string]any{}
			if err := filters(filter); err != nil {
				return err
			}
			// With --forward the schema is none of the event subscription's settings.
			chosen = len(filter) > 0 || *forward == "" && cmd.Flag("event-delivery-schema").Changed
			subscription = map[string]any{"filter": filter, "eventDeliverySchema": word}
			if err := segment(cmd, "event subscription", *subscribe); err != nil {
				return err
			}
		}
		l := &listened{app: a, name: *subscribe, properties: subscription, chosen: chosen, keep: *keep}
		if *subscribe != "" {
			base, err := from()
			if err != nil {
				return err
			}
			l.path = base + "/" + *subscribe
		}
		if *forward != "" {
			f := &forwarder{listened: l, out: a.stdout, paint: a.painter(), json: a.output == "json", handler: *forward, schema: subscription["eventDeliverySchema"].(string)}
			if err := sign(f); err != nil {
				return err
			}
			return f.run(cmd.Context())
		}
		r := &receiver{out: a.stdout, paint: a.painter(), json: a.output == "json", path: *path, status: *status, delay: *delay}
		return r.run(cmd.Context(), address, func(ctx context.Context, url string) error {
			if *subscribe == "" {
				return nil
			}
			l.alone, l.fits = true, func(es json.RawMessage) bool {
				return text(es, "properties.destination.properties.endpointBaseUrl") == url
			}
			subscription["destination"] = map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": url}}
			if err := l.begin(ctx); err != nil {
				return err
			}
			if l.made {
				fmt.Fprintf(a.stderr, "event subscription %s: %s\n", *subscribe, text(l.es, "properties.provisioningState"))
			}
			go l.hold(ctx)
			return nil
		}, l.leave)
	}
	return cmd
}

// receiver is a handler: it answers both validation handshakes and prints every
// event that it gets. Source: spec/delivery.md sections 1 and 2.
type receiver struct {
	mu     sync.Mutex // one event at a time is printed
	out    io.Writer
	paint  paint
	json   bool
	path   string // "" = every path
	status int
	delay  time.Duration

	handshakes *consumer.Handler
}

// farewell is how long a listener that ends takes leave of its server.
const farewell = 5 * time.Second

// run serves until ctx ends. ready is called with the URL once requests are taken; leave
// at the end, while they still are.
func (r *receiver) run(ctx context.Context, address string, ready func(ctx context.Context, url string) error, leave func(ctx context.Context)) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for deliveries: %w", err)
	}
	if r.handshakes, err = r.agree(); err != nil {
		return err
	}
	url := handlerURL(listener.Addr(), r.path)
	r.announce(url)
	srv := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	if err = ready(ctx, url); err == nil {
		select {
		case err = <-failed:
			err = fmt.Errorf("take deliveries: %w", err)
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		err = nil // the user ended it, perhaps while it subscribed
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	leave(last)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if stopping := srv.Shutdown(stop); err == nil && stopping != nil && !errors.Is(stopping, context.DeadlineExceeded) {
		return fmt.Errorf("stop taking deliveries: %w", stopping)
	}
	return err
}

// handlerURL is where a handler on an address is reached from this machine.
func handlerURL(at net.Addr, path string) string {
	host, port, _ := net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/" + strings.TrimLeft(path, "/")
}

func (r *receiver) announce(url string) {
	if r.json {
		r.line(map[string]any{"listening": url})
		return
	}
	r.printf("listening on %s\n", r.paint.bold(url))
}

// ServeHTTP answers one request of the event service.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.path != "" && strings.Trim(req.URL.Path, "/") != strings.Trim(r.path, "/") {
		http.NotFound(w, req)
		return
	}
	switch req.Method {
	case http.MethodOptions:
		r.handshakes.ServeHTTP(w, req)
	case http.MethodPost:
		r.take(w, req)
	case http.MethodGet, http.MethodHead:
		fmt.Fprintln(w, "carillon listen: deliveries are posted here")
	default:
		w.Header().Set("Allow", "GET, OPTIONS, POST")
		http.Error(w, "only GET, OPTIONS and POST are known here", http.StatusMethodNotAllowed)
	}
}

// agree returns what answers handshakes: of every topic and origin, and each is printed. No
// event gets there.
func (r *receiver) agree() (*consumer.Handler, error) {
	return consumer.New(consumer.Topics("*"), consumer.Origins("*"), consumer.WithLogger(slog.New(slog.DiscardHandler)),
		consumer.OnHandshake(func(_ context.Context, asked consumer.Handshake) error {
			if asked.Origin != "" {
				r.handshake("CloudEvents OPTIONS", "origin "+asked.Origin)
			} else {
				r.handshake("SubscriptionValidation", "event subscription "+asked.EventSubscription)
			}
			return nil
		}),
		consumer.OnOther(func(context.Context, consumer.Event[json.RawMessage]) error { return nil }))
}

// take is a POST: the handshake of the Event Grid schema, or a delivery.
func (r *receiver) take(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxDelivery))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusRequestEntityTooLarge)
		return
	}
	if !json.Valid(body) {
		http.Error(w, "the body is not JSON", http.StatusBadRequest)
		return
	}
	events := splitEvents(body)
	const kind = "Aeg-Event-Type"
	if isValidation(events) && !strings.EqualFold(req.Header.Get(kind), "Notification") { // else somebody published it
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.Header.Set("Content-Type", "application/json") // whoever asks by hand may leave out both
		req.Header.Set(kind, "SubscriptionValidation")
		r.handshakes.ServeHTTP(w, req)
		return
	}
	for _, e := range events {
		r.delivered(req.Header, e)
	}
	if r.delay > 0 {
		timer := time.NewTimer(r.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			return
		}
	}
	w.WriteHeader(r.status)
}

// isValidation reports whether the events are the question of a handshake.
// Source: spec/delivery.md section 1.2.
func isValidation(events []json.RawMessage) bool {
	return len(events) == 1 && strings.EqualFold(text(events[0], "eventType"), "Microsoft.EventGrid.SubscriptionValidationEvent")
}

// deliveryHeaders are the headers of a delivery that are shown.
// Source: spec/delivery.md section 2.1.
var deliveryHeaders = []string{"Content-Type", "aeg-event-type", "aeg-subscription-name", "aeg-delivery-count", "aeg-data-version",
	"aeg-metadata-version", "aeg-output-event-id", "WebHook-Request-Origin", "carillon-replay", "carillon-test"}

func (r *receiver) delivered(header http.Header, e json.RawMessage) {
	shown := map[string]string{}
	for _, name := range deliveryHeaders {
		if value := header.Get(name); value != "" {
			shown[strings.ToLower(name)] = value
		}
	}
	now := time.Now()
	if r.json {
		r.line(map[string]any{"receivedTime": now.UTC().Format(time.RFC3339Nano), "headers": shown, "event": e})
		return
	}
	var notes []string
	if name := shown["aeg-subscription-name"]; name != "" {
		notes = append(notes, "for "+oneLine(name))
	}
	if n, err := strconv.Atoi(shown["aeg-delivery-count"]); err == nil {
		notes = append(notes, fmt.Sprintf("attempt %d", n+1))
	}
	if id := shown["carillon-replay"]; id != "" {
		notes = append(notes, "replay of "+oneLine(id))
	}
	if shown["carillon-test"] != "" {
		notes = append(notes, "test event")
	}
	if strings.EqualFold(shown["aeg-event-type"], "SubscriptionDeletion") {
		notes = append(notes, "its event subscription is gone")
	}
	var b bytes.Buffer
	printEvent(&b, r.paint, now, e, notes...)
	r.printf("%s\n", b.Bytes())
}

func (r *receiver) handshake(kind, detail string) {
	if r.json {
		r.line(map[string]any{"receivedTime": time.Now().UTC().Format(time.RFC3339Nano), "handshake": kind, "detail": detail})
		return
	}
	r.printf("%s  %s %s\n\n", r.paint.faint(time.Now().Format("15:04:05.000")), r.paint.cyan("handshake "+kind), oneLine(detail))
}

// line prints one line of JSON.
func (r *receiver) line(value any) {
	raw, err := encodeJSON(value)
	if err != nil {
		return // only what json.Valid has accepted is printed
	}
	r.printf("%s\n", raw)
}

func (r *receiver) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format, args...)
}
