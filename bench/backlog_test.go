package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/carillon-events/carillon/internal/servertest"
)

// counterpartEnv names what this program runs in place of tests: a counterpart in a
// process of its own, so that processor time and garbage of the two are apart.
const counterpartEnv = "CARILLON_BENCH_COUNTERPART"

// kafkaEnv names a directory with the jars of Apache Kafka, as interop/run fetches them.
const kafkaEnv = "CARILLON_KAFKA"

func TestMain(m *testing.M) {
	var run func(dir string) (address string, err error)
	switch os.Getenv(counterpartEnv) {
	case "Nats":
		run = runNATS
	case "Kfake":
		run = runKfake
	case "WebHook":
		run = runWebHook
	case "Amqp":
		run = runAMQP
	case "AmqpReader":
		run = readAMQP
	default:
		servertest.Main(m)
		return
	}
	address, err := run(os.Getenv("TMPDIR"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(address)
	_, _ = io.Copy(io.Discard, os.Stdin) // until whoever started it lets go
}

func runNATS(dir string) (string, error) {
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return "", err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return "", fmt.Errorf("nats-server is not ready")
	}
	return s.ClientURL(), nil
}

func runKfake(string) (string, error) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, backlogTopic))
	if err != nil {
		return "", err
	}
	return c.ListenAddrs()[0], nil
}

const (
	backlogTopic = "ml-events"

	// warmUp is how many messages a counterpart takes before anything is measured: a
	// virtual machine of Java compiles meanwhile.
	warmUp = 100_000
)

// spawn runs a counterpart of this program in a process of its own, until the end of the
// benchmark, and returns its address.
func spawn(b *testing.B, name string) string {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), counterpartEnv+"="+name, "TMPDIR="+b.TempDir())
	out := start(b, cmd)
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// start starts a process that ends with the benchmark and returns its output.
func start(b *testing.B, cmd *exec.Cmd) io.Reader {
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		_, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out
}

// backlogRounds is how often the two sides of BenchmarkBacklog take turns, so that both
// have the same share of what else a machine does.
const backlogRounds = 4

// BenchmarkBacklog hands a backlog that is stored already to a destination in a process
// of its own, in turns with the client library by itself, which sends as many bytes and
// headers to the same counterpart, with keys that spread alike, the same acknowledgements
// waited for, as many on their way. What it costs to publish and store events, for which
// the library has no counterpart, is outside of it; reading the log, and journal and
// history of each delivery are inside. raw/s and raw-cpu-µs are the library's.
func BenchmarkBacklog(b *testing.B) {
	for _, kind := range []struct {
		name string
		open func(*testing.B) counterpart
	}{{"WebHook", openWebHookBeside}, {"ArgoEvents", openArgoEventsBeside}, {"Airflow", openAirflowBeside}, {"AirflowFields", openAirflowFieldsBeside}, {"Nats", openNATSBeside}, {"Kafka", openApacheKafka}, {"Kfake", openKfakeBeside}, {"Amqp", openAMQPBeside}, {"RabbitMq", openRabbitMQ}} {
		b.Run("kind="+kind.name, func(b *testing.B) {
			c := kind.open(b)
			c.raw(b, nil, warmUp)
			t := newTopic(b, servertest.NewLocal(b))
			at := t.id + "/providers/Microsoft.EventGrid/eventSubscriptions/bench"
			t.s.Must("PUT", at, map[string]any{"properties": map[string]any{"destination": c.destination}}, nil)
			requests := max(b.N/backlogRounds/100, 1)
			events := int64(100 * requests)
			want := int64(warmUp)
			arrive := func() {
				want += events
				for deadline := time.Now().Add(2 * time.Minute); c.taken() < want; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(deadline) {
						b.Fatalf("%d of %d messages are there", c.taken(), want)
					}
				}
			}
			var raw, stored effort
			for round := range int64(backlogRounds) {
				raw.measure(func() {
					c.raw(b, nil, int(events))
					arrive()
				})
				t.s.Must("POST", at+"/pause", nil, nil)
				t.post(body(100), 16, requests)
				for metric(b, t.s, "eventgrid_matched_events_total") < float64((round+1)*events) { // the dispatcher is past them
					time.Sleep(10 * time.Millisecond)
				}
				stored.measure(func() {
					t.s.Must("POST", at+"/resume", nil, nil)
					arrive()
				})
			}
			limit, f := raw.per(backlogRounds*events), stored.per(backlogRounds*events)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(limit.rate, "raw/s")
			b.ReportMetric(limit.cpu, "raw-cpu-µs")
			b.ReportMetric(f.rate, "events/s")
			b.ReportMetric(f.cpu, "cpu-µs")
			f.against(b, limit, 0.7)
		})
	}
}

