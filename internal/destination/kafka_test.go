package destination

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// elsewhere has a cluster name an address as that of its broker, as advertised.listeners does.
func elsewhere(t *testing.T, c *kfake.Cluster, topic, address string) {
	t.Helper()
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		answer := r.ResponseKind().(*kmsg.MetadataResponse)
		b := kmsg.NewMetadataResponseBroker()
		b.Host, b.Port = to.Addr().String(), int32(to.Port())
		named := kmsg.NewMetadataResponseTopic()
		named.Topic, named.TopicID = kmsg.StringPtr(topic), c.TopicInfo(topic).TopicID
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Replicas, p.ISR = []int32{0}, []int32{0}
		named.Partitions = append(named.Partitions, p)
		answer.Brokers, answer.Topics = append(answer.Brokers, b), append(answer.Topics, named)
		return answer, nil, true
	})
}

// TestKafkaAdvertised holds that a leader which is not reached where its cluster says that
// it is has its address in what a probe and an attempt tell, and what is to be looked at.
func TestKafkaAdvertised(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	const (
		brief = 2 * time.Second
		look  = "; the cluster named it: look at its advertised.listeners"
	)
	for _, c := range []struct {
		name, address string
		patience      time.Duration // of the probe
		why           string
		attempt       string // begins so, "" for none: a silent broker is known as such after 10 s
	}{
		{"closed", "127.0.0.1:1", kafkaTime, "127.0.0.1:1: the connection was refused", "the cluster did not answer in time: "},
		{"silent", l.Addr().String(), brief, l.Addr().String() + ": the connection could not be opened in time", ""},
		{"refused here", "10.1.2.3:9092", kafkaTime, "destination 10.1.2.3:9092 is refused: it is in the private network 10.0.0.0/8; serve --allow-destination 10.0.0.0/8 allows it", "destination"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "carillon", "s3cret"), kfake.SeedTopics(1, "events"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			elsewhere(t, cluster, "events", c.address)
			target := func(patience time.Duration) *kafkaTarget {
				to := targetOf(t, "Kafka", map[string]any{"bootstrapServers": cluster.ListenAddrs()[0], "topic": "events", "security": "SaslPlaintext", "username": "carillon"},
					map[string]string{"password": "s3cret"}, nil).(*kafkaTarget)
				to.cluster.patience = patience
				return to
			}
			// On a busy machine the time may be over before the cluster has named its broker.
			told := func(what string, say func() (text string, ok bool)) {
				var text string
				for range 10 {
					var ok bool
					if text, ok = say(); ok {
						return
					}
				}
				t.Errorf("%s says %q", what, text)
			}
			told("the probe", func() (string, bool) {
				err := target(c.patience).probe(t.Context())
				return fmt.Sprint(err), err != nil && err.Error() == "topic events: "+c.why+look
			})
			if c.attempt == "" {
				return
			}
			told("the attempt", func() (string, bool) {
				got := target(brief).Send(t.Context(), attemptOf("Kafka", 1, suiteEvent(1))).Detail
				return got, strings.HasPrefix(got, c.attempt) && strings.HasSuffix(got, c.why+look)
			})
		})
	}
}

// TestNamedBrokers holds which broker is named where an answer is missing.
func TestNamedBrokers(t *testing.T) {
	const late, look = "the cluster did not answer in time", "; the cluster named it: look at its advertised.listeners"
	long := strings.Repeat("b", 70) + ".example"
	synctest.Test(t, func(t *testing.T) {
		dial := func(address string) error {
			return fmt.Errorf("unable to dial: %w", &egress.DialError{Destination: address, Err: syscall.ECONNREFUSED})
		}
		for _, c := range []struct {
			name string
			note func(n *namedBrokers)
			err  error
			want string
		}{
			{"none", func(*namedBrokers) {}, kgo.ErrRecordTimeout, late},
			{"one that was given", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: -5, Host: "b-1.example", Port: 9092}, 0, nil, dial("b-1.example:9092"))
			}, kgo.ErrRecordTimeout, late},
			{"named as it was given", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 1}, 0, nil, dial("b-1.example:9092"))
			}, kgo.ErrRecordTimeout, late + ": b-1.example:9092: the connection was refused"},
			{"the first of several", func(n *namedBrokers) {
				for _, id := range []int32{3, 2, 4} {
					n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: id}, 0, nil, dial(fmt.Sprintf("b-%d.example:9092", id)))
				}
			}, context.DeadlineExceeded, late + ": b-2.example:9092: the connection was refused" + look},
			{"without an answer", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2, Host: "b-2.example", Port: 9092}, 0, nil, context.DeadlineExceeded)
			}, context.DeadlineExceeded, late + ": b-2.example:9092: the connection could not be opened in time" + look},
			{"the other side hangs up", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2, Host: "b-2.example", Port: 9092}, 0, nil, io.EOF)
			}, io.EOF, "b-2.example:9092: the connection was closed without an answer" + look},
			{"reached again", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, dial("b-2.example:9092"))
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, nil)
			}, kgo.ErrRecordTimeout, late},
			{"the broker says no", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, kerr.SaslAuthenticationFailed)
			}, kgo.ErrRecordTimeout, late},
			{"we stop", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, fmt.Errorf("unable to dial: %w", context.Canceled))
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 3}, 0, nil, kgo.ErrClientClosed)
			}, kgo.ErrRecordTimeout, late},
			{"long ago", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, dial("b-2.example:9092"))
				time.Sleep(2 * kafkaTime)
			}, kgo.ErrRecordTimeout, late},
			{"another answer", func(n *namedBrokers) {
				n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, dial("b-2.example:9092"))
			}, kerr.TopicAuthorizationFailed, "the user may not write to the topic"},
			{"very many", func(n *namedBrokers) {
				for id := range int32(100_000) {
					n.OnBrokerConnect(kgo.BrokerMetadata{NodeID: id}, 0, nil, dial("b-2.example:9092"))
				}
				if len(n.missed) > mostMissed {
					t.Errorf("%d brokers are noted", len(n.missed))
				}
			}, kgo.ErrRecordTimeout, late + ": b-2.example:9092: the connection was refused" + look},
			{"told by the client", func(*namedBrokers) {}, dial("b-2.example:9092"), "b-2.example:9092: the connection was refused" + look},
			{"told by the client, and given", func(*namedBrokers) {}, dial("b-1.example:9092"), "b-1.example:9092: the connection was refused"},
			{"a long name that was given", func(*namedBrokers) {}, dial("…" + long[20:] + ":9092"), "…" + long[20:] + ":9092: the connection was refused"},
		} {
			client := &clusterClient{patience: kafkaTime, named: &namedBrokers{given: []string{"b-1.example:9092", long + ":9092"}, missed: map[int32]missed{}}}
			c.note(client.named)
			if got := client.answer(t.Context(), c.err); got.Detail != c.want {
				t.Errorf("%s: %q, want %q", c.name, got.Detail, c.want)
			}
		}
	})
}
