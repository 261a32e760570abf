package destination

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/queueerror"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// storageQueueTarget puts messages into a queue of an Azure storage account, each the
// base64 of one event. Nothing else travels with a message.
// Source: spec/handlers.md section 8.
type storageQueueTarget struct {
	*targetConfig
	queue string
	life  int32 // seconds; -1 for ever

	mu         sync.Mutex
	connection string // that client was made of
	client     *azqueue.QueueClient
}

// The name of a queue. Source: learn.microsoft.com/rest/api/storageservices,
// "Naming Queues and Metadata".
var queueName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// defaultQueueLife is for how long a message stays, in seconds.
// Source: spec/handlers.md section 8.
const defaultQueueLife = 7 * 24 * 60 * 60

func checkStorageQueue(c *targetConfig) error {
	name := c.values.Text("queueName")
	switch {
	case len(name) < 3 || !queueName.MatchString(name):
		return fault.Field("queueName", "The queue '%.80s' cannot be used: a queue's name has 3 to 63 lower-case letters, digits and single hyphens, with a letter or digit at both ends.", name)
	case c.values.Int("queueMessageTimeToLiveInSeconds", defaultQueueLife) == 0:
		return fault.Field("queueMessageTimeToLiveInSeconds", "A message that lives for 0 seconds is gone before it can be read: use 1 or more, or -1 for ever.")
	}
	if _, err := c.connections.of(c.values.ID("resourceId")); err != nil {
		return fault.Field("resourceId", "The storage account cannot be used: %v.", err)
	}
	return nil
}

func openStorageQueue(c *targetConfig) (targetSender, error) {
	return &storageQueueTarget{
		targetConfig: c, queue: c.values.Text("queueName"), life: int32(c.values.Int("queueMessageTimeToLiveInSeconds", defaultQueueLife)),
	}, nil
}

// open returns the client of the queue by the connection that is in force now.
func (t *storageQueueTarget) open() (*azqueue.QueueClient, error) {
	account := t.values.ID("resourceId")
	connection, err := t.connections.of(account)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil && t.connection == connection {
		return t.client, nil
	}
	client, err := azqueue.NewQueueClientFromConnectionString(connection, t.queue, &azqueue.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: shortAnswers{t.guard.Client(answerTime)},
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{Disabled: true},
	}})
	if err != nil { // its text may show the connection string
		return nil, unready("the connection string of %s cannot be used: it needs AccountName and AccountKey, or QueueEndpoint and SharedAccessSignature", account)
	}
	t.client, t.connection = client, connection
	return client, nil
}

func (t *storageQueueTarget) Send(ctx context.Context, r *broker.Request) broker.Response {
	client, err := t.open()
	if err != nil {
		return broker.Response{Outcome: broker.Unauthorized, Detail: short(err.Error()), Verdict: broker.TryAgain}
	}
	if r.Fill() != nil {
		return canceled()
	}
	defer r.Sent()
	within, cancel := context.WithTimeout(ctx, min(r.Hold, answerTime))
	defer cancel()
	for i := range r.Parts {
		p := &r.Parts[i]
		text := base64.StdEncoding.EncodeToString(r.Body[p.From:p.To])
		_, err := client.EnqueueMessage(within, text, &azqueue.EnqueueMessageOptions{TimeToLive: &t.life})
		p.Response = t.answered(ctx, err)
		if o := p.Outcome; o != broker.Delivered && o != broker.PayloadTooLarge && o != broker.BadRequest {
			each(r.Parts[i+1:], p.Response) // what stands in its way stands in theirs
			break
		}
	}
	return broker.Together(r.Parts)
}

// answered tells what a queue's answer means. Source: spec/handlers.md sections 8 and 15.
func (t *storageQueueTarget) answered(ctx context.Context, err error) broker.Response {
	if err == nil {
		return broker.Response{Outcome: broker.Delivered, Status: http.StatusCreated}
	}
	answer, is := errors.AsType[*azcore.ResponseError](err)
	switch {
	case ctx.Err() != nil:
		return canceled()
	case is && (answer.ErrorCode == string(queueerror.QueueNotFound) || answer.StatusCode == http.StatusNotFound):
		return broker.Response{Outcome: broker.NotFound, Status: answer.StatusCode, Detail: "the queue is not there", Verdict: broker.TryAgain}
	case is:
		return azureAnswer(answer.StatusCode, answer.ErrorCode)
	case errors.Is(err, context.DeadlineExceeded):
		return timedOut(answerTime)
	}
	return unconnected(err)
}

// azureAnswer is what a status of an Azure resource means: as for webhooks, but that 401
// and 404 are tried again. Source: spec/delivery.md sections 3.3 and 3.4.
func azureAnswer(status int, code string) broker.Response {
	r := broker.Response{Outcome: OutcomeOf(status), Status: status, Detail: short(statusDetail(status) + " " + code)}
	if r.Outcome == broker.Unauthorized || r.Outcome == broker.NotFound {
		r.Verdict = broker.TryAgain
	}
	return r
}

// Close satisfies broker.Sender: connections are the guard's client's, which lets them go.
func (t *storageQueueTarget) Close() {}

func (t *storageQueueTarget) probe(ctx context.Context) error {
	client, err := t.open()
	if err != nil {
		return err
	}
	_, err = client.GetProperties(ctx, nil)
	switch r := t.answered(ctx, err); {
	case err == nil || r.Outcome == broker.Forbidden: // it may add and not read
		return nil
	case r.Outcome == broker.NotFound:
		return unready("storage account %s has no queue %s: create it, or name another one", t.values.ID("resourceId").Name(), t.queue)
	default:
		return unready("storage account %s: %s", t.values.ID("resourceId").Name(), r.Detail)
	}
}

func (t *storageQueueTarget) preview(*broker.Request, int) manage.Receipt {
	return receipt("POST /"+t.queue+"/messages", nil)
}
