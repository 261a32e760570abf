package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// mailbox is an event subscription whose events are received.
type mailbox struct {
	s             *remote
	address       string // a verb goes behind it
	authorization string
}

// mailboxFlags name an event subscription whose events are received, and who asks.
func (a *app) mailboxFlags(cmd *cobra.Command) func(cmd *cobra.Command) (mailbox, error) {
	name := cmd.Flags().String("event-subscription", "", "Event subscription, of endpoint type pull: name, or full id.")
	key := cmd.Flags().String("topic-key", "", "Access key of the topic or the domain; asked for by listKeys by default. A workspace has none: your own token is used.")
	token := cmd.Flags().String("topic-token", "", "Bearer token to receive with in place of a key: for https://eventgrid.azure.net, or for the management API.")
	list := a.bySource(cmd)
	_ = cmd.RegisterFlagCompletionFunc("event-subscription", a.completeNames(offered(list)))
	return func(cmd *cobra.Command) (mailbox, error) {
		if err := required(cmd, "event-subscription"); err != nil {
			return mailbox{}, err
		}
		if *key != "" && *token != "" {
			return mailbox{}, usagef(cmd, "--topic-key and --topic-token both say who receives. Give either.")
		}
		path, err := eventSubscriptionAt(cmd, list, *name)
		if err != nil {
			return mailbox{}, err
		}
		s, err := a.connect()
		if err != nil {
			return mailbox{}, err
		}
		es, err := s.get(cmd.Context(), path)
		if err != nil {
			return mailbox{}, elsewhere(cmd, err)
		}
		endpoint, topic := text(es, "properties.receive.endpoint"), text(es, "properties.receive.topic")
		if endpoint == "" {
			return mailbox{}, usagef(cmd, "The events of %s are sent, not received: its destination is of type %s, not %s.", *name, text(es, "properties.destination.endpointType"), resource.DestinationPull)
		}
		m := mailbox{s: s, address: endpoint + "/topics/" + url.PathEscape(topic) + "/eventsubscriptions/" + url.PathEscape(text(es, "name")) + ":"}
		if *key == "" && *token == "" {
			if *key, err = s.keyOf(cmd.Context(), text(es, "id")); err != nil {
				return mailbox{}, err
			}
		}
		if *key != "" {
			m.authorization = "SharedAccessKey " + *key
		} else {
			m.authorization = "Bearer " + firstOf(*token, s.Token)
		}
		return m, nil
	}
}

// keyOf asks for an access key of what an event subscription hangs on; "" where that has
// no keys.
func (s *remote) keyOf(ctx context.Context, eventSubscription string) (string, error) {
	id, err := resource.ParseID(eventSubscription)
	if err != nil {
		return "", err
	}
	owner := id.Parent()
	if owner.IsType(resource.TypeDomainTopic) {
		owner = owner.Parent()
	}
	if !owner.IsType(resource.TypeTopic) && !owner.IsType(resource.TypeDomain) {
		return "", nil
	}
	keys, err := s.ask(ctx, http.MethodPost, owner.String()+"/listKeys", nil, nil)
	return text(keys, "key1"), err
}

