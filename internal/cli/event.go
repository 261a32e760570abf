package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

func (a *app) eventCommand() *cobra.Command {
	return group("event", "Events: publish them, watch them pass, see what became of them and why, replay them",
		`  carillon event publish --topic orders --event-type Shop.OrderPlaced --subject orders/7 --data '{"amount": 12}'
  carillon event tail
  carillon event show 98162289-5d3f-561c-b9eb-80b238ae64f7 --attempts
  carillon event explain 98162289-5d3f-561c-b9eb-80b238ae64f7
  carillon event receive --topic orders --event-subscription inbox --ack
  carillon event replay --event-subscription failed-runs --from 2026-03-01 --dry-run`,
		a.eventPublish(), a.eventReceive(), a.eventAcknowledge(), a.eventRelease(), a.eventReject(), a.eventRenewLock(), a.eventTail(), a.eventShow(), a.eventExplain(), a.eventReplay(), a.eventReplays())
}

// publication is what the flags of event publish say.
type publication struct {
	topic, key, token     string // topic is the id of one, or of a domain
	domainTopic           string // of the domain that the event is for
	to                    string // the topic or the domain, as messages name it
	file, data            string
	id, eventType         string
	subject, at           string
	dataVersion, source   string
	inputSchema, endpoint string // of the topic
}

func (a *app) eventPublish() *cobra.Command {
	cmd := &cobra.Command{Use: "publish", Short: "Publish events to a topic or a domain", Args: noArguments,
		Long: "Publish one event made of flags, or the events of a file or of standard input as they\nare: one JSON object or an array, in the input schema of the topic. A topic of custom\ninput takes the objects themselves, by --data or --file. Published to a domain, each\nevent names the topic that it is for: --domain-topic says it for one that is made of flags.\n\n--data is the event's data here; name the server by \"carillon env\" or CARILLON_DATA.",
		Example: `  carillon event publish --topic orders --event-type Shop.OrderPlaced --subject orders/7 --data '{"amount": 12}'
  carillon event publish --topic orders --file events.json
  carillon event publish --domain shops --domain-topic tenant-a --event-type Shop.OrderPlaced --subject orders/7 --data '{"amount": 12}'
  carillon event publish --topic orders --file events.json --topic-token "$(carillon token --data ./data --resource https://eventgrid.azure.net)"
  carillon event publish --topic shop --data '{"kind": "Shop.OrderPlaced", "amount": 12}'     # custom input
  jq -c . events.json | carillon event publish --topic orders --file -`}
	var p publication
	f := cmd.Flags()
	topic := f.String("topic", "", "Topic, by name or full id.")
	domain := f.String("domain", "", "Domain instead, by name or full id.")
	f.StringVar(&p.domainTopic, "domain-topic", "", "With --domain: the topic in it that the event is for.")
	f.StringVar(&p.key, "topic-key", "", "Access key of the topic or the domain; asked for by listKeys by default.")
	f.StringVar(&p.token, "topic-token", "", "Bearer token for https://eventgrid.azure.net to publish with, in place of a key.")
	f.StringVar(&p.file, "file", "", "File with whole events, - for standard input.")
	f.StringVar(&p.data, "data", "", "Data of the event, JSON; - reads it from standard input. The whole object for a topic of custom input.")
	f.StringVar(&p.eventType, "event-type", "", "Type of the event.")
	f.StringVar(&p.subject, "subject", "", "Subject of the event.")
	f.StringVar(&p.id, "id", "", "Id of the event; a new GUID by default.")
	f.StringVar(&p.at, "event-time", "", "Time of the event; now by default.")
	f.StringVar(&p.dataVersion, "data-version", "1", "Data version of an Event Grid event.")
	f.StringVar(&p.source, "source", "/carillon/cli", "Source of a CloudEvent; the topic for one that goes to a domain.")
	_ = cmd.RegisterFlagCompletionFunc("domain", a.completeNames(func() string { return a.groupID() + eventGridDomains }))
	_ = cmd.RegisterFlagCompletionFunc("domain-topic", a.completeNames(func() string { return a.domainID(*domain) + "/topics" }))
	_ = cmd.RegisterFlagCompletionFunc("topic", a.completeNames(func() string { return a.groupID() + eventGridTopics }))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *domain != "" && *topic != "":
			return usagef(cmd, "--topic and --domain exclude each other.")
		case *domain != "":
			p.topic, p.to = a.domainID(*domain), "domain "+*domain
		case p.domainTopic != "":
			return usagef(cmd, "--domain-topic %q is a topic of which domain? Give --domain.", p.domainTopic)
		default:
			if err := required(cmd, "topic"); err != nil {
				return err
			}
			p.topic, p.to = a.topicID(*topic), "topic "+*topic
		}
		if p.domainTopic != "" && p.file != "" {
			return usagef(cmd, "--file holds whole events, which name their topics of the domain themselves. Leave --domain-topic out.")
		}
		if p.file == "" && p.eventType == "" && p.data == "" {
			return usagef(cmd, "What is published? Give --event-type, --subject and --data, or --file.")
		}
		if p.file != "" && (p.eventType != "" || p.data != "") {
			return usagef(cmd, "--file holds whole events; --event-type and --data make one. Give either.")
		}
		if p.key != "" && p.token != "" {
			return usagef(cmd, "--topic-key and --topic-token both say who publishes. Give either.")
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		return a.publish(cmd, s, p)
	}
	return cmd
}

