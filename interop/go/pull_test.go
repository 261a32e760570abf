package interop

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/messaging"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/aznamespaces"
)

// queue is an event subscription whose events are received, as it shows itself.
type queue struct{ endpoint, topic, name string }

func (s *server) queue(t *testing.T, source string) queue {
	t.Helper()
	var shown struct {
		Properties struct {
			Receive struct{ Endpoint, Topic string }
		}
	}
	s.manage(t, "PUT", source+"/providers/Microsoft.EventGrid/eventSubscriptions/inbox", "2025-02-15", map[string]any{"properties": map[string]any{
		"destination": map[string]any{"endpointType": "Pull", "properties": map[string]any{"receiveLockDurationInSeconds": 60}},
	}}, &shown)
	return queue{shown.Properties.Receive.Endpoint, shown.Properties.Receive.Topic, "inbox"}
}

// inbox receives and fails the test when that many events do not come.
func inbox(t *testing.T, client *aznamespaces.ReceiverClient, n int) []aznamespaces.ReceiveDetails {
	t.Helper()
	var got []aznamespaces.ReceiveDetails
	for len(got) < n {
		resp, err := client.ReceiveEvents(t.Context(), &aznamespaces.ReceiveEventsOptions{MaxEvents: to.Ptr(int32(n - len(got))), MaxWaitTime: to.Ptr(int32(20))})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Details) == 0 {
			t.Fatalf("received %d events, want %d", len(got), n)
		}
		got = append(got, resp.Details...)
	}
	return got
}

// settled fails the test unless all but a number of lock tokens were taken, and the others
// are lost.
func settled(t *testing.T, what string, err error, succeeded []string, failed []aznamespaces.FailedLockToken, want, lost int) {
	t.Helper()
	if err != nil || len(succeeded) != want || len(failed) != lost {
		t.Errorf("%s: %d succeeded, %d failed, %v, want %d and %d", what, len(succeeded), len(failed), err, want, lost)
	}
	for _, f := range failed {
		if f.Error == nil || *f.Error.Code != "TokenLost" || *f.Error.Message == "" || *f.LockToken == "" {
			t.Errorf("%s: %+v", what, f)
		}
	}
}

// TestPullWithKey publishes to a topic and receives from it with the client of namespaces
// and the topic's key: each operation, and a token that does not hold any more.
func TestPullWithKey(t *testing.T) {
	s := newServer(t)
	topic := s.topic(t, "CloudEventSchemaV1_0")
	q := s.queue(t, topic.id)
	key := azcore.NewKeyCredential(topic.key)
	sender, err := aznamespaces.NewSenderClientWithSharedKeyCredential(q.endpoint, q.topic, key, &aznamespaces.SenderClientOptions{ClientOptions: s.options})
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := aznamespaces.NewReceiverClientWithSharedKeyCredential(q.endpoint, q.topic, q.name, key, &aznamespaces.ReceiverClientOptions{ClientOptions: s.options})
	if err != nil {
		t.Fatal(err)
	}
	var events []*messaging.CloudEvent
	for _, id := range []string{"one", "two", "three"} {
		e, err := messaging.NewCloudEvent("/shop", "Shop.OrderPlaced", map[string]string{"number": id}, &messaging.CloudEventOptions{Subject: to.Ptr("orders/" + id)})
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, &e)
	}
	if _, err := sender.SendEvent(t.Context(), events[0], nil); err != nil {
		t.Fatal(err)
	}
	if _, err := sender.SendEvents(t.Context(), events[1:], nil); err != nil {
		t.Fatal(err)
	}
	got := inbox(t, receiver, 3)
	var tokens []string
	for i, d := range got {
		var data map[string]string
		if err := json.Unmarshal(d.Event.Data.([]byte), &data); err != nil {
			t.Fatal(err)
		}
		if d.Event.ID != events[i].ID || *d.Event.Subject != *events[i].Subject || data["number"] == "" || *d.BrokerProperties.DeliveryCount != 1 {
			t.Errorf("event %d is %+v, %v, delivered %d times", i, d.Event, data, *d.BrokerProperties.DeliveryCount)
		}
		tokens = append(tokens, *d.BrokerProperties.LockToken)
	}
	renewed, err := receiver.RenewEventLocks(t.Context(), tokens, nil)
	settled(t, "renew", err, renewed.SucceededLockTokens, renewed.FailedLockTokens, 3, 0)
	acknowledged, err := receiver.AcknowledgeEvents(t.Context(), tokens[:1], nil)
	settled(t, "acknowledge", err, acknowledged.SucceededLockTokens, acknowledged.FailedLockTokens, 1, 0)
	rejected, err := receiver.RejectEvents(t.Context(), tokens[1:2], nil)
	settled(t, "reject", err, rejected.SucceededLockTokens, rejected.FailedLockTokens, 1, 0)
	released, err := receiver.ReleaseEvents(t.Context(), tokens, &aznamespaces.ReleaseEventsOptions{ReleaseDelayInSeconds: to.Ptr(aznamespaces.ReleaseDelayNoDelay)})
	settled(t, "release", err, released.SucceededLockTokens, released.FailedLockTokens, 1, 2)
	if again := inbox(t, receiver, 1); again[0].Event.ID != events[2].ID || *again[0].BrokerProperties.DeliveryCount != 2 {
		t.Errorf("released, and then received %+v, delivered %d times", again[0].Event, *again[0].BrokerProperties.DeliveryCount)
	}
	wrong, err := aznamespaces.NewReceiverClientWithSharedKeyCredential(q.endpoint, q.topic, q.name, azcore.NewKeyCredential("bm8="), &aznamespaces.ReceiverClientOptions{ClientOptions: s.options})
	if err != nil {
		t.Fatal(err)
	}
	_, err = wrong.ReceiveEvents(t.Context(), nil)
	wantStatus(t, "another key", err, 401, "Unauthorized")
	ctx, leave := context.WithTimeout(t.Context(), 100*time.Millisecond) // whoever leaves takes nothing
	defer leave()
	if _, err := receiver.ReceiveEvents(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("left: %v", err)
	}
}

