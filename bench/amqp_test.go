package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/carillon-events/carillon/internal/amqppeer"
)

const (
	// debianEnv names a directory in which the packages rabbitmq-server and Erlang of
	// Debian 12 are unpacked, as interop/run does.
	debianEnv = "CARILLON_DEBIAN_ROOT"

	// readEnv is the node, in JSON, that a counterpart reads.
	readEnv = "CARILLON_BENCH_READ"
)

// amqpNode is an address of a broker of AMQP 1.0.
type amqpNode struct{ Broker, User, Password, Address string }

// session connects to the broker of a node.
func (n amqpNode) session(ctx context.Context) (*amqp.Conn, *amqp.Session, error) {
	authentication := amqp.SASLTypeAnonymous()
	if n.User != "" {
		authentication = amqp.SASLTypePlain(n.User, n.Password)
	}
	conn, err := amqp.Dial(ctx, "amqp://"+n.Broker, &amqp.ConnOptions{SASLType: authentication, MaxFrameSize: 64 << 10})
	if err != nil {
		return nil, nil, err
	}
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		_ = conn.Close()
	}
	return conn, session, err
}

// runAMQP runs a broker that counts its messages, and says beside its address where that
// number is to be had.
func runAMQP(string) (string, error) {
	p, err := amqppeer.Open(amqppeer.Options{Count: true})
	if err != nil {
		return "", err
	}
	count, err := serveCount(p.Taken)
	return p.Addr() + " " + count, err
}

// readAMQP reads what comes to a node, and says where it is to be had how much that was.
func readAMQP(string) (string, error) {
	var n amqpNode
	if err := json.Unmarshal([]byte(os.Getenv(readEnv)), &n); err != nil {
		return "", err
	}
	ctx := context.Background()
	_, session, err := n.session(ctx)
	if err != nil {
		return "", err
	}
	receiver, err := session.NewReceiver(ctx, n.Address, &amqp.ReceiverOptions{Credit: 1000, RequestedSenderSettleMode: amqp.SenderSettleModeSettled.Ptr()})
	if err != nil {
		return "", err
	}
	var read atomic.Int64
	go func() {
		for {
			if _, err := receiver.Receive(ctx, nil); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			read.Add(1)
		}
	}()
	return serveCount(read.Load)
}

// serveCount answers with a number at the URL that it returns.
func serveCount(count func() int64) (url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, count()) }))
	}()
	return "http://" + l.Addr().String(), nil
}

func openAMQPBeside(b *testing.B) counterpart {
	address, count, _ := strings.Cut(spawn(b, "Amqp"), " ")
	return amqpAt(b, amqpNode{Broker: address, Address: backlogTopic}, count)
}

// openRabbitMQ runs RabbitMQ 3 with its plug-in for AMQP 1.0 and a queue, which is read by
// another process.
func openRabbitMQ(b *testing.B) counterpart {
	root := os.Getenv(debianEnv)
	if root == "" {
		b.Skip(debianEnv + " names no directory with RabbitMQ")
	}
	one := func(pattern string) string {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		if len(found) != 1 {
			b.Fatalf("%s in %s: %q", pattern, root, found)
		}
		return found[0]
	}
	program, names, libraries := one("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"), one("usr/lib/erlang/erts-*/bin/epmd"), one("usr/lib/*-linux-gnu")
	dir := b.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	port := func(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
	n := amqpNode{Broker: freeAddress(b), User: "bench", Password: "bench", Address: "/amq/queue/" + backlogTopic}
	namesAt, distribution := freeAddress(b), freeAddress(b)
	definitions := file("definitions.json", `{"vhosts": [{"name": "/"}], "users": [{"name": "bench", "password": "bench", "tags": ""}],
		"permissions": [{"user": "bench", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
		"queues": [{"name": "`+backlogTopic+`", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}]}`)
	settings := file("rabbitmq.conf", "listeners.tcp.1 = "+n.Broker+"\nload_definitions = "+definitions+"\n")
	environment := append(os.Environ(), "LD_LIBRARY_PATH="+libraries, "HOME="+dir, "PATH="+filepath.Join(root, "usr/lib/erlang/bin")+":"+os.Getenv("PATH"), "RUNNING_UNDER_SYSTEMD=true",
		"ERL_EPMD_PORT="+port(namesAt), "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_DIST_PORT="+port(distribution), "RABBITMQ_NODENAME=bench@localhost",
		"RABBITMQ_CONF_ENV_FILE=/dev/null", "RABBITMQ_CONFIG_FILE="+settings, "RABBITMQ_ENABLED_PLUGINS_FILE="+file("plugins", "[rabbitmq_amqp1_0].\n"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"), "RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"))
	for _, cmd := range []*exec.Cmd{exec.Command(names, "-port", port(namesAt)), exec.Command(program)} {
		cmd.Env = environment
		go func(out io.Reader) { _, _ = io.Copy(io.Discard, out) }(start(b, cmd))
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		conn, _, err := n.session(b.Context())
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
	text, err := json.Marshal(n)
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv(readEnv, string(text))
	return amqpAt(b, n, spawn(b, "AmqpReader"))
}

// amqpAt is the counterpart whose node is there. At count it is said how much has come.
func amqpAt(b *testing.B, n amqpNode, count string) counterpart {
	events := stored()
	sent := 0
	settings := map[string]any{"url": "amqp://" + n.Broker, "address": n.Address}
	if n.User != "" {
		settings["username"], settings["password"] = n.User, n.Password
	}
	return counterpart{
		destination: map[string]any{"endpointType": "Amqp", "properties": settings},
		raw: func(b *testing.B, _ []byte, k int) {
			n.transfer(b, k, func(i int) (id string, data []byte) {
				sent++
				return fmt.Sprintf("0f0e2f1c6f0a4a53%016x-9d5b7d0e-5d5a-4f5e-8f7b-0d8f5a5b9f10", sent), events[i%100]
			})
		},
		taken: func() (n int64) {
			answer, err := http.Get(count)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			if _, err := fmt.Fscan(answer.Body, &n); err != nil {
				b.Fatal(err)
			}
			return n
		},
	}
}

// transfer sends k messages over a link with the headers that events have, as many under
// way as the broker lets, and waits until all are accepted.
func (n amqpNode) transfer(b *testing.B, k int, message func(i int) (id string, data []byte)) {
	conn, session, err := n.session(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	sender, err := session.NewSender(b.Context(), n.Address, &amqp.SenderOptions{SettlementMode: amqp.SenderSettleModeUnsettled.Ptr()})
	if err != nil {
		b.Fatal(err)
	}
	receipts := make(chan amqp.SendReceipt, 4096) // more than brokers give credit for
	go func() {
		defer close(receipts)
		contentType := "application/json; charset=utf-8"
		for i := range k {
			id, data := message(i)
			m := &amqp.Message{
				Header: &amqp.MessageHeader{Durable: true}, Properties: &amqp.MessageProperties{ContentType: &contentType, MessageID: id},
				Data: [][]byte{data}, ApplicationProperties: make(map[string]any, len(properties)),
			}
			for name, value := range properties {
				m.ApplicationProperties[name] = value
			}
			receipt, err := sender.SendWithReceipt(b.Context(), m, nil)
			if err != nil {
				b.Error(err)
				return
			}
			receipts <- receipt
		}
	}()
	for receipt := range receipts {
		state, err := receipt.Wait(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, accepted := state.(*amqp.StateAccepted); !accepted {
			b.Fatalf("a message was settled with %T", state)
		}
	}
}
