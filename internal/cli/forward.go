package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/destination"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/ingest"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// forwarder receives the events of an event subscription and posts each to a handler as a
// webhook would get it. Source: spec/delivery.md sections 2, 3 and 10.
type forwarder struct {
	*listened
	out     io.Writer
	paint   paint
	json    bool
	handler string              // URL
	schema  string              // in which the handler gets events
	keys    []secret.SigningKey // that sign what is posted; none for no signature
	told    string              // what the handler verifies it with, where it may not have it

	queue  string // path of the requests, up to the verb
	client *http.Client
	away   bool // the server was not there when it was asked last
}

const (
	atOnce      = 8                // events that are received together
	forwardLock = 300              // seconds until one that is not answered comes again: all of them may take handlerTime
	handlerTime = 30 * time.Second // that a handler has. Source: spec/delivery.md section 3.2
	receiveWait = 30               // seconds that the server waits for an event
	receiveAPI  = "2024-06-01"
)

// The waits between requests to a server that is away.
const (
	firstAgain = 250 * time.Millisecond
	lastAgain  = 10 * time.Second
)

// handlerFits refuses a --forward that is no address of a handler.
func handlerFits(cmd *cobra.Command, handler string) error {
	u, err := url.Parse(handler)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return usagef(cmd, "--forward %q is not the URL of a handler: write it like http://localhost:3000/events.", handler)
	}
	return nil
}

// run makes the event subscription, or joins one that is there, and forwards until ctx
// ends, then removes what it made.
func (f *forwarder) run(ctx context.Context) error {
	f.client = &http.Client{Timeout: handlerTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	f.fits = pulled
	f.properties = map[string]any{"filter": f.properties["filter"],
		"destination": map[string]any{"endpointType": resource.DestinationPull, "properties": map[string]any{"receiveLockDurationInSeconds": forwardLock}}}
	// Whether it was made is known, also when the user ends it at once.
	making, cancel := context.WithTimeout(context.WithoutCancel(ctx), handlerTime)
	defer cancel()
	if err := f.begin(making); err != nil {
		return err
	}
	defer f.leave(ctx)
	endpoint, err := url.Parse(text(f.es, "properties.receive.endpoint"))
	if err != nil || text(f.es, "properties.receive.topic") == "" {
		return fault.New(fault.Invalid, "", "The server does not say where events are received: it is older than this command.")
	}
	f.queue = strings.TrimRight(endpoint.Path, "/") + "/topics/" + text(f.es, "properties.receive.topic") + "/eventsubscriptions/" + f.name
	if f.json {
		line := map[string]any{"forwarding": f.handler, "eventSubscription": f.name}
		if f.told != "" {
			line["verifyWith"] = f.told
		}
		f.line(line)
	} else {
		fmt.Fprintf(f.out, "forwarding events of %s to %s\n", f.name, f.paint.bold(f.handler))
		if f.told != "" {
			fmt.Fprintf(f.out, "signed: they are verified with %s\n", f.paint.bold(f.told))
		}
	}
	go f.hold(ctx)
	return f.forward(ctx)
}

// pulled reports whether the events of an event subscription are received.
func pulled(es json.RawMessage) bool {
	return strings.EqualFold(text(es, "properties.destination.endpointType"), resource.DestinationPull)
}

// received is an event with what it is answered by.
type received struct {
	BrokerProperties struct {
		LockToken     string `json:"lockToken"`
		DeliveryCount int    `json:"deliveryCount"`
		DataVersion   string `json:"dataVersion"` // where the event leaves it out
	} `json:"brokerProperties"`
	Event json.RawMessage `json:"event"`
}

// forward receives and posts until ctx ends. A server that is away is asked again.
func (f *forwarder) forward(ctx context.Context) error {
	for again := firstAgain; ; {
		var batch struct{ Value []received }
		err := f.call(ctx, "receive", url.Values{"maxEvents": {strconv.Itoa(atOnce)}, "maxWaitTime": {strconv.Itoa(receiveWait)}}, nil, &batch)
		if ctx.Err() != nil && err != nil {
			return nil
		}
		if fault.Is(err, fault.NotFound) && f.there(ctx) {
			if !pause(ctx, again) {
				return nil
			}
			continue
		}
		if err != nil && !passing(err) {
			return err
		}
		if err != nil {
			if !f.away {
				fmt.Fprintf(f.stderr, "the server is away (%s): it is asked again\n", oneLine(err.Error()))
			}
			f.away = true
			if !pause(ctx, again) {
				return nil
			}
			again = min(2*again, lastAgain)
			continue
		}
		if f.away {
			fmt.Fprintln(f.stderr, "the server is back")
		}
		f.away, again = false, firstAgain
		for i := range batch.Value {
			if !f.one(ctx, &batch.Value[i]) { // the user ends it: others may have the rest at once
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
				defer cancel()
				var rest []string
				for _, e := range batch.Value[i:] {
					rest = append(rest, e.BrokerProperties.LockToken)
				}
				_ = f.call(last, "release", nil, rest, nil) // else they are free when the lock ends
				return nil
			}
		}
	}
}

// passing reports whether an error of the server is one that time mends.
func passing(err error) bool {
	failed, ok := errors.AsType[*fault.Error](err)
	return !ok || failed.Kind == fault.Unavailable || failed.Kind == fault.TooMany || failed.Kind == fault.Internal
}

// pause waits, false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call makes a request of a receiver.
func (f *forwarder) call(ctx context.Context, verb string, query url.Values, tokens []string, out any) error {
	if query == nil {
		query = url.Values{}
	}
	query.Set("api-version", receiveAPI)
	var body any
	if tokens != nil {
		body = map[string][]string{"lockTokens": tokens}
	}
	return f.try(f.app, func(s *remote) error {
		_, err := s.Do(ctx, http.MethodPost, f.queue+":"+verb, query, body, out, nil)
		return err
	})
}

// one posts an event and answers for it; false says that ctx ended before the handler
// answered.
func (f *forwarder) one(ctx context.Context, e *received) bool {
	began := time.Now()
	status, after, err := f.post(ctx, e)
	took := time.Since(began)
	if ctx.Err() != nil && err != nil {
		return false
	}
	verb, wait := verdict(status, after, e.BrokerProperties.DeliveryCount)
	query := url.Values{}
	if verb == "release" {
		query.Set("releaseDelayInSeconds", strconv.Itoa(wait))
	}
	var outcome struct {
		Failed []struct {
			Error struct{ Message string }
		} `json:"failedLockTokens"`
	}
	// What has begun is brought to its end, also when the user ends the command.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	for again := firstAgain; ; again *= 2 {
		answering := f.call(last, verb, query, []string{e.BrokerProperties.LockToken}, &outcome)
		if answering == nil || !passing(answering) || !pause(last, again) {
			if answering != nil {
				fmt.Fprintf(f.stderr, "the server did not take the answer (%s): the event comes again\n", oneLine(answering.Error()))
			}
			break
		}
	}
	for _, failed := range outcome.Failed {
		fmt.Fprintf(f.stderr, "the server did not take the answer (%s): the event comes again\n", oneLine(failed.Error.Message))
	}
	f.tell(began, e, status, err, took, verb, wait)
	return true
}

