package bench

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carillon-events/carillon/internal/mqttpeer"
	"github.com/carillon-events/carillon/internal/servertest"
)

// counterpart is what a destination other than a webhook delivers to, in this process.
type counterpart struct {
	destination map[string]any
	connect     func(*servertest.Server) // nil where it needs no connection
	// raw sends n messages of a body by the client's library alone, as many in flight as a
	// server has, and returns when all are answered for.
	raw func(b *testing.B, body []byte, n int)
	// taken is how many messages are there.
	taken func() int64
}

// BenchmarkDestination publishes events in batches of 100 to one event subscription and
// waits until all are at the destination, beside the rate of the library that the
// destination is spoken to with, and reports the ratio to that.
func BenchmarkDestination(b *testing.B) {
	for _, kind := range []struct {
		name string
		open func(*testing.B) counterpart
	}{{"Nats", openNATS}, {"Kafka", openKafka}, {"Mqtt", openMQTT}, {"StorageQueue", openQueue}} {
		var limit figure
		b.Run("kind="+kind.name+"/limit=raw", func(b *testing.B) {
			c := kind.open(b)
			body := []byte(event(1))
			began := cpu()
			b.ResetTimer()
			c.raw(b, body, b.N)
			b.StopTimer()
			limit = figure{rate(b, b.N, 0), reportCPU(b, began, b.N)}
			if n := c.taken(); n != int64(b.N) {
				b.Fatalf("%d of %d messages are there", n, b.N)
			}
		})
		b.Run("kind="+kind.name+"/in=100", func(b *testing.B) {
			c := kind.open(b)
			s := servertest.NewLocal(b)
			if c.connect != nil {
				c.connect(s)
			}
			t := newTopic(b, s)
			s.Must("PUT", t.id+"/providers/Microsoft.EventGrid/eventSubscriptions/bench", map[string]any{"properties": map[string]any{"destination": c.destination}}, nil)
			payload, requests := body(100), max(b.N/100, 1)
			total := int64(100 * requests)
			began := cpu()
			b.ResetTimer()
			t.post(payload, 16, requests)
			for deadline := time.Now().Add(2 * time.Minute); c.taken() < total; time.Sleep(20 * time.Millisecond) { // a look costs NATS a request
				if time.Now().After(deadline) {
					b.Fatalf("%d of %d events delivered", c.taken(), total)
				}
			}
			b.StopTimer()
			figure{rate(b, int(total), 0), reportCPU(b, began, int(total))}.against(b, limit, 0.7)
		})
	}
}

// properties are what travels with a message beside its body, as a server has them.
var properties = map[string]string{
	"aeg-subscription-name": "BENCH", "aeg-delivery-count": "0", "aeg-event-type": "Notification", "aeg-data-version": "1", "aeg-metadata-version": "1",
	"aeg-output-event-id": "0f0e2f1c-6f0a-4a53-9d51-1e5d2f5b8f4e",
}

// flown calls send n times, so many at a time.
func flown(b *testing.B, n, atATime int, send func() error) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range atATime {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := send(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// openNATS runs a nats-server whose stream is in a file.
func openNATS(b *testing.B) counterpart {
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: b.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		b.Fatal("nats-server is not ready")
	}
	return natsAt(b, s.ClientURL(), func(body []byte, _ int) ([]byte, []jetstream.PublishOpt) { return body, nil })
}

// natsAt is the counterpart whose server is there. message is the body of the i-th message of
// the client's own, with what it is published by.
func natsAt(b *testing.B, url string, message func(body []byte, i int) ([]byte, []jetstream.PublishOpt)) counterpart {
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		b.Fatal(err)
	}
	stream, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "ML", Subjects: []string{"ml.>"}})
	if err != nil {
		b.Fatal(err)
	}
	return counterpart{
		destination: map[string]any{"endpointType": "Nats", "properties": map[string]any{"url": url, "subject": "ml.events"}},
		raw: func(b *testing.B, body []byte, n int) {
			for i := range n {
				data, options := message(body, i)
				m := &nats.Msg{Subject: "ml.events", Data: data, Header: nats.Header{"Content-Type": {"application/json; charset=utf-8"}}}
				for name, value := range properties {
					m.Header[name] = []string{value}
				}
				if _, err := js.PublishMsgAsync(m, append(options, jetstream.WithStallWait(time.Minute))...); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
		},
		taken: func() int64 {
			info, err := stream.Info(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			return int64(info.State.Msgs)
		},
	}
}

// produce writes n records with the headers that events have, and waits until they are
// acknowledged.
func produce(b *testing.B, client *kgo.Client, n int, record func(i int) (key, value []byte)) {
	for i := range n {
		r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json; charset=utf-8")}}}
		r.Key, r.Value = record(i)
		for name, value := range properties {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
		client.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := client.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// openKafka runs kfake, which has a broker in memory.
func openKafka(b *testing.B) counterpart {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "ml-events"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return counterpart{
		destination: map[string]any{"endpointType": "Kafka", "properties": map[string]any{"bootstrapServers": c.ListenAddrs()[0], "topic": "ml-events"}},
		raw: func(b *testing.B, body []byte, n int) {
			client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic("ml-events"), kgo.ProducerLinger(0))
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			produce(b, client, n, func(int) (key, value []byte) { return []byte("models/churn:1"), body })
		},
		taken: func() (n int64) {
			for partition := range int32(2) {
				if info := c.PartitionInfo("ml-events", partition); info != nil {
					n += info.HighWatermark
				}
			}
			return n
		},
	}
}

// openMQTT runs an MQTT server in memory, which says of each message that it has it.
func openMQTT(b *testing.B) counterpart {
	peer := mqttpeer.Start(b, mqttpeer.Options{})
	return counterpart{
		destination: map[string]any{"endpointType": "Mqtt", "properties": map[string]any{"serverUrl": peer.URL(), "topic": "ml/events"}},
		raw: func(b *testing.B, body []byte, n int) {
			conn, err := net.Dial("tcp", peer.Addr())
			if err != nil {
				b.Fatal(err)
			}
			client := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn)})
			if _, err := client.Connect(context.Background(), &paho.Connect{ClientID: "raw", KeepAlive: 60, CleanStart: true}); err != nil {
				b.Fatal(err)
			}
			flown(b, n, 400, func() error {
				m := &paho.Publish{Topic: "ml/events", QoS: 1, Payload: body, Properties: &paho.PublishProperties{ContentType: "application/json; charset=utf-8"}}
				for name, value := range properties {
					m.Properties.User.Add(name, value)
				}
				_, err := client.Publish(context.Background(), m)
				return err
			})
			_ = client.Disconnect(&paho.Disconnect{})
		},
		taken: peer.Taken,
	}
}

// openQueue runs a stand-in of a storage account.
func openQueue(b *testing.B) counterpart {
	q := servertest.NewQueue(b)
	q.Seen = func([]byte) {}
	return counterpart{
		destination: q.Destination(), connect: q.Connect,
		raw: func(b *testing.B, body []byte, n int) {
			client, err := azqueue.NewQueueClientFromConnectionString(q.Connection(), "ml-events", &azqueue.ClientOptions{ClientOptions: policy.ClientOptions{
				Transport: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
			}})
			if err != nil {
				b.Fatal(err)
			}
			flown(b, n, 64, func() error {
				_, err := client.EnqueueMessage(context.Background(), base64.StdEncoding.EncodeToString(body), nil)
				return err
			})
		},
		taken: q.Taken.Load,
	}
}