func (a *app) publish(cmd *cobra.Command, s *remote, p publication) error {
	topic, err := s.get(cmd.Context(), p.topic)
	if err != nil {
		return err
	}
	p.inputSchema, p.endpoint = text(topic, "properties.inputSchema"), text(topic, "properties.endpoint")
	if err := checkFlags(cmd, p); err != nil {
		return err
	}
	body, contentType, err := a.publishBody(cmd, p)
	if err != nil {
		return err
	}
	if p.key == "" && p.token == "" {
		keys, err := s.ask(cmd.Context(), http.MethodPost, p.topic+"/listKeys", nil, nil)
		if err != nil {
			return err
		}
		p.key = text(keys, "key1")
	}
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodPost, p.endpoint+"?api-version=2018-01-01", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make the request to %s: %w", p.endpoint, err)
	}
	req.Header.Set("Content-Type", contentType)
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	} else {
		req.Header.Set("aeg-sas-key", p.key)
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return fault.New(fault.Unavailable, "ServerUnreachable", "Cannot reach %s.", p.endpoint).Because(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return fault.Read(resp)
	}
	if a.output == "json" {
		return writeJSON(a.stdout, body)
	}
	_, name, _ := strings.Cut(p.to, " ")
	fmt.Fprintf(a.stdout, "Published %s to %s.\n", count(len(splitEvents(body)), "event"), name)
	return nil
}

const customInput = "CustomEventSchema"

// checkFlags holds the flags against the input schema of the topic. Custom input has
// its attributes where the topic's mapping says, so that no flag can give them.
func checkFlags(cmd *cobra.Command, p publication) error {
	if p.inputSchema != customInput {
		if p.file == "" && p.eventType == "" {
			return usagef(cmd, "What type has the event? Give --event-type beside --data; %s takes events of %s.", p.to, p.inputSchema)
		}
		if name, is := strings.CutPrefix(p.to, "domain "); is && p.file == "" && p.domainTopic == "" {
			return usagef(cmd, "Which topic of the domain %q is the event for? Give --domain-topic.", name)
		}
		return nil
	}
	for _, name := range []string{"event-type", "subject", "id", "event-time", "data-version", "source", "domain-topic"} {
		if cmd.Flag(name).Changed {
			return usagef(cmd, "--%s is not for %s: it takes custom input, whose attributes its mapping finds in the object. Give the object whole, by --data or --file.", name, p.to)
		}
	}
	return nil
}

// publishBody makes the body that the topic's input schema wants.
// Source: spec/events.md section 8.1.
func (a *app) publishBody(cmd *cobra.Command, p publication) (body []byte, contentType string, err error) {
	cloud := p.inputSchema == "CloudEventSchemaV1_0"
	switch {
	case p.file != "":
		body, err = a.readAll(p.file)
	case p.inputSchema == customInput && p.data == "-":
		body, err = a.readAll("-")
	case p.inputSchema == customInput:
		body = []byte(p.data)
	default:
		body, err = a.composeEvent(cmd, p, cloud)
	}
	if err != nil {
		return nil, "", err
	}
	body = bytes.TrimSpace(body)
	if !json.Valid(body) {
		return nil, "", fault.New(fault.Invalid, "", "What %s holds is not JSON.", firstOf(p.file, "--data"))
	}
	array := len(body) > 0 && body[0] == '['
	switch {
	case cloud && array:
		return body, "application/cloudevents-batch+json; charset=utf-8", nil
	case cloud:
		return body, "application/cloudevents+json; charset=utf-8", nil
	case !array:
		body = joinArray([]json.RawMessage{body})
	}
	return body, "application/json; charset=utf-8", nil
}