// post posts an event to the handler; the status is 0 when there was no answer.
func (f *forwarder) post(ctx context.Context, e *received) (status int, after time.Duration, err error) {
	body, header, err := f.delivery(e)
	if err != nil {
		return http.StatusBadRequest, 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.handler, bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	r.Header = header
	destination.Sign(r.Header, text(e.Event, "sequence"), f.keys, body, time.Now())
	answer, err := f.client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20)) // so that the connection is used again
	_ = answer.Body.Close()
	return answer.StatusCode, destination.RetryAfter([]byte(answer.Header.Get("Retry-After")), time.Now()), nil
}

// delivery is the request that a webhook would get. Source: spec/delivery.md sections 2.1
// and 2.2.
func (f *forwarder) delivery(e *received) (body []byte, header http.Header, err error) {
	header = http.Header{"User-Agent": {"Carillon (+https://github.com/carillon-events/carillon)"}, "Accept": {"*/*"}}
	set := func(name, value string) { header[name] = []string{value} } // as spelled
	set("aeg-event-type", "Notification")
	set("aeg-subscription-name", strings.ToUpper(f.name))
	set("aeg-delivery-count", strconv.Itoa(max(e.BrokerProperties.DeliveryCount-1, 0)))
	if sequence := text(e.Event, "sequence"); sequence != "" {
		set("aeg-output-event-id", sequence)
	}
	if f.schema == "CloudEventSchemaV1_0" {
		set("Content-Type", "application/cloudevents+json; charset=utf-8")
		set("Origin", "eventgrid.azure.net")
		set("WebHook-Request-Origin", "eventgrid.azure.net")
		set("aeg-metadata-version", "1.0")
		return e.Event, header, nil
	}
	var c struct {
		ID         string          `json:"id"`
		Source     string          `json:"source"`
		Type       string          `json:"type"`
		Subject    string          `json:"subject"`
		Time       string          `json:"time"`
		DataSchema string          `json:"dataschema"`
		Data       json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(e.Event, &c); err != nil {
		return nil, nil, fmt.Errorf("read the event: %w", err)
	}
	version := cmp.Or(strings.TrimPrefix(c.DataSchema, "#"), e.BrokerProperties.DataVersion)
	set("Content-Type", "application/json; charset=utf-8")
	set("aeg-data-version", version)
	set("aeg-metadata-version", "1")
	if f.schema == "CustomInputSchema" {
		return append(append([]byte{'['}, c.Data...), ']'), header, nil
	}
	body, err = encodeJSON([]any{struct {
		Topic           string          `json:"topic"`
		Subject         string          `json:"subject"`
		EventType       string          `json:"eventType"`
		EventTime       string          `json:"eventTime"`
		ID              string          `json:"id"`
		DataVersion     string          `json:"dataVersion"`
		MetadataVersion string          `json:"metadataVersion"`
		Data            json.RawMessage `json:"data,omitempty"`
	}{c.Source, c.Subject, c.Type, c.Time, c.ID, version, "1", c.Data}})
	return body, header, err
}

// untiring is the retry policy of a webhook without its ends, which the server sees to.
var untiring = broker.Policy{MaxAttempts: math.MaxInt, TimeToLive: math.MaxInt64}

// verdict is what becomes of an event whose handler answered with a status in its
// count-th attempt, 0 for no answer: the rules for webhooks, in the words of receivers.
func verdict(status int, after time.Duration, count int) (verb string, delay int) {
	answer := broker.Response{Outcome: broker.SocketError, Status: status, RetryAfter: after}
	if status != 0 {
		answer.Outcome = destination.OutcomeOf(status)
	}
	now := time.Now()
	decision := untiring.Next(max(count, 1), now, answer, now, 0)
	switch decision.Action {
	case broker.Done:
		return "acknowledge", 0
	case broker.DeadLetter:
		return "reject", 0
	}
	for _, delay = range ingest.ReleaseDelays {
		if time.Duration(delay)*time.Second >= decision.Due.Sub(now) {
			break
		}
	}
	return "release", delay
}

// tell prints what became of an event.
func (f *forwarder) tell(at time.Time, e *received, status int, err error, took time.Duration, verb string, delay int) {
	failure := ""
	if err != nil {
		failure = oneLine(err.Error())
		if failed, ok := errors.AsType[*url.Error](err); ok { // without the URL, which may hold a key
			failure = oneLine(failed.Err.Error())
		}
	}
	if f.json {
		line := map[string]any{
			"receivedTime": at.UTC().Format(time.RFC3339Nano), "id": text(e.Event, "id"), "type": text(e.Event, "type"), "subject": text(e.Event, "subject"),
			"deliveryCount": e.BrokerProperties.DeliveryCount, "status": status, "durationMs": took.Milliseconds(), "answer": verb,
		}
		if failure != "" {
			line["error"] = failure
		}
		if verb == "release" {
			line["releaseDelayInSeconds"] = delay
		}
		f.line(line)
		return
	}
	answer := strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
	if status == 0 {
		answer = failure
	}
	note := ""
	switch verb {
	case "acknowledge":
		answer = f.paint.green(answer)
	case "reject":
		answer, note = f.paint.red(answer), "  dead letter"
	default:
		answer, note = f.paint.red(answer), "  again in "+(time.Duration(delay)*time.Second).String()
	}
	fmt.Fprintf(f.out, "%s  %s  %s  %s  %s%s\n", f.paint.faint(at.Format("15:04:05.000")), f.paint.eventType(oneLine(text(e.Event, "type"))),
		oneLine(text(e.Event, "subject")), answer, f.paint.faint(took.Round(time.Millisecond).String()), note)
}

func (f *forwarder) line(value any) {
	if raw, err := encodeJSON(value); err == nil {
		fmt.Fprintf(f.out, "%s\n", raw)
	}
}
