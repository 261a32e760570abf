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
	return group("event", "Events: publish them, watch them pass, explain what became of them",
		`  carillon event publish --topic orders --event-type Shop.OrderPlaced --subject orders/7 --data '{"amount": 12}'
  carillon event tail
  carillon event explain 98162289-5d3f-561c-b9eb-80b238ae64f7`,
		a.eventPublish(), a.eventTail(), a.eventExplain())
}

// publication is what the flags of event publish say.
type publication struct {
	topic, key            string
	file, data            string
	id, eventType         string
	subject, at           string
	dataVersion, source   string
	inputSchema, endpoint string // of the topic
}

func (a *app) eventPublish() *cobra.Command {
	cmd := &cobra.Command{Use: "publish", Short: "Publish events to a topic", Args: noArguments,
		Long: "Publish one event made of flags, or the events of a file or of standard input as they\nare: one JSON object or an array, in the input schema of the topic.\n\n--data is the event's data here; name the server by \"carillon env\" or CARILLON_DATA.",
		Example: `  carillon event publish --topic orders --event-type Shop.OrderPlaced --subject orders/7 --data '{"amount": 12}'
  carillon event publish --topic orders --file events.json
  jq -c . events.json | carillon event publish --topic orders --file -`}
	var p publication
	f := cmd.Flags()
	f.StringVar(&p.topic, "topic", "", "Topic, by name or full id.")
	f.StringVar(&p.key, "topic-key", "", "Access key of the topic; asked for by listKeys by default.")
	f.StringVar(&p.file, "file", "", "File with whole events, - for standard input.")
	f.StringVar(&p.data, "data", "", "Data of the event, JSON; - reads it from standard input.")
	f.StringVar(&p.eventType, "event-type", "", "Type of the event.")
	f.StringVar(&p.subject, "subject", "", "Subject of the event.")
	f.StringVar(&p.id, "id", "", "Id of the event; a new GUID by default.")
	f.StringVar(&p.at, "event-time", "", "Time of the event; now by default.")
	f.StringVar(&p.dataVersion, "data-version", "1", "Data version of an Event Grid event.")
	f.StringVar(&p.source, "source", "/carillon/cli", "Source of a CloudEvent.")
	_ = cmd.RegisterFlagCompletionFunc("topic", a.completeNames(func() string { return a.groupID() + eventGridTopics }))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "topic"); err != nil {
			return err
		}
		if p.file == "" && p.eventType == "" {
			return usagef(cmd, "What is published? Give --event-type, --subject and --data, or --file.")
		}
		if p.file != "" && (p.eventType != "" || p.data != "") {
			return usagef(cmd, "--file holds whole events; --event-type and --data make one. Give either.")
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
	id := a.topicID(p.topic)
	topic, err := s.get(cmd.Context(), id)
	if err != nil {
		return err
	}
	p.inputSchema, p.endpoint = text(topic, "properties.inputSchema"), text(topic, "properties.endpoint")
	body, contentType, err := a.publishBody(cmd, p)
	if err != nil {
		return err
	}
	if p.key == "" {
		keys, err := s.ask(cmd.Context(), http.MethodPost, id+"/listKeys", nil, nil)
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
	req.Header.Set("aeg-sas-key", p.key)
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
	fmt.Fprintf(a.stdout, "Published %s to %s.\n", count(len(splitEvents(body)), "event"), p.topic)
	return nil
}

// publishBody makes the body that the topic's input schema wants.
// Source: spec/events.md section 8.1.
func (a *app) publishBody(cmd *cobra.Command, p publication) (body []byte, contentType string, err error) {
	cloud := p.inputSchema == "CloudEventSchemaV1_0"
	if p.file != "" {
		body, err = a.readAll(p.file)
	} else {
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
		return encodeJSON(map[string]any{"id": id, "eventType": p.eventType, "subject": p.subject, "eventTime": at,
			"data": data, "dataVersion": p.dataVersion})
	}
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
		return nil, fmt.Errorf("read events: %w", err)
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
// matters, then its data.
func printEvent(w io.Writer, p paint, at time.Time, raw json.RawMessage, notes ...string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", p.faint(at.Format("15:04:05.000")), p.eventType(firstOf(text(raw, eventView.eventType), "(no type)")))
	for _, line := range [][2]string{{"subject", eventView.subject}, {"id", eventView.id}, {"time", eventView.time}, {"topic", "topic"}, {"source", "source"}} {
		if value := text(raw, line[1]); value != "" {
			fmt.Fprintf(&b, "  %s %s\n", p.faint(fmt.Sprintf("%-8s", line[0])), value)
		}
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, "  %s %s\n", p.faint("delivery"), strings.Join(notes, ", "))
	}
	var parsed struct {
		Data json.RawMessage `json:"data"`
	}
	var pretty bytes.Buffer
	if json.Unmarshal(raw, &parsed) == nil && len(parsed.Data) > 0 && json.Indent(&pretty, parsed.Data, "           ", "  ") == nil {
		fmt.Fprintf(&b, "  %s ", p.faint(fmt.Sprintf("%-8s", "data")))
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