// TestPullWithToken receives what a workspace raises with a token, which takes the role of
// a receiver and, by the strict rule, write permission on the workspace.
func TestPullWithToken(t *testing.T) {
	s := newServer(t)
	workspace := group + "/providers/Microsoft.MachineLearningServices/workspaces/" + unique("pull")
	s.manage(t, "PUT", workspace, "2024-10-01", map[string]any{"location": "local"}, nil)
	q := s.queue(t, workspace)
	var who struct{ AppID, Password, Tenant, ObjectID string }
	s.manage(t, "POST", "/providers/Carillon.Identity/principals", "2026-11-01", map[string]any{"name": unique("worker")}, &who)
	credential, err := azidentity.NewClientSecretCredential(who.Tenant, who.AppID, who.Password,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: s.options, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := aznamespaces.NewReceiverClient(q.endpoint, q.topic, q.name, credential, &aznamespaces.ReceiverClientOptions{ClientOptions: s.options})
	if err != nil {
		t.Fatal(err)
	}
	_, err = receiver.ReceiveEvents(t.Context(), nil)
	wantStatus(t, "without a role", err, 403, "Forbidden")
	for _, role := range []string{"78cbd9e7-9798-4e2e-9b5a-547d9ebb31fb", "b24988ac-6180-42a0-ab88-20f7382dd24c"} { // EventGrid Data Receiver, Contributor
		s.manage(t, "PUT", workspace+"/providers/Microsoft.Authorization/roleAssignments/"+newGUID(), "2022-04-01", map[string]any{"properties": map[string]any{
			"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/" + role, "principalId": who.ObjectID,
		}}, nil)
	}
	s.manage(t, "PUT", workspace+"/experiments/churn/runs/r1", "2026-11-01", map[string]any{"properties": map[string]any{"status": "Completed"}}, nil)
	got := inbox(t, receiver, 1)
	if e := got[0].Event; e.Type != "Microsoft.MachineLearningServices.RunCompleted" {
		t.Errorf("received %+v", e)
	}
	acknowledged, err := receiver.AcknowledgeEvents(t.Context(), []string{*got[0].BrokerProperties.LockToken}, nil)
	settled(t, "acknowledge", err, acknowledged.SucceededLockTokens, acknowledged.FailedLockTokens, 1, 0)
}
