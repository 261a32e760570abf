package destination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/resource"
)

// startKafka runs a cluster in this process with a user, and topics. A real Apache Kafka
// runs in interop.
func startKafka(t *testing.T, user, password string, topics ...string) (address string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", user, password), kfake.SeedTopics(2, topics...),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": "200000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

// consumed reads n records of a topic from its beginning.
func consumed(t *testing.T, address, user, password, topic string, n int) (records []*kgo.Record) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(records) < n && ctx.Err() == nil {
		records = append(records, c.PollFetches(ctx).Records()...)
	}
	return records
}

func arrivals(t *testing.T, records []*kgo.Record) (out []arrived) {
	for _, r := range records {
		if codec := r.Attrs.CompressionType(); codec != 0 {
			t.Errorf("compressed by codec %d, which not everybody reads", codec)
		}
		a := arrived{body: string(r.Value), properties: map[string]string{"key": string(r.Key)}}
		for _, h := range r.Headers {
			a.properties[h.Key] = string(h.Value)
		}
		out = append(out, a)
	}
	return out
}

func TestKafka(t *testing.T) {
	address := startKafka(t, "carillon", suiteSecret, "ml-events")
	values := map[string]any{"bootstrapServers": address, "topic": "ml-events", "security": "SaslPlaintext", "username": "carillon"}
	secrets := map[string]string{"password": suiteSecret}
	testTarget(t, "Kafka", nil, counterpart{
		values: values, secrets: secrets, properties: true,
		at: func(_ *testing.T, address string) (map[string]any, *Connections) {
			return with(values, "bootstrapServers", address), nil
		},
		received: func(t *testing.T, n int) []arrived {
			out := arrivals(t, consumed(t, address, "carillon", suiteSecret, "ml-events", n))
			for _, a := range out {
				if !strings.HasPrefix(a.properties["key"], "models/churn:") || a.properties["content-type"] != "application/json; charset=utf-8" {
					t.Errorf("key and content type of %v", a.properties)
				}
			}
			return out
		},
		cases: []counterCase{
			{name: "no topic", values: with(values, "topic", "unknown"), want: broker.NotFound, again: true, probed: "it is not there"},
			{name: "wrong password", secrets: map[string]string{"password": suiteSecret + "x"}, want: broker.SocketError, again: true, probed: "closed"},
			{name: "too large", body: `{"eventType":"T","subject":"s","id":"1","eventTime":"2026-03-01T10:00:00Z","dataVersion":"1","data":"` + strings.Repeat("x", 2<<20) + `"}`, want: broker.PayloadTooLarge},
			{name: "no event to take the key from", body: "no JSON", want: broker.BadRequest},
		},
	})
}

// TestShipment holds what is made of answers that come, come late, or do not come, and
// when the memory of records is used again.
func TestShipment(t *testing.T) {
	refused := errors.New("refused")
	for _, tt := range []struct {
		name    string
		answers []error // of records 1, 2
		want    []error
		broken  bool
		kept    bool
	}{
		{"all taken", []error{nil, nil}, []error{nil, nil}, false, true},
		{"one refused", []error{refused, nil}, []error{refused, nil}, false, false},
		{"one late", []error{nil}, []error{nil, context.DeadlineExceeded}, true, false},
	} {
		s := new(shipment)
		for range 2 {
			s.header("a", "b")
			s.add(kgo.Record{}, len(s.headers)-1)
		}
		s.begin()
		for i, err := range tt.answers {
			s.promises[i](nil, err)
		}
		if broken := s.end(); broken != tt.broken {
			t.Errorf("%s: broken %t", tt.name, broken)
		}
		for _, late := range s.promises[len(tt.answers):] {
			late(nil, nil) // nobody waits for it
		}
		if !slices.Equal(s.errs, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, s.errs, tt.want)
		}
		if s.recycle(); (len(s.records) == 0) != tt.kept {
			t.Errorf("%s: %d records are left", tt.name, len(s.records))
		}
	}
}

