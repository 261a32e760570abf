package filter

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// benchmarkEvents are run events of about 1 KiB with different stages and scores.
func benchmarkEvents(b *testing.B) []*event.Event {
	random := rand.New(rand.NewPCG(1, 2))
	stages := []string{"production", "staging", "candidate", "archived"}
	var events []*event.Event
	for i := range 64 {
		events = append(events, parseEventAs(b, fmt.Sprintf(`{"id":"b0f4a52-%d","topic":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default",`+
			`"subject":"experiments/churn/runs/run_%d","eventType":"Microsoft.MachineLearningServices.RunCompleted","eventTime":"2026-03-05T08:15:30.1234567Z",`+
			`"data":{"experimentId":"7d1c3f4e-90ab-4cde-8f01-23456789abcd","experimentName":"churn-train","runId":"run_%d","runType":"azureml.scriptrun",`+
			`"runTags":{"owner":"kim","stage":%q},"runProperties":{"iteration":"5","azureml.runsource":"azureml.PipelineRun","ContentSnapshotId":"11112222-3333-4444-5555-666677778888",`+
			`"azureml.git.repository_uri":"https://git.example.com/ml/churn.git","mlflow.source.git.commit":"4f5a9a3c7d1e0b2c4f5a9a3c7d1e0b2c4f5a9a3c","lossByEpoch":[0.61,0.44,0.37,0.33,0.312]},`+
			`"score":%.4f,"early":%v,"etag":"00000000668a1f0000000000002a0000","sequencer":"00000000668a1f0000000000002a0001"},"dataVersion":"2","metadataVersion":"1"}`,
			i, i, i, stages[random.IntN(len(stages))], random.Float64(), i%2 == 0), event.EventGridSchema))
	}
	return events
}

// BenchmarkMatch asks an index of event subscriptions that all want the event's
// type; about hit of them want a given event.
func BenchmarkMatch(b *testing.B) {
	workloads := []struct {
		op, hit   string
		condition func(i int) string
	}{
		{"none", "100pct", func(int) string { return "" }},
		{"NumberGreaterThan", "1pct", func(i int) string {
			return fmt.Sprintf(`{"operatorType":"NumberGreaterThan","key":"data.score","value":0.%05d}`, 98000+i%2000)
		}},
		{"StringIn", "0pct", func(i int) string {
			return fmt.Sprintf(`{"operatorType":"StringIn","key":"data.runTags.stage","values":["stage%d","other"]}`, i)
		}},
		{"StringIn", "25pct", func(int) string {
			return `{"operatorType":"StringIn","key":"data.runTags.stage","values":["Production"]}`
		}},
		{"StringContains", "0pct", func(i int) string {
			return fmt.Sprintf(`{"operatorType":"StringContains","key":"data.runProperties.ContentSnapshotId","values":["needle%d"]}`, i)
		}},
		{"IsNotNull", "0pct", func(i int) string { return fmt.Sprintf(`{"operatorType":"IsNotNull","key":"data.none%d"}`, i) }},
	}
	events := benchmarkEvents(b)
	for _, subs := range []int{1, 100, 10000} {
		for _, w := range workloads {
			b.Run(fmt.Sprintf("subs=%d/op=%s/hit=%s", subs, w.op, w.hit), func(b *testing.B) {
				var entries []Entry
				for i := range subs {
					f := `{"includedEventTypes":["Microsoft.MachineLearningServices.RunCompleted"],"advancedFilters":[` + w.condition(i) + `]}`
					entries = append(entries, Entry{ID: uint64(i), Matcher: Compile(mustParse(b, f))})
				}
				x := NewIndex(entries)
				var s Scratch
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					x.Match(events[i%len(events)], &s)
					i++
				}
			})
		}
	}
}
