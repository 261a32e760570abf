package destination

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// A targetSender is the sender of a destination that is no webhook. Its resource.Kind
// describes it.
type targetSender interface {
	broker.Sender
	// probe asks for what has to be there, as far as it can be asked without an effect.
	// The error is fit to be shown.
	probe(ctx context.Context) error
	// preview says what is sent of the message or request i, for people: secrets are
	// hidden. Where nothing can be said without asking, it is what is known.
	preview(r *broker.Request, i int) manage.Receipt
}

// targetConfig is what a target needs to know of its event subscription, secrets opened.
type targetConfig struct {
	kind    *resource.Kind
	uid     string // of the event subscription
	name    string // of it, in upper case as headers have it
	schema  event.Schema
	values  resource.Values
	secrets map[string]string
	static  []attribute // delivery attributes that are the same for every event
	beside  bool        // the event subscription's own sender may be at work meanwhile

	guard       *egress.Guard
	pools       *Pools
	connections *Connections
}

// attribute is a property of a message.
type attribute struct {
	name, value string
	secret      bool
}

// kindOf is what this package adds to a resource.Kind.
type targetKind struct {
	check func(c *targetConfig) error // what the description does not say; optional
	open  func(c *targetConfig) (targetSender, error)
}

// targetKinds has an entry for each resource.Kind; a test holds it to that.
var targetKinds = map[string]targetKind{
	"Amqp":            {checkAMQP, openAMQP},
	"ServiceBusQueue": {checkServiceBus, openServiceBus},
	"ServiceBusTopic": {checkServiceBus, openServiceBus},
	"EventHub":        {checkEventHub, openEventHub},
	"Kafka":           {checkKafka, openKafka},
	"Mqtt":            {checkMQTT, openMQTT},
	"Nats":            {checkNATS, openNATS},
	"Pull":            {nil, openPull},
	"StorageQueue":    {checkStorageQueue, openStorageQueue},

	"AzureFunction":       {checkInherited, openFunction},
	"HybridConnection":    {checkInherited, openRelay},
	"DataFactoryPipeline": {checkTrigger(checkDataFactory), openTrigger(dataFactory)},
	"Airflow":             {checkTrigger(checkAirflow), openTrigger(airflow)},
	"GitHubRepository":    {checkTrigger(checkGitHub), openTrigger(gitHubRepository)},
	"GitHubWorkflow":      {checkTrigger(checkGitHub), openTrigger(gitHubWorkflow)},
	"GitLab":              {checkTrigger(nil), openTrigger(gitLab)},
	"ArgoWorkflow":        {checkTrigger(nil), openTrigger(argoWorkflow)},
	"ArgoWorkflowEvent":   {checkTrigger(nil), openTrigger(argoEvent)},
	"ArgoEvents":          {checkTrigger(nil), openTrigger(argoEvents)},
	"Prefect":             {checkTrigger(nil), openTrigger(prefect)},
	"Dagster":             {checkTrigger(nil), openTrigger(dagster)},
	"Jenkins":             {checkTrigger(nil), openTrigger(jenkins)},
	"KubernetesJob":       {checkTrigger(checkKubernetesJob), openTrigger(kubernetesJob)},
	"Slack":               {checkTrigger(nil), openTrigger(slack)},
	"Teams":               {checkTrigger(nil), openTrigger(teams)},
}

// Targets makes the senders of destinations that are no webhooks. It satisfies
// manage.Targets.
type Targets struct {
	sealer      manage.Opener
	guard       *egress.Guard
	pools       *Pools
	connections *Connections
}

var _ manage.Targets = (*Targets)(nil)

// NewTargets returns Targets whose senders dial through guard, and keep what they make
// requests over in pools.
func NewTargets(sealer manage.Opener, guard *egress.Guard, pools *Pools, connections *Connections) *Targets {
	return &Targets{sealer: sealer, guard: guard, pools: pools, connections: connections}
}

// Check satisfies manage.Targets.
func (t *Targets) Check(kind *resource.Kind, values resource.Values, secrets map[string]string) error {
	of := targetKinds[kind.Name]
	if of.check == nil {
		return nil
	}
	return of.check(&targetConfig{kind: kind, values: values, secrets: secrets, guard: t.guard, pools: t.pools, connections: t.connections})
}

// probeTime bounds what a destination is asked when an event subscription is made.
const probeTime = 15 * time.Second

// Probe satisfies manage.Targets.
func (t *Targets) Probe(ctx context.Context, es *resource.EventSubscription) error {
	to, err := t.open(es, true)
	if err != nil {
		return err
	}
	defer to.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return to.probe(ctx)
}

// Sender returns the sender of an event subscription. It connects when it is asked to
// send.
func (t *Targets) Sender(es *resource.EventSubscription) (broker.Sender, error) {
	return t.open(es, false)
}

