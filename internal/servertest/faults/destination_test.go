package faults

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carillon-events/carillon/internal/amqppeer"
	"github.com/carillon-events/carillon/internal/mqttpeer"
	"github.com/carillon-events/carillon/internal/servertest"
)

// destinationEvents is how many events go to each destination.
const destinationEvents = 10_000

// How often a destination that is down may be tried: by each of the 64 attempts that may
// be under way and by what begins until ten failures in a row are counted, and from then on
// by probes alone, of which the first comes after 30 s.
const (
	mostTries    = 2 * 64
	restingTries = 1
)

// fickle is a destination that can be taken away and brought back on its address, with
// what it had.
type fickle struct {
	destination map[string]any
	connect     func(*servertest.Server) // nil where it needs no connection
	down, up    func()
	// tries returns how often it was tried while it was down; nil where that is not known.
	tries func() int64
	// read returns the ids of all messages that it has ever taken, repeated ones too.
	read func() []string
}

// TestFaultsAtDestinations takes each destination away in the middle of 10,000 events and
// kills the server as well: nothing is lost, and what is there twice was not settled.
func TestFaultsAtDestinations(t *testing.T) {
	if *faultsFor == 0 {
		t.Skip("needs -faults")
	}
	for name, open := range map[string]func(*testing.T) fickle{"Nats": fickleNATS, "Kafka": fickleKafka, "Amqp": fickleAMQP, "Mqtt": fickleMQTT, "StorageQueue": fickleQueue, "ArgoEvents": fickleTrigger} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is the rest that a destination gets
			o := open(t)
			s := servertest.New(t)
			if o.connect != nil {
				o.connect(s)
			}
			topic, publish := s.Topic("orders")
			s.Must("PUT", topic+"/providers/Microsoft.EventGrid/eventSubscriptions/es1", map[string]any{"properties": map[string]any{"destination": o.destination}}, nil)
			var published atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for n := 0; n < destinationEvents; {
					var events []string
					for i := range 50 {
						events = append(events, fmt.Sprintf(`{"id":"%d","subject":"s","eventType":"T","eventTime":"2026-03-01T10:00:00Z","data":{},"dataVersion":"1"}`, n+i))
					}
					if publish("["+strings.Join(events, ",")+"]") == nil {
						n += 50
						published.Store(int64(n))
					} else {
						time.Sleep(20 * time.Millisecond) // it is being started again
					}
				}
			}()
			until := func(n int64) {
				for published.Load() < n {
					time.Sleep(time.Millisecond)
				}
			}
			until(destinationEvents / 4)
			o.down()
			until(destinationEvents / 2)
			if o.tries != nil {
				before := int64(-1)
				for end := time.Now().Add(arrivalBound); (before < 1 || before != o.tries()) && time.Now().Before(end); { // attempts that had begun fail
					before = o.tries()
					time.Sleep(2 * time.Second)
				}
				time.Sleep(5 * time.Second)
				after := o.tries()
				t.Logf("%d tries until it was known to be down, %d in the 5 s after", before, after-before)
				if before == 0 || before > mostTries || after-before > restingTries {
					t.Errorf("%d tries until it was known to be down, %d in the 5 s after; want 1 to %d, and at most %d", before, after-before, mostTries, restingTries)
				}
			}
			o.up()
			until(3 * destinationEvents / 4)
			s.Kill()
			s.Restart()
			<-done
			began := time.Now()
			var ids []string
			distinct := map[string]int{}
			for time.Since(began) < 3*time.Minute {
				clear(distinct)
				ids = o.read()
				for _, id := range ids {
					distinct[id]++
				}
				if len(distinct) >= destinationEvents {
					break
				}
				time.Sleep(500 * time.Millisecond)
			}
			missing := 0
			for n := range destinationEvents {
				if distinct[strconv.Itoa(n)] == 0 {
					missing++
				}
			}
			t.Logf("%d messages of %d events, %d missing, whole after %s", len(ids), len(distinct), missing, time.Since(began).Round(time.Second))
			if missing > 0 {
				t.Errorf("%d of %d events are lost", missing, destinationEvents)
			}
			// what was under way when either side was taken away, and the publisher's own
			// repeats of a request that was not answered
			if most := destinationEvents / 4; len(ids) > destinationEvents+most {
				t.Errorf("%d messages of %d events", len(ids), destinationEvents)
			}
		})
	}
}

// fickleAMQP is an AMQP 1.0 broker that keeps everything.
func fickleAMQP(t *testing.T) fickle {
	peer := amqppeer.Start(t, amqppeer.Options{})
	return fickle{
		destination: map[string]any{"endpointType": "Amqp", "properties": map[string]any{"url": "amqp://" + peer.Addr(), "address": "ml-events"}},
		down:        peer.Down,
		up: func() {
			if err := peer.Up(); err != nil {
				t.Fatal(err)
			}
		},
		read: func() (ids []string) {
			for _, m := range peer.Messages("ml-events") {
				_, after, _ := strings.Cut(m.Body, `"id":"`)
				id, _, _ := strings.Cut(after, `"`)
				ids = append(ids, id)
			}
			return ids
		},
	}
}

