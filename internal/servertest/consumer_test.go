package servertest

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/mlevent"
)

// consuming is a handler of package consumer that says what it handled.
type consuming struct {
	*consumer.Handler
	url  string
	told chan string
}

func newConsuming(t *testing.T, options ...consumer.Option) *consuming {
	t.Helper()
	c := &consuming{told: make(chan string, 16)}
	tell := func(e consumer.Envelope, what string) error {
		c.told <- strings.TrimPrefix(e.Type, "Microsoft.MachineLearningServices.") + " " + what
		return nil
	}
	h, err := consumer.New(append([]consumer.Option{consumer.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
			return tell(e.Envelope, e.Data.RunID)
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			return tell(e.Envelope, e.Data.RunID+" "+string(e.Data.RunStatus))
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.ModelRegistered]) error {
			if e.Data.ModelTags["stage"] == "odd" && e.Delivery.Replay == "" {
				return consumer.DeadLetter(errors.New("odd"))
			}
			return tell(e.Envelope, e.Data.ModelName+":"+e.Data.ModelVersion)
		}),
		consumer.OnDeleted(func(_ context.Context, id string) { c.told <- "deleted " + id }),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	c.Handler = h
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c.url = server.URL + "/hook?code=s3cret"
	return c
}

// hears waits until the handler has handled what is wanted, in any order.
func (c *consuming) hears(t *testing.T, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, text := range want {
		missing[text] = true
	}
	for len(missing) > 0 {
		select {
		case text := <-c.told:
			if !missing[text] {
				t.Errorf("the handler handled %q, which is not among %v", text, missing)
			}
			delete(missing, text)
		case <-time.After(patience):
			t.Fatalf("the handler has not handled %v; its counts are %+v", missing, c.Stats())
		}
	}
}

// TestConsumer has handlers of package consumer take what the server sends: handshakes, both
// schemas, batches, signatures, tokens, a dead letter and its replay.
func TestConsumer(t *testing.T) {
	s := New(t)
	shared := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	seed := []byte(strings.Repeat("\x07", ed25519.SeedSize))
	public := "whpk_" + base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	const code = "s3cret"
	topics := consumer.Topics(Workspace)
	tenant := s.tenant(t)
	handlers := map[string]*consuming{
		"signed":  newConsuming(t, topics, consumer.SharedKey(code), consumer.Signed(shared)),
		"ed25519": newConsuming(t, topics, consumer.Signed(public)),
		"token": newConsuming(t, topics, consumer.BearerToken(consumer.Token{
			Issuer: s.URL + "/" + tenant + "/v2.0", Audience: []string{"api://hook"}, Callers: []string{access.DeliveryAppID}, Client: s.Client.HTTP,
		})),
	}
	subscribe := func(name string, c *consuming, schema string, destination map[string]any) error {
		properties := map[string]any{"endpointUrl": c.url}
		maps.Copy(properties, destination)
		_, err := s.Do(t.Context(), "PUT", Workspace+"/providers/Microsoft.EventGrid/eventSubscriptions/"+name, nil, map[string]any{"properties": map[string]any{
			"eventDeliverySchema": schema, "destination": map[string]any{"endpointType": "WebHook", "properties": properties},
		}}, nil, nil)
		return err
	}
	signing := func(version, key string) map[string]any {
		return map[string]any{"signing": map[string]any{"version": version, "key": key}}
	}
	for _, err := range []error{
		subscribe("signed", handlers["signed"], "EventGridSchema", signing("v1", shared)),
		subscribe("ed25519", handlers["ed25519"], "CloudEventSchemaV1_0", merged(signing("v1a", "whsk_"+base64.StdEncoding.EncodeToString(seed)), "maxEventsPerBatch", 10)),
		subscribe("token", handlers["token"], "CloudEventSchemaV1_0", map[string]any{"azureActiveDirectoryTenantId": tenant, "azureActiveDirectoryApplicationIdOrUri": "api://hook"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// A handler of another topic, one without the key, one with another, agree to nothing.
	for name, c := range map[string]*consuming{
		"stranger": newConsuming(t, consumer.Topics(Workspace+"2")), "unsigned": newConsuming(t, topics, consumer.Signed(shared)),
		"keyless": newConsuming(t, topics, consumer.SharedKey("another")),
	} {
		if err := subscribe(name, c, "EventGridSchema", nil); err == nil || c.Stats().Refused == 0 {
			t.Errorf("%s: %v, %+v", name, err, c.Stats())
		}
	}

	properties := func(pairs ...any) map[string]any { return map[string]any{"properties": merged(nil, pairs...)} }
	s.Must("PUT", Workspace+"/experiments/churn/runs/r1", properties("status", "Completed"), nil)
	s.Must("PUT", Workspace+"/experiments/churn/runs/r2", properties("status", "Failed"), nil)
	s.Must("PUT", Workspace+"/models/m/versions/1", properties("tags", map[string]string{"stage": "candidate"}), nil)
	for name, c := range handlers {
		c.hears(t, "RunCompleted r1", "RunStatusChanged r2 Failed", "ModelRegistered m:1")
		if st := c.Stats(); st.Refused+st.Failed+st.Malformed+st.Foreign != 0 || st.Handshakes != 1 {
			t.Errorf("%s: counted %+v", name, st)
		}
	}
	// What a handler gives up is a dead letter, whose replay is handled.
	s.Must("PUT", Workspace+"/models/m/versions/2", properties("tags", map[string]string{"stage": "odd"}), nil)
	es := Workspace + "/providers/Microsoft.EventGrid/eventSubscriptions/signed"
	letter := s.deadLetter(t, es)
	s.Must("POST", es+arm.DeadLettersPath+"/replay", map[string]any{"ids": []string{letter.ID}}, nil)
	handlers["signed"].hears(t, "ModelRegistered m:2")

	s.Must("DELETE", es, nil, nil)
	handlers["signed"].hears(t, "deleted "+es)
}

// merged returns members and the pairs of name and value that follow.
func merged(members map[string]any, pairs ...any) map[string]any {
	all := maps.Clone(members)
	if all == nil {
		all = map[string]any{}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		all[pairs[i].(string)] = pairs[i+1]
	}
	return all
}