// ask makes a request of a receiver.
func (m *mailbox) ask(ctx context.Context, verb string, query url.Values, body, out any) error {
	raw := []byte{}
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	query.Set("api-version", "2024-06-01")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.address+verb+"?"+query.Encode(), bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("make the request to %s: %w", m.address, err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", m.authorization)
	patient := *m.s.HTTP
	patient.Timeout = 0 // the server says when the wait is over
	resp, err := patient.Do(r)
	if err != nil {
		return fault.New(fault.Unavailable, "ServerUnreachable", "Cannot reach %s.", m.address).Because(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return fault.Read(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", m.address, err)
	}
	return nil
}

// tokenAnswers is what becomes of lock tokens.
type tokenAnswers struct {
	FailedLockTokens []struct {
		LockToken string
		Error     struct{ Code, Message string }
	}
	SucceededLockTokens []string
}

// answer tells what became of events by their lock tokens; an error says which it did not.
func (m *mailbox) answer(ctx context.Context, verb string, query url.Values, tokens []string) (done int, err error) {
	var a tokenAnswers
	if err := m.ask(ctx, verb, query, map[string]any{"lockTokens": tokens}, &a); err != nil {
		return 0, err
	}
	var problems []*fault.Error
	for _, f := range a.FailedLockTokens {
		problems = append(problems, fault.New(fault.Conflict, f.Error.Code, "%s: %s", f.LockToken, f.Error.Message))
	}
	return len(a.SucceededLockTokens), fault.Join(problems...)
}

// receivedView shows what was received.
var receivedView = view{
	plural: "events",
	columns: []column{{"Time", "event.time"}, {"Event type", "event.type"}, {"Subject", "event.subject"}, {"Id", "event.id"},
		{"Delivery", "brokerProperties.deliveryCount"}, {"Lock token", "brokerProperties.lockToken"}},
}

func (a *app) eventReceive() *cobra.Command {
	cmd := &cobra.Command{Use: "receive", Short: "Receive events of an event subscription of endpoint type pull", Args: noArguments,
		Long: "Receive what waits for a receiver: one line of JSON for each event, in their order. With --ack\na line is the event, a CloudEvent, and it is acknowledged once all are printed. Without it a line\nhas the event with its lock token, for acknowledge, release or reject; what is not answered within\nits lock is received again. It waits for the first event as long as --max-wait-time says. -o table\nprints a table, with the lock tokens.",
		Example: `  carillon event receive --topic orders --event-subscription inbox --ack
  carillon event receive --topic orders --event-subscription inbox --max-events 100 --max-wait-time 10
  carillon event receive --event-subscription inbox --ack -o table      # of the workspace, with your own token`}
	open := a.mailboxFlags(cmd)
	most := cmd.Flags().Int("max-events", 10, "Most events, 1 to 100.")
	wait := cmd.Flags().Int("max-wait-time", 60, "Seconds to wait for the first event, 10 to 120.")
	ack := cmd.Flags().Bool("ack", false, "Acknowledge them.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m, err := open(cmd)
		if err != nil {
			return err
		}
		var got struct{ Value []json.RawMessage }
		if err := m.ask(cmd.Context(), "receive", url.Values{"maxEvents": {strconv.Itoa(*most)}, "maxWaitTime": {strconv.Itoa(*wait)}}, nil, &got); err != nil {
			return err
		}
		if len(got.Value) == 0 {
			fmt.Fprintln(a.stderr, "No events.")
			return nil
		}
		table := a.output == "table" && cmd.Flag("output").Changed // it is asked for: lines are what one pipes
		if table {
			if err := a.list(receivedView, got.Value); err != nil {
				return err
			}
		}
		var tokens []string
		for _, line := range got.Value {
			if *ack {
				tokens = append(tokens, text(line, "brokerProperties.lockToken"))
				var entry struct{ Event json.RawMessage }
				if err := json.Unmarshal(line, &entry); err != nil {
					return fmt.Errorf("read the answer of %s: %w", m.address, err)
				}
				line = entry.Event
			}
			if table {
				continue
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, line); err != nil {
				return fmt.Errorf("read the answer of %s: %w", m.address, err)
			}
			if _, err := fmt.Fprintln(a.stdout, compact.String()); err != nil {
				return err // nobody has read it: nothing is acknowledged
			}
		}
		if len(tokens) == 0 {
			return nil
		}
		_, err = m.answer(cmd.Context(), "acknowledge", url.Values{}, tokens)
		return err
	}
	return cmd
}

func (a *app) eventAcknowledge() *cobra.Command {
	return a.receiversAnswer("acknowledge", "Acknowledged", &cobra.Command{
		Short: "Acknowledge events that were received: they do not come again"})
}

func (a *app) eventReject() *cobra.Command {
	return a.receiversAnswer("reject", "Rejected", &cobra.Command{
		Short: "Reject events that were received: they become dead letters"})
}

func (a *app) eventRelease() *cobra.Command {
	cmd := &cobra.Command{Short: "Release events that were received, to be received again"}
	cmd.Flags().Int("delay", 0, "Seconds until then: 0, 10, 60, 600 or 3600.")
	return a.receiversAnswer("release", "Released", cmd)
}

func (a *app) eventRenewLock() *cobra.Command {
	return a.receiversAnswer("renew-lock", "Locked anew:", &cobra.Command{
		Short: "Renew the locks of events that were received: nobody else gets them meanwhile"})
}

// receiversAnswer makes a command that answers for events by their lock tokens.
func (a *app) receiversAnswer(verb, done string, cmd *cobra.Command) *cobra.Command {
	cmd.Use, cmd.Args = verb+" TOKEN...", needsTokens
	cmd.Example = "  carillon event " + verb + " --topic orders --event-subscription inbox WQ2nQ0l0p1XqjKJ1c8mZ5g"
	open := a.mailboxFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := open(cmd)
		if err != nil {
			return err
		}
		query := url.Values{}
		if f := cmd.Flag("delay"); f != nil {
			query.Set("releaseDelayInSeconds", f.Value.String())
		}
		n, err := m.answer(cmd.Context(), strings.ReplaceAll(verb, "-l", "L"), query, args)
		if n > 0 {
			fmt.Fprintf(a.stdout, "%s %s.\n", done, count(n, "event"))
		}
		return err
	}
	return cmd
}

func needsTokens(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef(cmd, "A lock token is needed: event receive without --ack prints them.")
	}
	return nil
}