// TestKafkaBinary holds the binary mode of CloudEvents.
// Source: cloudevents/spec, bindings/kafka-protocol-binding.md section 3.2.
func TestKafkaBinary(t *testing.T) {
	address := startKafka(t, "carillon", suiteSecret, "ml-events")
	c := &targetConfig{
		kind: resource.KindOf("Kafka"), name: "ES1", uid: "1", schema: event.CloudEventSchemaV1_0, guard: loopback, secrets: map[string]string{"password": suiteSecret},
		values: resource.Values{
			"bootstrapServers": []byte(`"` + address + `"`), "topic": []byte(`"ml-events"`), "security": []byte(`"SaslPlaintext"`), "username": []byte(`"carillon"`),
			"contentMode": []byte(`"binary"`), "key": []byte(`"{type}/{id}"`),
		},
	}
	s, err := openKafka(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := attemptOf("Kafka", 1,
		`{"specversion":"1.0","id":"e1","source":"/t","type":"T","subject":"ä","time":"2026-03-01T10:00:00Z","datacontenttype":"text/json","partitionkey":"p","n":7,"data":{"a": 1}}`,
		`{"specversion":"1.0","id":"e2","source":"/t","type":"T","data_base64":"AAEC"}`,
		`{"specversion":"1.0","id":"e3","source":"/t","type":"T","data_base64":"?"}`)
	if got := s.Send(t.Context(), r); got.Outcome != broker.Delivered {
		t.Fatalf("%+v", got)
	}
	if o := r.Parts[2].Outcome; o != broker.BadRequest {
		t.Errorf("broken base64: %s", o)
	}
	byKey := map[string]arrived{}
	for _, a := range arrivals(t, consumed(t, address, "carillon", suiteSecret, "ml-events", 2)) {
		byKey[a.properties["key"]] = a
	}
	first, second := byKey["T/e1"], byKey["T/e2"]
	for name, want := range map[string]string{
		"ce_specversion": "1.0", "ce_id": "e1", "ce_source": "/t", "ce_type": "T", "ce_subject": "ä", "ce_time": "2026-03-01T10:00:00Z", "ce_partitionkey": "p", "ce_n": "7", "content-type": "text/json",
	} {
		if first.properties[name] != want {
			t.Errorf("%s is %q, want %q", name, first.properties[name], want)
		}
	}
	if first.body != `{"a": 1}` || first.properties["ce_data"] != "" || second.body != "\x00\x01\x02" || second.properties["content-type"] != "application/json" {
		t.Errorf("data %q and %q, content type %q", first.body, second.body, second.properties["content-type"])
	}
	c.schema = event.EventGridSchema
	if _, err := openKafka(c); err == nil || !strings.Contains(err.Error(), "CloudEventSchemaV1_0") {
		t.Errorf("binary mode of Event Grid events: %v", err)
	}
}

func TestEventHub(t *testing.T) {
	connection := "BootstrapServers=%s;Security=SaslPlaintext;Mechanism=PLAIN;Username=carillon;Password=" + suiteSecret
	hub := func(name string) resource.ID {
		return resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventHub/namespaces/ns/eventhubs/" + name)
	}
	address := startKafka(t, "carillon", suiteSecret, "hub")
	to := func(t *testing.T, id resource.ID, text string) *Connections {
		c := connectionsTo(t, id, text)
		return c
	}
	namespace := to(t, hub("hub").Parent(), strings.ReplaceAll(connection, "%s", address))
	values := map[string]any{"resourceId": hub("hub").String()}
	testTarget(t, "EventHub", namespace, counterpart{
		values: values, properties: true,
		at: func(t *testing.T, address string) (map[string]any, *Connections) {
			return values, to(t, hub("hub"), strings.ReplaceAll(connection, "%s", address))
		},
		received: func(t *testing.T, n int) []arrived {
			return arrivals(t, consumed(t, address, "carillon", suiteSecret, "hub", n))
		},
		cases: []counterCase{
			{name: "no hub", values: map[string]any{"resourceId": hub("unknown").String()}, want: broker.NotFound, again: true, probed: "it is not there"},
			{name: "too large", body: `{"d":"` + strings.Repeat("x", 2<<20) + `"}`, want: broker.PayloadTooLarge},
		},
	})
	t.Run("the emulator's and Azure's connection strings", func(t *testing.T) {
		for _, tt := range []struct {
			text, broker string
			secure       bool
		}{
			{"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=" + suiteSecret + "=;EntityPath=hub", "ns.servicebus.windows.net:9093", true},
			{"Endpoint=sb://localhost;SharedAccessKeyName=Root;SharedAccessKey=" + suiteSecret + ";UseDevelopmentEmulator=true;", "localhost:9092", false},
			{"BootstrapServers=a:1, b:2;Security=Tls", "a:1 b:2", true},
			{"Endpoint=sb://ns", "", false}, {"BootstrapServers=a", "", false}, {suiteSecret, "", false},
		} {
			c, err := kafkaConnection(tt.text)
			if got := strings.Join(c.brokers, " "); (err == nil) != (tt.broker != "") || err == nil && (got != tt.broker || c.secure != tt.secure) {
				t.Errorf("%s: %s %t, %v", tt.text, got, c.secure, err)
			}
			if err != nil && strings.Contains(err.Error(), suiteSecret) {
				t.Errorf("a secret is shown: %v", err)
			}
		}
	})
	t.Run("the partition key is the key", func(t *testing.T) {
		s := targetOf(t, "EventHub", values, nil, namespace).(*eventHubTarget).kafka
		r := attemptOf("EventHub", 1, suiteEvent(1))
		r.Attributes = []broker.Attribute{{Name: "partitionKey", Value: "churn"}}
		made := new(shipment)
		s.load(made, r)
		record := made.records[0]
		if string(record.Key) != "churn" {
			t.Errorf("key %q", record.Key)
		}
		for _, h := range record.Headers {
			if strings.EqualFold(h.Key, partitionKey) {
				t.Error("the partition key is a property, too")
			}
		}
	})
}

// TestKafkaBrokerElsewhere holds that a broker which a cluster names, and which is not
// reached, is named where its records come to nothing, in the ways that the client says so.
func TestKafkaBrokerElsewhere(t *testing.T) {
	refused := &egress.RefusedError{Destination: "b-2.example:9092 (10.1.2.3)", Reason: "is in the private network 10.0.0.0/8", Remedy: "10.0.0.0/8"}
	closed := &egress.DialError{Destination: "b-2.example:9092", Err: syscall.ECONNREFUSED}
	for _, err := range []error{refused, closed} {
		want := "b-2.example:9092: the connection was refused"
		if err == refused {
			want = refused.Error()
		}
		for _, as := range []error{err, fmt.Errorf("unable to dial: %w", err), fmt.Errorf("%w, last err: %w", kgo.ErrRecordTimeout, err)} {
			if got := kafkaAnswer(t.Context(), as); got.Outcome != broker.SocketError || got.Detail != want {
				t.Errorf("%v: %+v", as, got)
			}
		}
	}
}
