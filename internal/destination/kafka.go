package destination

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// cluster is how a Kafka cluster is reached.
type cluster struct {
	brokers   []string
	topic     string
	secure    bool // by TLS
	mechanism sasl.Mechanism
	patience  time.Duration // for an answer
}

// How long a cluster may take, and how long its connections are kept: Event Hubs close
// idle ones after 240 s. Source: spec/handlers.md section 5.
const (
	kafkaTime       = 20 * time.Second
	kafkaConnIdle   = 180 * time.Second
	kafkaMostRecord = 1 << 20 // bytes; brokers may take less
)

// dial makes the client of a cluster and has it connect to one of the brokers: later on it
// would hide for what reason it cannot.
func (c cluster) dial(ctx context.Context, guard *egress.Guard) (*clusterClient, error) {
	named := &namedBrokers{given: c.brokers, missed: map[int32]missed{}}
	options := []kgo.Opt{
		kgo.WithHooks(named),
		kgo.SeedBrokers(c.brokers...), kgo.ClientID("carillon"), kgo.SoftwareNameAndVersion("carillon", "1"),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordDeliveryTimeout(c.patience), kgo.ProduceRequestTimeout(c.patience / 2), kgo.UnknownTopicRetries(1),
		kgo.RequestRetries(2), kgo.RetryTimeout(c.patience / 2), kgo.ConnIdleTimeout(kafkaConnIdle), kgo.MetadataMaxAge(kafkaConnIdle),
		kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(kafkaMostRecord),
		kgo.ProducerBatchCompression(kgo.NoCompression()), // Event Hubs take gzip at most, and not in every tier; not every consumer has snappy
		kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
			if !c.secure {
				return guard.DialClear(ctx, network, host)
			}
			return dialTLS(ctx, guard, network, host)
		}),
	}
	if c.mechanism != nil {
		options = append(options, kgo.SASL(c.mechanism))
	}
	client, err := kgo.NewClient(options...)
	if err != nil { // its text may show what was given
		return nil, errors.New("the client cannot be made of these settings")
	}
	ctx, cancel := context.WithTimeout(ctx, c.patience/2)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return &clusterClient{client, c.patience, named}, nil
}

// shipment is the records of one attempt and what has come of each so far. Its memory is
// used again when the cluster has taken all of them.
type shipment struct {
	records []kgo.Record
	headers []kgo.RecordHeader // of all records
	text    []byte             // keys, and values of headers

	parts      []int       // of the request, whose records they are
	properties []attribute // of the record that is made

	promises []func(*kgo.Record, error) // one for each record, which tell answered

	mu   sync.Mutex
	errs []error       // answers; DeadlineExceeded until there is one
	left int           // records that are not answered for
	over bool          // nobody waits for answers any more
	done chan struct{} // closed when all records are answered for
}

var shipments = sync.Pool{New: func() any { return new(shipment) }}

// mostShipped bounds the headers, and the bytes of text, of a shipment that is used again.
const mostShipped = 1 << 16

func newShipment() *shipment { return shipments.Get().(*shipment) }

// recycle lets go of a shipment, to be used again if that is safe: a client may still hold
// records that it was not answered for, or gave up.
func (s *shipment) recycle() {
	if s.left > 0 || slices.ContainsFunc(s.errs, func(err error) bool { return err != nil }) || max(len(s.headers), len(s.text)) > mostShipped {
		return
	}
	clear(s.records)
	clear(s.headers)
	clear(s.properties)
	s.records, s.headers, s.text, s.parts, s.properties, s.errs, s.over = s.records[:0], s.headers[:0], s.text[:0], s.parts[:0], s.properties[:0], s.errs[:0], false
	shipments.Put(s)
}

// reserve makes room for n records, with as many headers as most have.
func (s *shipment) reserve(n int) {
	s.records, s.headers, s.text = slices.Grow(s.records, n), slices.Grow(s.headers, 8*n), slices.Grow(s.text, 160*n)
}

// value keeps the value of a header, or a key.
func (s *shipment) value(text string) []byte {
	from := len(s.text)
	s.text = append(s.text, text...)
	return s.text[from:len(s.text):len(s.text)]
}