func (a *app) composeEvent(cmd *cobra.Command, p publication, cloud bool) ([]byte, error) {
	data := json.RawMessage(p.data)
	if p.data == "-" {
		raw, err := a.readAll("-")
		if err != nil {
			return nil, err
		}
		data = raw
	}
	if len(data) == 0 {
		data = json.RawMessage("null")
	}
	if !json.Valid(data) {
		return nil, usagef(cmd, "--data is not JSON: %s. A text is written in double quotes: '\"text\"'.", oneLine(string(data)))
	}
	at := time.Now().UTC().Format(time.RFC3339Nano)
	if p.at != "" {
		var err error
		if at, err = instant(cmd, "event-time", p.at); err != nil {
			return nil, err
		}
	}
	id := firstOf(p.id, uuid.NewString())
	if !cloud {
		e := map[string]any{"id": id, "eventType": p.eventType, "subject": p.subject, "eventTime": at, "data": data, "dataVersion": p.dataVersion}
		if p.domainTopic != "" {
			e["topic"] = p.domainTopic
		}
		return encodeJSON(e)
	}
	p.source = firstOf(p.domainTopic, p.source)
	e := map[string]any{"specversion": "1.0", "id": id, "type": p.eventType, "source": p.source, "time": at, "data": data}
	if p.subject != "" {
		e["subject"] = p.subject
	}
	return encodeJSON(e)
}

func (a *app) readAll(path string) ([]byte, error) {
	if path == "-" {
		raw, err := io.ReadAll(a.stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return raw, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a file: %w", err)
	}
	return raw, nil
}

// splitEvents returns the events of a body: the entries of an array, or the one
// object.
func splitEvents(body []byte) []json.RawMessage {
	var several []json.RawMessage
	if json.Unmarshal(body, &several) == nil {
		return several
	}
	return []json.RawMessage{body}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// eventView reads the attributes of an event in either schema.
var eventView = struct{ eventType, subject, id, time string }{"eventType|type", "subject", "id", "eventTime|time"}

// printEvent shows an event to a person: its type in full, then what else
// matters, then its data. An object without an envelope is shown whole.
func printEvent(w io.Writer, p paint, at time.Time, raw json.RawMessage, notes ...string) {
	var b strings.Builder
	enveloped := text(raw, "specversion|metadataVersion") != ""
	title := "(custom input)"
	if enveloped {
		title = firstOf(text(raw, eventView.eventType), "(no type)")
	}
	fmt.Fprintf(&b, "%s  %s\n", p.faint(at.Format("15:04:05.000")), p.eventType(title))
	for _, line := range [][2]string{{"subject", eventView.subject}, {"id", eventView.id}, {"time", eventView.time}, {"topic", "topic"}, {"source", "source"}} {
		if value := text(raw, line[1]); enveloped && value != "" {
			fmt.Fprintf(&b, "  %s %s\n", p.faint(fmt.Sprintf("%-8s", line[0])), value)
		}
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, "  %s %s\n", p.faint("delivery"), strings.Join(notes, ", "))
	}
	var parsed struct {
		Data json.RawMessage `json:"data"`
	}
	name := "object"
	if enveloped {
		name = "data"
		_ = json.Unmarshal(raw, &parsed) // what is no object has no data
	} else {
		parsed.Data = raw
	}
	var pretty bytes.Buffer
	if len(parsed.Data) > 0 && json.Indent(&pretty, parsed.Data, "           ", "  ") == nil {
		fmt.Fprintf(&b, "  %s ", p.faint(fmt.Sprintf("%-8s", name)))
		for i, line := range strings.Split(pretty.String(), "\n") {
			if i > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(oneLine(line))
		}
		b.WriteByte('\n')
	}
	_, _ = io.WriteString(w, b.String())
}
