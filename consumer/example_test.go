package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// A handler of completed runs. In a program it would go to http.Handle; here it gets an event
// twice, and one of another workspace.
func Example() {
	const key = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	h, err := consumer.New(
		consumer.Topics(workspace),
		consumer.Signed(key),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
			fmt.Println("run", e.Data.RunID, "of", e.Data.ExperimentName, "is completed")
			return nil
		}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}

	sender := consumertest.Sender{Handler: h, Key: key}
	completed := consumertest.NewSource(workspace).Event(mlevent.RunCompleted{RunID: "r1", ExperimentName: "churn"})
	foreign := consumertest.NewSource("/another/workspace").Event(mlevent.RunCompleted{RunID: "r2"})
	for _, e := range []consumertest.Event{completed, completed, foreign} {
		answer, err := sender.Send(e)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(answer.Status)
	}
	// Output:
	// run r1 of churn is completed
	// 200
	// 200
	// 400
}

// Rule 3: events come in any order. A deployment that is older than the one that was handled
// does not undo it.
func ExampleHandler_order() {
	live := ""
	h, err := consumer.New(consumer.Topics(workspace), quiet,
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.ModelDeployed]) error {
			live = e.Data.ModelIDs
			return nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	source := consumertest.NewSource(workspace)
	first := source.Event(mlevent.ModelDeployed{ServiceName: "api", ModelIDs: "churn:1"})
	second := source.Event(mlevent.ModelDeployed{ServiceName: "api", ModelIDs: "churn:2"})
	sender := consumertest.Sender{Handler: h}
	for _, e := range []consumertest.Event{second, first} {
		if _, err := sender.Send(e); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println(live, "and", h.Stats().Stale, "dropped")
	// Output: churn:2 and 1 dropped
}

// Rules 2 and 4: of an event type of one's own, data is decoded as JSON; what is not known is
// passed over.
func ExampleOnType() {
	type placed struct {
		Amount int `json:"amount"`
	}
	h, err := consumer.New(consumer.Topics("/shop"),
		consumer.OnType("Shop.OrderPlaced", func(_ context.Context, e consumer.Event[placed]) error {
			fmt.Println(e.Subject, e.Data.Amount)
			return nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	source := consumertest.NewSource("/shop")
	sender := consumertest.Sender{Handler: h, Schema: event.CloudEventSchemaV1_0}
	answer, err := sender.Send(
		source.Custom("Shop.OrderPlaced", "orders/7", map[string]any{"amount": 12, "currency": "EUR"}),
		source.Custom("Shop.OrderShipped", "orders/7", nil),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Status, h.Stats().Skipped)
	// Output:
	// orders/7 12
	// 200 1
}

// Rule 5: that nothing comes does not mean that all went well. A failed run raises
// RunStatusChanged; that a run takes too long, nobody tells but a clock of your own.
func ExampleOn_silence() {
	running := map[string]time.Time{"nightly": time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	h, err := consumer.New(consumer.Topics(workspace),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
			delete(running, e.Data.RunID)
			return nil
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			if e.Data.RunStatus.Terminal() {
				delete(running, e.Data.RunID)
				fmt.Println(e.Data.RunID, e.Data.RunStatus)
			}
			return nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	failed := mlevent.RunStatusChanged{RunCompleted: mlevent.RunCompleted{RunID: "hourly"}, RunStatus: mlevent.RunFailed}
	if _, err := (&consumertest.Sender{Handler: h}).Send(consumertest.NewSource(workspace).Event(failed)); err != nil {
		fmt.Println(err)
		return
	}
	for run, since := range running {
		if now := since.Add(5 * time.Hour); now.Sub(since) > 4*time.Hour {
			fmt.Println(run, "has said nothing for", now.Sub(since))
		}
	}
	// Output:
	// hourly Failed
	// nightly has said nothing for 5h0m0s
}

// What a function returns decides what the sender does.
func ExampleAnswer() {
	for _, err := range []error{
		nil,
		errors.New("the registry is not reachable"),
		consumer.RetryAfter(2*time.Minute, errors.New("the registry asks for patience")),
		consumer.DeadLetter(errors.New("the model has no name")),
	} {
		fmt.Println(consumer.Answer(err))
	}
	// Output:
	// 200 0s
	// 500 0s
	// 503 2m0s
	// 400 0s
}

// An event that came by pull delivery, or out of a queue, is handled by the same rules.
func ExampleHandler_Handle() {
	h, err := consumer.New(consumer.Topics(workspace), consumer.OnOther(func(_ context.Context, e consumer.Event[json.RawMessage]) error {
		fmt.Println(e.Type, string(e.Data))
		return nil
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	received := []byte(`{"specversion":"1.0","id":"1","source":"` + workspace + `","type":"Shop.OrderPlaced","data":{"amount":12}}`)
	fmt.Println(h.Handle(context.Background(), received))
	// Output:
	// Shop.OrderPlaced {"amount":12}
	// <nil>
}