// header adds a header to the record that is made.
func (s *shipment) header(name, value string) {
	s.headers = append(s.headers, kgo.RecordHeader{Key: name, Value: s.value(value)})
}

// add adds a record with the headers from the given one on.
func (s *shipment) add(r kgo.Record, from int) {
	r.Headers = s.headers[from:len(s.headers):len(s.headers)]
	s.records = append(s.records, r)
}

// send sends the records; answers tell what came of each. Records that the cluster has not
// answered for when ctx ends, or in time, leave the client behind: broken. It may read them
// still; it reads none that it has answered for.
func (s *shipment) send(ctx context.Context, client *clusterClient) (broken bool) {
	if len(s.records) == 0 {
		return false
	}
	within, cancel := context.WithTimeout(ctx, client.patience+client.patience/4)
	defer cancel()
	s.begin()
	now := time.Now()
	for i := range s.records {
		s.records[i].Timestamp = now
		client.Produce(within, &s.records[i], s.promises[i])
	}
	select {
	case <-s.done:
	case <-within.Done():
	}
	return s.end()
}

func (s *shipment) begin() {
	for i := len(s.promises); i < len(s.records); i++ {
		s.promises = append(s.promises, func(_ *kgo.Record, err error) { s.answered(i, err) })
	}
	for range s.records {
		s.errs = append(s.errs, context.DeadlineExceeded)
	}
	s.left, s.done = len(s.records), make(chan struct{})
}

func (s *shipment) answered(i int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.errs[i] = err
	if s.left--; s.left == 0 {
		close(s.done)
	}
}

// end ends the wait for answers.
func (s *shipment) end() (broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return s.left > 0
}

// clusterClient is the client of a cluster, and what it met at the brokers.
type clusterClient struct {
	*kgo.Client
	patience time.Duration
	named    *namedBrokers
}

// namedBrokers are the brokers that a cluster named. A cluster is asked by the addresses
// that were given, and records go to others, which it advertises: where one of these is
// not reached, its records wait without a word until their time is over. It is a hook of
// the client.
type namedBrokers struct {
	given []string // the addresses that are not of the cluster's own naming

	mu     sync.Mutex
	missed map[int32]missed // those whose last connection was not made, by their id
}

type missed struct {
	at  time.Time
	why error
}

// mostMissed bounds the brokers that are noted, for a cluster may name very many.
const mostMissed = 100

// OnBrokerConnect satisfies kgo.HookBrokerConnect.
func (n *namedBrokers) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if meta.NodeID < 0 || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) { // one that was given, or we stop
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.missed, meta.NodeID)
	if _, answers := errors.AsType[*kerr.Error](err); err != nil && !answers && len(n.missed) < mostMissed {
		n.missed[meta.NodeID] = missed{time.Now(), unreachedAt(meta.Host, meta.Port, err)}
	}
}

// unreachedAt is err with the address of the broker, if it has none.
func unreachedAt(host string, port int32, err error) error {
	if unreached(err) {
		return err
	}
	return &egress.DialError{Destination: net.JoinHostPort(host, strconv.Itoa(int(port))), Err: err}
}

// lately is why the first of the brokers was not reached that were tried in a time, nil when
// all were. A broker that the cluster names no more is tried no more.
func (n *namedBrokers) lately(within time.Duration) (why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(n.missed)) {
		if m := n.missed[id]; time.Since(m.at) < within {
			return m.why
		}
	}
	return nil
}

// advertised reports whether the place that was not reached is of the cluster's naming.
func (n *namedBrokers) advertised(err error) bool {
	place := ""
	if refused, is := errors.AsType[*egress.RefusedError](err); is {
		place, _, _ = strings.Cut(refused.Destination, " ")
	} else if failed, is := errors.AsType[*egress.DialError](err); is {
		place = failed.Destination
	}
	end, long := strings.CutPrefix(place, "…")
	return place != "" && !slices.ContainsFunc(n.given, func(address string) bool {
		return address == place || long && strings.HasSuffix(address, end)
	})
}

