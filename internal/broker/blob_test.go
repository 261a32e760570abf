package broker

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
)

var update = flag.Bool("update", false, "rewrite the golden blobs")

// letterOf is a dead letter of an event that was given up at a time.
func letterOf(input, delivery event.Schema, raw string) *Letter {
	at := time.Date(2026, 3, 1, 9, 5, 41, 900_000_000, time.FixedZone("", -3600))
	return &Letter{
		Version: 1, ID: "0000000000000500-0000000000010000", Place: 7,
		EventSubscription: testTopic.String() + "/providers/Microsoft.EventGrid/eventSubscriptions/Model-registered-to-CI", Topic: testTopic.String(),
		InputSchema: uint8(input), DeliverySchema: uint8(delivery), Event: json.RawMessage(raw), Sequencer: strings.Repeat("0a", 16),
		DeadLetterReason: ReasonMaxAttempts, DeliveryAttempts: 3, LastDeliveryOutcome: TimedOut.String(), LastHTTPStatusCode: 408,
		PublishTime: at.Add(-41500 * time.Millisecond), LastDeliveryAttemptTime: at, DeadLetterTime: at,
	}
}

const (
	gridEvent = `{"id":"c1f4","topic":"/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/t","subject":"models/churn:3",` +
		`"eventType":"Microsoft.MachineLearningServices.ModelRegistered","eventTime":"2026-03-01T10:00:00Z","dataVersion":"2","metadataVersion":"1",` +
		`"data":{ "modelName":"churn", "modelVersion":"3", "n":1.00, "s":"<&>\u2028" }}`
	cloudEvent = `{"specversion":"1.0","id":"c1f4","source":"/shop","type":"Shop.OrderPlaced","time":"2026-03-01T10:00:00Z","ext":"x","data":{"n":1.00}}`
)

// TestBlobs: one file for each form of an element, and the path it is written to.
// Source: spec/delivery.md sections 7.3 and 7.4.
func TestBlobs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		letter *Letter
		change func(*Letter)
		rules  Rules
	}{
		{"eventgrid", letterOf(event.EventGridSchema, event.EventGridSchema, gridEvent), nil, Rules{}},
		{"cloudevents", letterOf(event.CloudEventSchemaV1_0, event.CloudEventSchemaV1_0, cloudEvent), nil, Rules{OmitDataSchema: true}},
		{"eventgrid-as-cloudevents", letterOf(event.EventGridSchema, event.CloudEventSchemaV1_0, gridEvent), nil, Rules{}},
		{"workspace-as-cloudevents", letterOf(event.EventGridSchema, event.CloudEventSchemaV1_0, gridEvent), func(l *Letter) {
			l.Topic = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
		}, Rules{}},
		{"eventgrid-as-cloudevents-without-dataschema", letterOf(event.EventGridSchema, event.CloudEventSchemaV1_0, gridEvent), nil, Rules{OmitDataSchema: true}},
		{"custom-input", letterOf(event.CustomEventSchema, event.CustomEventSchema, strings.Replace(gridEvent, `"data":{ "modelName":"churn", `, `"data":{"kind":"ModelRegistered", `, 1)), nil, Rules{}},
		{"never-attempted", letterOf(event.EventGridSchema, event.EventGridSchema, gridEvent), func(l *Letter) {
			l.DeliveryAttempts, l.LastDeliveryOutcome, l.LastHTTPStatusCode, l.LastDeliveryAttemptTime = 0, Probation.String(), 0, time.Time{}
			l.DeadLetterReason = ReasonTimeToLive
		}, Rules{}},
		{"stored-by-an-older-version", letterOf(event.CloudEventSchemaV1_0, 0, cloudEvent), func(l *Letter) { l.DeadLetterTime = time.Time{} }, Rules{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.letter)
			}
			element, err := tt.letter.appendBlob(nil, tt.rules)
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid(element) {
				t.Fatalf("not JSON: %s", element)
			}
			got := []byte(tt.letter.blobName() + "\n" + string(element) + "\n")
			path := filepath.Join("testdata", "blob", tt.name+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