// fickleMQTT is an MQTT server whose messages are kept.
func fickleMQTT(t *testing.T) fickle {
	peer := mqttpeer.Start(t, mqttpeer.Options{})
	return fickle{
		destination: map[string]any{"endpointType": "Mqtt", "properties": map[string]any{"serverUrl": peer.URL(), "topic": "ml/events"}},
		down:        peer.Down,
		up: func() {
			if err := peer.Up(); err != nil {
				t.Fatal(err)
			}
		},
		read: func() (ids []string) {
			for _, m := range peer.Messages("") {
				ids = append(ids, idOf([]byte(m.Body)))
			}
			return ids
		},
	}
}

// fickleNATS is a nats-server whose stream keeps everything.
func fickleNATS(t *testing.T) fickle {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	dir := t.TempDir()
	var s *natsserver.Server
	up := func() {
		var err error
		s, err = natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(time.Minute) {
			t.Fatal("nats-server is not ready")
		}
	}
	down := func() { s.Shutdown(); s.WaitForShutdown() }
	up()
	t.Cleanup(func() { down() })
	connect := func() (*nats.Conn, jetstream.JetStream) {
		nc, err := nats.Connect(s.ClientURL(), nats.Timeout(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return nc, js
	}
	nc, js := connect()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ML", Subjects: []string{"ml.>"}}); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	return fickle{
		destination: map[string]any{"endpointType": "Nats", "properties": map[string]any{"url": s.ClientURL(), "subject": "ml.events"}},
		down:        down, up: up,
		read: func() (ids []string) {
			nc, js := connect()
			defer nc.Close()
			c, err := js.OrderedConsumer(t.Context(), "ML", jetstream.OrderedConsumerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			for {
				batch, err := c.FetchNoWait(1000)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for m := range batch.Messages() {
					ids, n = append(ids, idOf(m.Data())), n+1
				}
				if n == 0 {
					return ids
				}
			}
		},
	}
}

// fickleKafka is a Kafka broker, down in that it closes each connection.
func fickleKafka(t *testing.T) fickle {
	d := &door{inside: map[net.Conn]bool{}}
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "events"), kfake.ListenFn(d.listen))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	address := broker.ListenAddrs()[0]
	reader, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ConsumeTopics("events"), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	var ids []string
	return fickle{
		destination: map[string]any{"endpointType": "Kafka", "properties": map[string]any{"bootstrapServers": address, "topic": "events", "security": "Plaintext"}},
		down:        func() { d.move(true) }, up: func() { d.move(false) },
		read: func() []string {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				fetches := reader.PollFetches(ctx)
				cancel()
				if fetches.NumRecords() == 0 {
					return ids
				}
				fetches.EachRecord(func(r *kgo.Record) { ids = append(ids, idOf(r.Value)) })
			}
		},
	}
}

// door is a listener that can be shut: who is inside is put out, and who comes is sent away.
type door struct {
	net.Listener
	mu     sync.Mutex
	shut   bool
	inside map[net.Conn]bool
}

func (d *door) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	d.Listener = l
	return d, err
}

func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		if d.shut {
			_ = c.Close()
		} else {
			d.inside[c] = true
		}
		shut := d.shut
		d.mu.Unlock()
		if !shut {
			return c, nil
		}
	}
}

func (d *door) move(shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = shut
	for c := range d.inside {
		_ = c.Close()
	}
	clear(d.inside)
}

// fickleQueue is a storage account, down in that it closes each connection.
func fickleQueue(t *testing.T) fickle {
	q := servertest.NewQueue(t)
	return fickle{
		destination: q.Destination(), connect: q.Connect, down: q.Down, up: q.Up, tries: q.Tries.Load,
		read: func() (ids []string) {
			for _, event := range q.Events() {
				ids = append(ids, idOf(event))
			}
			return ids
		},
	}
}

// fickleTrigger is an event source of Argo Events, down in that it closes each connection.
func fickleTrigger(t *testing.T) fickle {
	var mu sync.Mutex
	var ids []string
	f := servertest.NewFickle(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		event, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, idOf(event))
	}))
	return fickle{
		destination: map[string]any{"endpointType": "ArgoEvents", "properties": map[string]any{"url": f.URL() + "/models"}},
		down:        f.Down, up: f.Up, tries: f.Tries.Load,
		read: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(ids)
		},
	}
}

// idOf is the id of an event of these tests.
func idOf(event []byte) string {
	_, after, _ := strings.Cut(string(event), `"id":"`)
	id, _, _ := strings.Cut(after, `"`)
	return id
}