// effort is what something took, in several pieces.
type effort struct{ time, cpu time.Duration }

func (e *effort) measure(f func()) {
	began, had := time.Now(), cpu()
	f()
	e.time, e.cpu = e.time+time.Since(began), e.cpu+cpu()-had
}

// per is the effort for each of n events.
func (e effort) per(n int64) figure {
	return figure{rate: float64(n) / e.time.Seconds(), cpu: float64(e.cpu.Nanoseconds()) / 1000 / float64(n)}
}

// stored are the events of body(100) as they are delivered.
func stored() (events [100][]byte) {
	for i := range events {
		events[i] = []byte(strings.TrimSuffix(event(i), "}") + `,"topic":"` + servertest.Group + `/providers/Microsoft.EventGrid/topics/bench","metadataVersion":"1"}`)
	}
	return events
}

func openNATSBeside(b *testing.B) counterpart {
	events := stored()
	sent := 0 // with ids of their own: a repeated one is not stored
	return natsAt(b, spawn(b, "Nats"), func(_ []byte, i int) ([]byte, []jetstream.PublishOpt) {
		id := fmt.Sprintf("0f0e2f1c6f0a4a53%016x-9d5b7d0e-5d5a-4f5e-8f7b-0d8f5a5b9f10", sent)
		sent++
		return events[i%100], []jetstream.PublishOpt{jetstream.WithMsgID(id)}
	})
}

func openKfakeBeside(b *testing.B) counterpart { return kafkaAt(b, spawn(b, "Kfake")) }

// openApacheKafka runs a broker of Apache Kafka with a topic of two partitions.
func openApacheKafka(b *testing.B) counterpart {
	jars := os.Getenv(kafkaEnv)
	if jars == "" {
		b.Skip(kafkaEnv + " names no directory with Apache Kafka")
	}
	dir, address, controller := b.TempDir(), freeAddress(b), freeAddress(b)
	settings := filepath.Join(dir, "server.properties")
	text := strings.Join([]string{
		"process.roles=broker,controller", "node.id=1", "controller.quorum.voters=1@" + controller, "controller.listener.names=CONTROLLER",
		"listeners=PLAINTEXT://" + address + ",CONTROLLER://" + controller, "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.Join(dir, "logs"), "num.partitions=2", "offsets.topic.replication.factor=1",
	}, "\n")
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	java := func(arguments ...string) *exec.Cmd {
		return exec.Command("java", append([]string{"-Xmx512m", "-Dslf4j.internal.verbosity=ERROR", "-cp", filepath.Join(jars, "*")}, arguments...)...)
	}
	if out, err := java("kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", settings).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	go func(out io.Reader) { _, _ = io.Copy(io.Discard, out) }(start(b, java("kafka.Kafka", settings)))
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	create := kmsg.NewCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = backlogTopic, 2, 1
	create.Topics = append(create.Topics, topic)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if _, err = create.RequestWith(b.Context(), client); err == nil {
			return kafkaAt(b, address)
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}

func freeAddress(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// kafkaAt is the counterpart whose broker is there.
func kafkaAt(b *testing.B, address string) counterpart {
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	return counterpart{
		destination: map[string]any{"endpointType": "Kafka", "properties": map[string]any{"bootstrapServers": address, "topic": backlogTopic}},
		raw: func(b *testing.B, _ []byte, n int) {
			client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic(backlogTopic), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
				kgo.ProducerBatchMaxBytes(1<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			events := stored()
			produce(b, client, n, func(i int) (key, value []byte) { return fmt.Appendf(nil, "models/churn:%d", i%100), events[i%100] })
		},
		taken: func() (n int64) {
			request := kmsg.NewListOffsetsRequest()
			request.ReplicaID = -1
			topic := kmsg.NewListOffsetsRequestTopic()
			topic.Topic = backlogTopic
			for partition := range int32(2) {
				p := kmsg.NewListOffsetsRequestTopicPartition()
				p.Partition, p.Timestamp = partition, -1
				topic.Partitions = append(topic.Partitions, p)
			}
			request.Topics = append(request.Topics, topic)
			for _, shard := range client.RequestSharded(context.Background(), &request) {
				if shard.Err != nil {
					b.Fatal(shard.Err)
				}
				for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
					for _, p := range t.Partitions {
						n += max(p.Offset, 0)
					}
				}
			}
			return n
		},
	}
}