// answer is kafkaAnswer, with the broker that is not reached, if there is one, where
// records or requests come to nothing for that reason.
func (c *clusterClient) answer(ctx context.Context, err error) broker.Response {
	r := kafkaAnswer(ctx, err)
	switch r.Outcome {
	case broker.TimedOut, broker.SocketError, broker.ResolutionError:
	default:
		return r
	}
	if !unreached(err) {
		if err = c.named.lately(2 * c.patience); err == nil {
			return r
		}
		if detail := unconnected(err).Detail; strings.HasSuffix(detail, r.Detail) {
			r.Detail = detail
		} else {
			r.Detail += ": " + detail
		}
	}
	if c.named.advertised(err) {
		r.Detail += "; the cluster named it: look at its advertised.listeners"
	}
	r.Detail = short(r.Detail)
	return r
}

// kafkaAnswer tells what a cluster's answer to a record means.
// Source: spec/handlers.md sections 5 and 15; error codes: kafka.apache.org/protocol.
func kafkaAnswer(ctx context.Context, err error) broker.Response {
	answer := func(o broker.Outcome, detail string) broker.Response {
		return broker.Response{Outcome: o, Detail: detail, Verdict: broker.TryAgain}
	}
	if err == nil {
		return broker.Response{Outcome: broker.Delivered}
	}
	code, is := errors.AsType[*kerr.Error](err)
	noConnection, isConnection := errors.AsType[*connectionError](err)
	switch {
	case ctx.Err() != nil:
		return canceled()
	case isConnection:
		return answer(broker.Unauthorized, short(noConnection.Error()))
	case unreached(err): // also of a broker that the cluster named
		return unconnected(err)
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord):
		return broker.Response{Outcome: broker.PayloadTooLarge, Detail: "the record is larger than the broker or the topic takes, or not valid there"}
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InvalidTopicException):
		return answer(broker.NotFound, "the topic is not there")
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed), errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		return answer(broker.Unauthorized, "the user may not write to the topic")
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.IllegalSaslState), errors.Is(err, kerr.UnsupportedSaslMechanism):
		return answer(broker.Unauthorized, "the broker does not take the credentials")
	case errors.Is(err, kerr.ThrottlingQuotaExceeded):
		return answer(broker.Busy, "the user is over its quota")
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, kerr.RequestTimedOut):
		return answer(broker.TimedOut, "the cluster did not answer in time")
	case errors.Is(err, kgo.ErrMaxBuffered):
		return answer(broker.Busy, "the cluster does not keep up")
	case is:
		return answer(broker.GenericError, "the broker answered "+code.Message)
	}
	return unconnected(err)
}

// kafkaHub sends arrays of events to an event hub by the Kafka protocol.
// Source: spec/handlers.md section 5.
type kafkaHub struct {
	*targetConfig
	link[*clusterClient]
	topic string
}

// hub reads the connection of the event hub, or of its namespace.
func (c *targetConfig) hub() (cluster, error) {
	id := c.values.ID("resourceId")
	text, err := c.connections.ofEntity(id)
	if err != nil {
		return cluster{}, err
	}
	hub, err := kafkaConnection(text)
	hub.topic, hub.patience = id.Name(), kafkaTime
	if err != nil {
		return hub, fmt.Errorf("the connection string of %s %w", id, err)
	}
	return hub, nil
}

// kafkaConnection reads a connection string: one of Event Hubs, or one of a Kafka cluster
// that stands for them. Its errors show nothing of it.
func kafkaConnection(text string) (c cluster, err error) {
	values := connectionValues(text)
	if list := values["bootstrapservers"]; list != "" {
		if c.brokers, err = brokerList(list); err != nil {
			return c, errors.New("has BootstrapServers that are not host:port, separated by commas")
		}
		security := strings.ToLower(values["security"])
		c.secure = strings.HasSuffix(security, "tls")
		if strings.HasPrefix(security, "sasl") {
			c.mechanism, err = mechanismOf(values["mechanism"], values["username"], values["password"])
		}
		return c, err
	}
	endpoint, err := url.Parse(values["endpoint"])
	if err != nil || endpoint.Hostname() == "" || values["sharedaccesskey"] == "" {
		return c, errors.New("cannot be used: it needs Endpoint, SharedAccessKeyName and SharedAccessKey, or BootstrapServers with Security, Mechanism, Username and Password")
	}
	port := "9093"
	if c.secure = true; strings.EqualFold(values["usedevelopmentemulator"], "true") {
		port, c.secure = "9092", false
	}
	c.brokers = []string{net.JoinHostPort(endpoint.Hostname(), port)}
	c.mechanism = plain.Auth{User: "$ConnectionString", Pass: text}.AsMechanism()
	return c, nil
}