// open makes the sender of an event subscription, or one beside it for a question.
func (t *Targets) open(es *resource.EventSubscription, beside bool) (targetSender, error) {
	kind := resource.KindOf(es.Destination.Type)
	if kind == nil || es.Destination.Target == nil {
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The destination type %q is not known.", es.Destination.Type)
	}
	c := &targetConfig{
		kind: kind, uid: es.UID.String(), name: strings.ToUpper(es.Name), schema: es.DeliverySchema, values: es.Destination.Target.Values,
		guard: t.guard, pools: t.pools, connections: t.connections, beside: beside,
	}
	var err error
	if c.secrets, err = manage.OpenFields(t.sealer, es, es.Destination.Target); err != nil {
		return nil, err
	}
	for _, a := range es.Destination.Target.DeliveryAttributes {
		if a.Type == resource.AttributeDynamic {
			continue
		}
		value, err := manage.OpenAttribute(t.sealer, es, &a)
		if err != nil {
			return nil, err
		}
		c.static = append(c.static, attribute{a.Name, value, a.Secret()})
	}
	return targetKinds[kind.Name].open(c)
}

// properties are what travels with a message beside its body: what the headers of a
// webhook say, and the delivery attributes. Source: spec/handlers.md section 5.
func (c *targetConfig) properties(p *broker.Part) []attribute {
	return c.appendProperties(make([]attribute, 0, 7+len(c.static)+len(p.Attributes)), p)
}

// appendProperties appends the properties of a message.
func (c *targetConfig) appendProperties(out []attribute, p *broker.Part) []attribute {
	out = append(out, attribute{name: "aeg-subscription-name", value: c.name}, attribute{name: "aeg-delivery-count", value: strconv.Itoa(p.Count)},
		attribute{name: "aeg-event-type", value: "Notification"})
	for _, a := range [...]attribute{
		{name: "aeg-output-event-id", value: p.Single.OutputID}, {name: "aeg-metadata-version", value: p.Single.MetadataVersion},
		{name: "aeg-data-version", value: p.Single.DataVersion}, {name: "carillon-replay", value: p.Replay},
	} {
		if a.value != "" {
			out = append(out, a)
		}
	}
	out = append(out, c.static...)
	for _, a := range p.Attributes {
		out = append(out, attribute{name: a.Name, value: a.Value})
	}
	return out
}

// wholeOf is what a request without Parts says, as one part.
func wholeOf(r *broker.Request) *broker.Part {
	p := broker.Part{To: len(r.Body), Count: r.Count, Attributes: r.Attributes, Replay: r.Replay}
	if r.Single != nil {
		p.Single = *r.Single
	}
	return &p
}

// dialTLS connects through the guard and makes the TLS handshake.
func dialTLS(ctx context.Context, guard *egress.Guard, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c, err := guard.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config := guard.TLS()
	config.ServerName = host
	secured := tls.Client(c, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, &egress.DialError{Destination: address, Err: &tlsError{err}}
	}
	return secured, nil
}

// messageID tells a message from others, the same each time it is sent.
func (c *targetConfig) messageID(p *broker.Part) string {
	id := p.Single.OutputID + "-" + c.uid
	if p.Replay != "" {
		id += "-" + p.Replay
	}
	return id
}

// receipt shows a message with a line of its own and its properties.
func receipt(line string, properties []attribute) manage.Receipt {
	r := manage.Receipt{RequestLine: line}
	for _, a := range properties {
		if a.secret {
			a.value = secret.Hidden
		}
		r.Headers = append(r.Headers, manage.Header{Name: a.name, Value: a.value})
	}
	return r
}

// each gives all parts that have none yet the same response.
func each(parts []broker.Part, r broker.Response) {
	for i := range parts {
		if parts[i].Outcome == broker.NotAttempted {
			parts[i].Response = r
		}
	}
}

// addresses reads a list of URLs, separated by commas, of some schemes. Whether they may
// be connected to is decided when they are; what never may is refused here.
func addresses(field, list string, schemes ...string) ([]string, error) {
	var out []string
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme):
			return nil, fault.Field(field, "The address %.120s is not one: write it like %s://host:port.", secret.MaskURL(text), schemes[0])
		case u.User != nil:
			return nil, fault.Field(field, "The address holds a user or password, which would be shown: give them in fields of their own.")
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
			return nil, fault.Field(field, "The address %.120s has more than a host and a port: write it like %s://host:port.", secret.MaskURL(text), schemes[0])
		}
		out = append(out, u.Scheme+"://"+u.Host)
	}
	return out, nil
}

// unready is the error of a probe, for people.
func unready(format string, args ...any) error { return fmt.Errorf(format, args...) }

// connectionError is that the connection of a resource is missing or cannot be used. It shows nothing of it.
type connectionError struct{ err error }

func (e *connectionError) Error() string { return e.err.Error() }
func (e *connectionError) Unwrap() error { return e.err }

// shortAnswers is an HTTP client that reads no more of an answer than anybody needs. It
// satisfies policy.Transporter.
type shortAnswers struct{ client *http.Client }

func (s shortAnswers) Do(r *http.Request) (*http.Response, error) {
	resp, err := s.client.Do(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, mostAnswer), resp.Body}
	}
	return resp, err
}