func brokerList(list string) (brokers []string, err error) {
	for text := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(strings.TrimSpace(text))
		if err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("%.120s is not host:port", text)
		}
		brokers = append(brokers, net.JoinHostPort(host, port))
	}
	return brokers, nil
}

func mechanismOf(name, user, password string) (sasl.Mechanism, error) {
	switch strings.ToUpper(name) {
	case "", "PLAIN":
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, errors.New("names a mechanism that is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512")
}

func openKafkaHub(c *targetConfig) *kafkaHub {
	t := &kafkaHub{targetConfig: c, topic: c.values.ID("resourceId").Name()}
	t.link.dial = func(ctx context.Context) (*clusterClient, error) { // each time by the connection in force
		hub, err := c.hub()
		if err != nil {
			return nil, &connectionError{err}
		}
		return hub.dial(ctx, c.guard)
	}
	t.end = func(client *clusterClient) { client.Close() }
	t.by = c.connectionString
	return t
}

func (t *kafkaHub) Send(ctx context.Context, r *broker.Request) (resp broker.Response) {
	err := t.use(ctx, func(client *clusterClient) (broken bool) {
		if r.Fill() != nil {
			resp = canceled()
			return false
		}
		s := newShipment()
		defer s.recycle()
		t.load(s, r)
		broken = s.send(ctx, client)
		letGo(r, broken)
		resp = client.answer(ctx, s.errs[0])
		return broken || resp.Outcome == broker.Unauthorized // keys may have been renewed
	})
	if err != nil {
		return kafkaAnswer(ctx, err)
	}
	return resp
}

// letGo lets go of the body of a request, which a client that is left behind may still read.
func letGo(r *broker.Request, broken bool) {
	if broken {
		r.Abandon()
	} else {
		r.Sent()
	}
}

// load makes the record of a request, whose body it holds.
func (t *kafkaHub) load(s *shipment, r *broker.Request) {
	out := kgo.Record{Topic: t.topic, Value: r.Body}
	s.header("content-type", r.ContentType)
	for _, a := range t.properties(wholeOf(r)) {
		if strings.EqualFold(a.name, partitionKey) {
			out.Key = s.value(a.value)
			continue
		}
		s.header(a.name, a.value)
	}
	s.add(out, 0)
}

func (t *kafkaHub) probe(ctx context.Context) error {
	var problem error
	if err := t.use(ctx, func(client *clusterClient) bool {
		problem = probeTopic(ctx, client, t.topic)
		return problem != nil
	}); err != nil {
		return unready("topic %s: %s", t.topic, kafkaAnswer(ctx, err).Detail)
	}
	return problem
}

// mostLeaders bounds the brokers that a probe connects to.
const mostLeaders = 16

// probeTopic looks for a topic, and whether the brokers are reached that lead its
// partitions: records go to these.
func probeTopic(ctx context.Context, client *clusterClient, topic string) error {
	request := kmsg.NewPtrMetadataRequest()
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = kmsg.StringPtr(topic)
	request.Topics, request.AllowAutoTopicCreation = append(request.Topics, asked), false
	var answer *kmsg.MetadataResponse
	var err error
	for _, seed := range client.SeedBrokers() { // others may be those that are not reached
		if answer, err = request.RequestWith(ctx, seed); err == nil {
			break
		}
	}
	if err == nil && len(answer.Topics) == 1 {
		err = kerr.ErrorForCode(answer.Topics[0].ErrorCode)
	}
	switch r := client.answer(ctx, err); r.Outcome {
	case broker.Delivered:
		return probeLeaders(ctx, client, topic, answer)
	case broker.NotFound:
		return unready("topic %s: it is not there; create it, or name another one", topic)
	default:
		return unready("topic %s: %s", topic, r.Detail)
	}
}

// probeLeaders asks the brokers that lead the partitions of a topic something small.
func probeLeaders(ctx context.Context, client *clusterClient, topic string, cluster *kmsg.MetadataResponse) error {
	brokers := map[int32]kmsg.MetadataResponseBroker{}
	for _, b := range cluster.Brokers {
		brokers[b.NodeID] = b
	}
	var leaders []kmsg.MetadataResponseBroker
	for _, t := range cluster.Topics {
		for _, p := range t.Partitions {
			if b, is := brokers[p.Leader]; is && len(leaders) < mostLeaders {
				leaders = append(leaders, b)
				delete(brokers, p.Leader)
			}
		}
	}
	within, cancel := context.WithTimeout(ctx, client.patience/4)
	defer cancel()
	errs := make([]error, len(leaders))
	var group sync.WaitGroup
	for i, b := range leaders {
		group.Go(func() {
			_, errs[i] = client.Broker(int(b.NodeID)).Request(within, kmsg.NewPtrApiVersionsRequest())
		})
	}
	group.Wait()
	for i, err := range errs {
		if _, answers := errors.AsType[*kerr.Error](err); err != nil && !answers {
			err = unreachedAt(leaders[i].Host, leaders[i].Port, err)
		}
		if r := client.answer(ctx, err); r.Outcome != broker.Delivered {
			return unready("topic %s: %s", topic, r.Detail)
		}
	}
	return nil
}

func (t *kafkaHub) preview(r *broker.Request, _ int) manage.Receipt {
	return receipt("PRODUCE "+t.topic, append([]attribute{{name: "content-type", value: r.ContentType}}, t.properties(wholeOf(r))...))
}

// kafkaTarget produces a record for each event. Source: spec/handlers.md section 14.10;
// cloudevents/spec: cloudevents/bindings/kafka-protocol-binding.md.
type kafkaTarget struct {
	*targetConfig
	cluster cluster
	key     eventTemplate
	binary  bool
	link[*clusterClient]
}

func checkKafka(c *targetConfig) error {
	if _, err := brokerList(c.values.Text("bootstrapServers")); err != nil {
		return fault.Field("bootstrapServers", "The brokers cannot be used: %v.", err)
	}
	if _, err := parseTemplate(c.values.Text("key")); err != nil {
		return fault.Field("key", "The key cannot be used: %v.", err)
	}
	sasl := strings.HasPrefix(c.values.Text("security"), "Sasl")
	switch given := c.values.Text("username") != ""; {
	case sasl && !given:
		return fault.Field("username", "The security %s needs a username and its password.", c.values.Text("security"))
	case !sasl && (given || c.secrets["password"] != ""):
		return fault.Field("security", "A username is shown with SaslTls or SaslPlaintext only: choose one of them as security.")
	}
	return nil
}

func openKafka(c *targetConfig) (targetSender, error) {
	t := &kafkaTarget{targetConfig: c, binary: c.values.Text("contentMode") == "binary"}
	if t.binary && c.schema != event.CloudEventSchemaV1_0 {
		return nil, unready("contentMode binary is for CloudEvents: deliver in CloudEventSchemaV1_0, or use structured")
	}
	key := c.values.Text("key")
	if c.values["key"] == nil {
		key = c.kind.Field("key").Default
	}
	var err error
	if t.key, err = parseTemplate(key); err != nil {
		return nil, err
	}
	if t.cluster.brokers, err = brokerList(c.values.Text("bootstrapServers")); err != nil {
		return nil, err
	}
	security := c.values.Text("security")
	t.cluster.topic, t.cluster.secure, t.cluster.patience = c.values.Text("topic"), strings.HasSuffix(security, "Tls"), kafkaTime
	if strings.HasPrefix(security, "Sasl") {
		if t.cluster.mechanism, err = mechanismOf(c.values.Text("mechanism"), c.values.Text("username"), c.secrets["password"]); err != nil {
			return nil, err
		}
	}
	t.link.dial = func(ctx context.Context) (*clusterClient, error) { return t.cluster.dial(ctx, c.guard) }
	t.end = func(client *clusterClient) { client.Close() }
	return t, nil
}

func (t *kafkaTarget) Send(ctx context.Context, r *broker.Request) broker.Response {
	err := t.use(ctx, func(client *clusterClient) (broken bool) {
		if r.Fill() != nil {
			each(r.Parts, canceled())
			return false
		}
		s := newShipment()
		defer s.recycle()
		s.reserve(len(r.Parts))
		for i := range r.Parts {
			if err := t.load(s, r, i); err != nil {
				r.Parts[i].Response = broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())}
			}
		}
		broken = s.send(ctx, client)
		letGo(r, broken)
		for n, i := range s.parts {
			r.Parts[i].Response = client.answer(ctx, s.errs[n])
		}
		return broken
	})
	if err != nil {
		return kafkaAnswer(ctx, err)
	}
	return broker.Together(r.Parts)
}

// load makes the record of a part, whose body it holds.
func (t *kafkaTarget) load(s *shipment, r *broker.Request, i int) (err error) {
	p := &r.Parts[i]
	body := r.Body[p.From:p.To:p.To]
	out := kgo.Record{Topic: t.cluster.topic, Value: body}
	from := len(s.text)
	if s.text, err = t.key.appendTo(s.text, body, t.schema, nil); err != nil {
		return err
	}
	if to := len(s.text); to > from {
		out.Key = s.text[from:to:to]
	}
	first := len(s.headers)
	if !t.binary {
		s.header("content-type", r.ContentType)
	} else if out.Value, err = cloudEventParts(body, func(name, value string) {
		if name == "datacontenttype" {
			s.header("content-type", value)
		} else {
			s.header("ce_"+name, value)
		}
	}); err != nil {
		return err
	}
	s.properties = t.appendProperties(s.properties[:0], p)
	for _, a := range s.properties {
		s.header(a.name, a.value)
	}
	s.add(out, first)
	s.parts = append(s.parts, i)
	return nil
}

// cloudEventParts takes a CloudEvent apart for the binary mode: its data, and its
// attributes, of which datacontenttype is always one.
func cloudEventParts(body []byte, attribute func(name, value string)) (data []byte, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, errors.New("the event is not a JSON object")
	}
	for name, raw := range members {
		var text string
		switch {
		case name == "data":
			data = raw
		case name == "data_base64":
			if err := json.Unmarshal(raw, &text); err != nil {
				return nil, errors.New("data_base64 of the event is not a string")
			}
			if data, err = base64.StdEncoding.DecodeString(text); err != nil {
				return nil, errors.New("data_base64 of the event is not base64")
			}
		case string(raw) == "null":
		default:
			if raw[0] != '"' {
				text = string(raw)
			} else if err := json.Unmarshal(raw, &text); err != nil {
				return nil, fmt.Errorf("attribute %.40s of the event is not a string", name)
			}
			attribute(name, text)
		}
	}
	if members["datacontenttype"] == nil {
		attribute("datacontenttype", "application/json")
	}
	return data, nil
}

func (t *kafkaTarget) probe(ctx context.Context) error {
	var problem error
	if err := t.use(ctx, func(client *clusterClient) bool {
		problem = probeTopic(ctx, client, t.cluster.topic)
		return problem != nil
	}); err != nil {
		return unready("topic %s: %s", t.cluster.topic, kafkaAnswer(ctx, err).Detail)
	}
	return problem
}

func (t *kafkaTarget) preview(r *broker.Request, i int) manage.Receipt {
	properties, s := []attribute{{name: "content-type", value: r.ContentType}}, new(shipment)
	if err := t.load(s, r, i); err == nil {
		properties = []attribute{{name: "key", value: string(s.records[0].Key)}}
		for _, h := range s.headers[:len(s.headers)-len(s.properties)] {
			properties = append(properties, attribute{name: h.Key, value: string(h.Value)})
		}
	}
	return receipt("PRODUCE "+t.cluster.topic, append(properties, t.properties(&r.Parts[i])...))
}
