package mlevent

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	testTopic = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/ml-rg/providers/Microsoft.MachineLearningServices/workspaces/churn-ws"
	testID    = "0b0f4a52-2c53-5c0e-9d1b-6f4f6a0f1c01"
)

var testTime = time.Date(2024, 3, 5, 9, 15, 30, 123456789, time.FixedZone("", 3600))

// samples are the payloads of spec/events.md section 4.4.
var samples = []struct {
	name    string
	payload Payload
}{
	{"model-registered", ModelRegistered{ModelName: "churn-xgb", ModelVersion: "7",
		ModelTags: map[string]string{"stage": "candidate", "a": "1"}, ModelProperties: map[string]string{"auc": "0.913"}}},
	{"model-registered-version-text", ModelRegistered{ModelName: `né"w`, ModelVersion: "007"}},
	{"model-deployed", ModelDeployed{ServiceName: "churn-svc", ServiceComputeType: "AKS", ModelIDs: "churn-xgb:7,scaler:2",
		ServiceTags: map[string]string{"team": "crm"}}},
	{"run-completed", RunCompleted{ExperimentID: "7d1c3f4e-90ab-4cde-8f01-23456789abcd", ExperimentName: "churn-train",
		RunID: "churn_1709_a1", RunType: "azureml.scriptrun", RunTags: map[string]string{"owner": "kim"}, RunProperties: map[string]string{"iteration": "5"}}},
	{"run-status-changed", RunStatusChanged{RunCompleted: RunCompleted{ExperimentID: "7d1c3f4e-90ab-4cde-8f01-23456789abcd", ExperimentName: "churn-train",
		RunID: "churn_1709_a2"}, RunStatus: RunFailed}},
	{"dataset-drift-detected", DatasetDriftDetected{DataDriftID: "9a9a9a9a-1111-4222-8333-444455556666", DataDriftName: "weekly-churn-drift",
		RunID: "9a9a9a9a-1111-4222-8333-444455556666_1709600000000", BaseDatasetID: "aaaa0000-0000-4000-8000-000000000001",
		TargetDatasetID: "bbbb0000-0000-4000-8000-000000000002", DriftCoefficient: 0.6125,
		StartTime: "2024-02-26T00:00:00+00:00", EndTime: "2024-03-04T00:00:00+00:00"}},
	{"deployment-failed", DeploymentFailed{ModelDeployed{ServiceName: "churn-svc", ServiceComputeType: "KSERVE", ModelIDs: "churn-xgb:8"}}},
	{"model-alias-set", ModelAliasSet{ModelRegistered{ModelName: "churn-xgb", ModelVersion: "7", ModelProperties: map[string]string{"mlflow.aliases": "champion,eu"}}, "champion"}},
	{"model-alias-removed", ModelAliasRemoved{ModelRegistered{ModelName: "churn-xgb", ModelVersion: "6"}, "champion"}},
	{"model-stage-changed", ModelStageChanged{ModelRegistered{ModelName: "churn-xgb", ModelVersion: "7"}, "Production", "None"}},
	{"model-deleted", ModelDeleted{ModelRegistered{ModelName: "churn-xgb", ModelVersion: "5", ModelTags: map[string]string{"stage": "old"}}}},
	{"drift-cleared", DriftCleared{DatasetDriftDetected{DataDriftID: "9a9a9a9a-1111-4222-8333-444455556666", DataDriftName: "weekly-churn-drift",
		RunID: "9a9a9a9a-1111-4222-8333-444455556666_1710204800000", BaseDatasetID: "aaaa0000-0000-4000-8000-000000000001",
		TargetDatasetID: "bbbb0000-0000-4000-8000-000000000002", DriftCoefficient: 0.05, DriftDetected: new(false),
		StartTime: "2024-03-04T00:00:00+00:00", EndTime: "2024-03-11T00:00:00+00:00"}}},
	{"run-not-responding", RunNotRespondingEvent{RunCompleted{ExperimentID: "0", ExperimentName: "Default", RunID: "4f8b", RunType: "mlflow.run"}}},
	{"dataset-drift-detected-columns", DatasetDriftDetected{DataDriftID: "9a9a9a9a-1111-4222-8333-444455556666", RunID: "1", DriftCoefficient: 1,
		StartTime: "2024-02-26T00:00:00Z", EndTime: "2024-03-04T00:00:00Z", DriftDetected: new(true),
		DriftDetails: []DriftDetail{
			{Column: "amount", Type: "numeric", Drifted: true, Contribution: 0.95, Distance: 0.48, Change: "mean 38.1 to 41.3"},
			{Column: `cou"ntry`, Type: "categorical", Distance: 0.05, Change: "share of DE 40 % to 41 %"},
		}}},
}

// TestEncodeGolden compares the stored form and both deliveries with
// testdata/{name}.{casing}.txt, whose first line names the source.
func TestEncodeGolden(t *testing.T) {
	for _, s := range samples {
		for _, casing := range []Casing{CamelCase, Documented} {
			t.Run(s.name+"/"+casing.String(), func(t *testing.T) {
				encoded, err := Encode(Envelope{Topic: testTopic, ID: testID, Time: testTime, Casing: casing}, s.payload)
				if err != nil {
					t.Fatal(err)
				}
				etag, sequencer := "0000000065e6d3e20000000000000007", "0000000065e6d3e20000000000000008"
				copy(encoded.Raw[encoded.ETagAt:], etag)
				copy(encoded.Raw[encoded.SequencerAt:], sequencer)
				var e event.Event
				if err := e.Parse(encoded.Raw, event.EventGridSchema); err != nil {
					t.Fatal(err)
				}
				got := "# Source: spec/events.md sections 4.3, 4.4 and 4.5; etag and sequencer: spec/workspace.md section 3.2\n" +
					string(e.AppendEventGrid(nil)) + "\n" + string(e.AppendCloudEvent(nil, sequencer)) + "\n"
				path := "testdata/" + s.name + "." + casing.String() + ".txt"
				if *update {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
					return
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("%s is\n%swant\n%s", path, got, want)
				}
				if string(e.Subject) != s.payload.Subject() || string(e.Type) != s.payload.EventType() {
					t.Errorf("subject %s, type %s", e.Subject, e.Type)
				}
				readBack(t, s.payload, e.Data, etag, sequencer)
			})
		}
	}
}

// readBack reads data with the reader of the payload and compares; the maps that
// were nil are empty then.
func readBack(t *testing.T, p Payload, data []byte, etag, sequencer string) {
	t.Helper()
	var got, want Payload
	var err error
	switch p := p.(type) {
	case ModelRegistered:
		got, err = ParseModelRegistered(data)
		p.ModelTags, p.ModelProperties, p.ETag, p.Sequencer = notNil(p.ModelTags), notNil(p.ModelProperties), etag, sequencer
		want = p
	case ModelDeployed:
		got, err = ParseModelDeployed(data)
		p.ServiceTags, p.ServiceProperties, p.ETag, p.Sequencer = notNil(p.ServiceTags), notNil(p.ServiceProperties), etag, sequencer
		want = p
	case RunCompleted:
		got, err = ParseRunCompleted(data)
		p.RunTags, p.RunProperties, p.ETag, p.Sequencer = notNil(p.RunTags), notNil(p.RunProperties), etag, sequencer
		want = p
	case RunStatusChanged:
		got, err = ParseRunStatusChanged(data)
		p.RunTags, p.RunProperties, p.ETag, p.Sequencer = notNil(p.RunTags), notNil(p.RunProperties), etag, sequencer
		want = p
	case DatasetDriftDetected:
		got, err = ParseDatasetDriftDetected(data)
		p.ETag, p.Sequencer = etag, sequencer
		want = p
	case DeploymentFailed:
		got, err = ParseDeploymentFailed(data)
		p.ServiceTags, p.ServiceProperties, p.ETag, p.Sequencer = notNil(p.ServiceTags), notNil(p.ServiceProperties), etag, sequencer
		want = p
	case ModelAliasSet:
		got, err = ParseModelAliasSet(data)
		p.ModelTags, p.ModelProperties, p.ETag, p.Sequencer = notNil(p.ModelTags), notNil(p.ModelProperties), etag, sequencer
		want = p
	case ModelAliasRemoved:
		got, err = ParseModelAliasRemoved(data)
		p.ModelTags, p.ModelProperties, p.ETag, p.Sequencer = notNil(p.ModelTags), notNil(p.ModelProperties), etag, sequencer
		want = p
	case ModelStageChanged:
		got, err = ParseModelStageChanged(data)
		p.ModelTags, p.ModelProperties, p.ETag, p.Sequencer = notNil(p.ModelTags), notNil(p.ModelProperties), etag, sequencer
		want = p
	case ModelDeleted:
		got, err = ParseModelDeleted(data)
		p.ModelTags, p.ModelProperties, p.ETag, p.Sequencer = notNil(p.ModelTags), notNil(p.ModelProperties), etag, sequencer
		want = p
	case DriftCleared:
		got, err = ParseDriftCleared(data)
		p.ETag, p.Sequencer = etag, sequencer
		want = p
	case RunNotRespondingEvent:
		got, err = ParseRunNotResponding(data)
		p.RunTags, p.RunProperties, p.ETag, p.Sequencer = notNil(p.RunTags), notNil(p.RunProperties), etag, sequencer
		want = p
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v, %v, want %+v", got, err, want)
	}
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	return m
}

// TestTagsAgree holds the struct tags, which users of encoding/json rely on, to
// the names that Encode writes.
func TestTagsAgree(t *testing.T) {
	for _, s := range samples {
		encoded, err := Encode(Envelope{Topic: testTopic, ID: testID, Time: testTime}, s.payload)
		if err != nil {
			t.Fatal(err)
		}
		var written struct{ Data map[string]any }
		if err := json.Unmarshal(encoded.Raw, &written); err != nil {
			t.Fatal(err)
		}
		marshalled, err := json.Marshal(s.payload)
		if err != nil {
			t.Fatal(err)
		}
		var tagged map[string]any
		if err := json.Unmarshal(marshalled, &tagged); err != nil {
			t.Fatal(err)
		}
		if len(tagged) != len(written.Data) {
			t.Errorf("%s: tags give %v, Encode writes %v", s.name, tagged, written.Data)
		}
		for name := range tagged {
			if _, ok := written.Data[name]; !ok {
				t.Errorf("%s: Encode does not write %s", s.name, name)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	whole := Envelope{Topic: testTopic, ID: testID, Time: testTime}
	tests := []struct {
		name    string
		env     Envelope
		payload Payload
		want    string
	}{
		{"no topic", Envelope{ID: testID, Time: testTime}, RunCompleted{}, "topic, id and time must be set"},
		{"no id", Envelope{Topic: testTopic, Time: testTime}, RunCompleted{}, "topic, id and time must be set"},
		{"no time", Envelope{Topic: testTopic, ID: testID}, RunCompleted{}, "topic, id and time must be set"},
		{"coefficient is no number", whole, DatasetDriftDetected{DriftCoefficient: math.NaN()}, "property driftCoefficient is not a finite number"},
		{"coefficient is infinite", whole, DatasetDriftDetected{DriftCoefficient: math.Inf(1)}, "property driftCoefficient is not a finite number"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Encode(c.env, c.payload); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func TestParseSpellings(t *testing.T) {
	tests := []struct {
		name, data string
		want       ModelRegistered
		err        string
	}{
		{"camelCase", `{"modelName":"m","modelVersion":"3","modelTags":{"k":"v"},"modelProperties":{}}`, ModelRegistered{ModelName: "m", ModelVersion: "3", ModelTags: map[string]string{"k": "v"}}, ""},
		{"documentation page", `{"ModelName":"m","ModelVersion":20,"ModelTags":{"K":"v"},"ModelProperties":{}}`, ModelRegistered{ModelName: "m", ModelVersion: "20", ModelTags: map[string]string{"K": "v"}}, ""},
		{"exact name wins, first", `{"modelName":"exact","ModelName":"other"}`, ModelRegistered{ModelName: "exact"}, ""},
		{"exact name wins, last", `{"MODELNAME":"other","modelName":"exact"}`, ModelRegistered{ModelName: "exact"}, ""},
		{"nulls", `{"modelName":null,"modelTags":null}`, ModelRegistered{}, ""},
		{"tags that are not strings", `{"modelTags":{"n":1.50,"b":true,"z":null,"o":{"x":1}}}`, ModelRegistered{ModelTags: map[string]string{"n": "1.50", "b": "true", "z": "", "o": `{"x":1}`}}, ""},
		{"unknown members", `{"modelName":"m","framework":{"name":"xgb"},"x":[1]}`, ModelRegistered{ModelName: "m"}, ""},
		{"escapes", `{"model\u004eame":"a\nb","modelTags":{"\u0041":"\""}}`, ModelRegistered{ModelName: "a\nb", ModelTags: map[string]string{"A": `"`}}, ""},
		{"etag as blob storage spells it", `{"eTag":"7","sequencer":"8"}`, ModelRegistered{ETag: "7", Sequencer: "8"}, ""},
		{"name is an object", `{"modelName":{}}`, ModelRegistered{}, "data of Microsoft.MachineLearningServices.ModelRegistered: property modelName: expected String, received StartObject"},
		{"tags are a list", `{"modelTags":[]}`, ModelRegistered{}, "data of Microsoft.MachineLearningServices.ModelRegistered: property modelTags: expected StartObject, received StartArray"},
		{"not an object", `[]`, ModelRegistered{}, "data of Microsoft.MachineLearningServices.ModelRegistered: expected StartObject, received StartArray"},
		{"nothing", ``, ModelRegistered{}, "data of Microsoft.MachineLearningServices.ModelRegistered: expected StartObject, received None"},
		{"cut", `{"modelName":"m"`, ModelRegistered{ModelName: "m"}, "data of Microsoft.MachineLearningServices.ModelRegistered: the text ends where ',' or '}' is expected at byte 16"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseModelRegistered([]byte(c.data))
			c.want.ModelTags, c.want.ModelProperties = notNil(c.want.ModelTags), notNil(c.want.ModelProperties)
			message := ""
			if err != nil {
				message = err.Error()
			}
			if message != c.err || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, error %q, want %+v, error %q", got, message, c.want, c.err)
			}
		})
	}
}

func TestParseOthers(t *testing.T) {
	status, err := ParseRunStatusChanged([]byte(`{"runId":"r","runType":null,"RunTags":{"a":"b"},"runStatus":"failed"}`))
	if err != nil || status.RunStatus != RunFailed || status.RunID != "r" || status.RunTags["a"] != "b" {
		t.Errorf("run status %+v, %v", status, err)
	}
	if status, err = ParseRunStatusChanged([]byte(`{"runStatus":"Sleeping"}`)); err != nil || status.RunStatus != "Sleeping" {
		t.Errorf("unknown run status %+v, %v", status, err)
	}
	drift, err := ParseDatasetDriftDetected([]byte(`{"DriftCoefficient":"0.25","StartTime":"2024-02-26T00:00:00Z"}`))
	if err != nil || drift.DriftCoefficient != 0.25 || drift.StartTime != "2024-02-26T00:00:00Z" {
		t.Errorf("drift %+v, %v", drift, err)
	}
	if _, err = ParseDatasetDriftDetected([]byte(`{"driftCoefficient":true}`)); err == nil {
		t.Error("a boolean is taken for a coefficient")
	}
}

// TestIDs compares with ids that another implementation made of the same names.
func TestIDs(t *testing.T) {
	tests := []struct{ name, got, want string }{
		{"run status", RunStatusChangedID(testTopic, "churn_1709_a2", 1, RunFailed, 1), "88924ebb-8a24-5058-a89d-587f7ab7df9e"},
		{"third visit", RunStatusChangedID(testTopic, "r", 2, RunRunning, 3), "a9721206-70ee-52b5-9481-cb31920db4fb"},
		{"run completed", RunCompletedID(testTopic, "churn_1709_a1", 1), "f160d0cb-7fe4-577d-a204-531bdf218815"},
		{"model", ModelRegisteredID(testTopic, "churn-xgb", "7", 1709626530000), "651cf011-7fd0-5614-96e8-5ffd48940fae"},
		{"service", ModelDeployedID(testTopic, "churn-svc", 3, "churn-xgb:7,scaler:2"), "dd5d08c5-9d53-5049-b3cb-18f43da7dece"},
		{"drift", DatasetDriftDetectedID(testTopic, "d", "d_1", "2024-02-26T00:00:00+00:00", "2024-03-04T00:00:00+00:00"), "031476d3-399c-50d5-a1b6-7fffde2d1964"},
		{"service failed", DeploymentFailedID(testTopic, "churn-svc", 3, "churn-xgb:8"), "b66966c5-e9d0-5f0a-98b4-e1952269fe98"},
		{"alias set", ModelAliasSetID(testTopic, "churn-xgb", "7", 1709626530000, "champion", 2), "72dc4d25-b4f7-5a46-a3c4-82bf10e799cf"},
		{"alias removed", ModelAliasRemovedID(testTopic, "churn-xgb", "7", 1709626530000, "champion", 2), "b8c2529e-4f49-5b48-b8f0-feb926f77758"},
		{"stage", ModelStageChangedID(testTopic, "churn-xgb", "7", 1709626530000, "Production", 1), "6757ff29-2cda-50f7-b6d4-f67040114fba"},
		{"model deleted", ModelDeletedID(testTopic, "churn-xgb", "7", 1709626530000), "6df27970-557d-5f53-918c-b599ccc0710a"},
		{"drift cleared", DriftClearedID(testTopic, "d", "d_2", "2024-03-04T00:00:00+00:00", "2024-03-11T00:00:00+00:00"), "32f68dcf-d39c-579e-b084-0170b51d0ce5"},
		{"not responding", RunNotRespondingID(testTopic, "r", 2, 3), "fdfc36e1-8b8f-513a-bfe1-ccfe7d1f6d6c"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if c.got != c.want {
				t.Errorf("id %s, want %s", c.got, c.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for _, s := range RunStatuses() {
		if got, ok := ParseRunStatus(strings.ToLower(string(s))); !ok || got != s {
			t.Errorf("ParseRunStatus(%s) = %s, %v", strings.ToLower(string(s)), got, ok)
		}
		if want := s == "Completed" || s == "Failed" || s == "Canceled"; s.Terminal() != want {
			t.Errorf("%s.Terminal() is %v", s, s.Terminal())
		}
	}
	if _, ok := ParseRunStatus("Cancelled"); ok {
		t.Error("Cancelled with two l is taken for a status")
	}
	for _, s := range EndpointStates() {
		if got, ok := ParseEndpointState(strings.ToUpper(string(s))); !ok || got != s {
			t.Errorf("ParseEndpointState(%s) = %s, %v", strings.ToUpper(string(s)), got, ok)
		}
	}
	for _, c := range []Casing{CamelCase, Documented} {
		if got, err := ParseCasing(strings.ToUpper(c.String())); err != nil || got != c {
			t.Errorf("ParseCasing(%s) = %v, %v", strings.ToUpper(c.String()), got, err)
		}
	}
	if _, err := ParseCasing("snake"); err == nil {
		t.Error("snake is taken for a casing")
	}
	for _, typ := range ExtraTypes() {
		if !strings.HasPrefix(typ, ExtraPrefix) {
			t.Errorf("type %s does not begin with %s", typ, ExtraPrefix)
		}
	}
	for _, typ := range Types() {
		if !strings.HasPrefix(typ, strings.TrimSuffix(TopicType, "Workspaces")) {
			t.Errorf("type %s is not of %s", typ, TopicType)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples {
		encoded, err := Encode(Envelope{Topic: testTopic, ID: testID, Time: testTime, Casing: Documented}, s.payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded.Raw[bytes.Index(encoded.Raw, []byte(`"data":`))+7:])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseModelRegistered(data)
		if _, err2 := ParseDatasetDriftDetected(data); event.Check(data) != nil && (err == nil || err2 == nil) {
			t.Fatalf("what is not JSON is read: %q", data)
		}
		if err != nil {
			return
		}
		encoded, err := Encode(Envelope{Topic: testTopic, ID: testID, Time: testTime}, p)
		if err != nil {
			t.Fatal(err)
		}
		var e event.Event
		if err := e.Parse(encoded.Raw, event.EventGridSchema); err != nil {
			t.Fatalf("%v: %s", err, encoded.Raw)
		}
		again, err := ParseModelRegistered(e.Data)
		p.ETag, p.Sequencer = again.ETag, again.Sequencer
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("read %+v, written and read again %+v, %v", p, again, err)
		}
	})
}

// TestParse reads each payload by its type, and refuses what is none.
func TestParse(t *testing.T) {
	p, err := Parse[ModelAliasSet]([]byte(`{"ModelName":"m","alias":"a"}`))
	if err != nil || p.ModelName != "m" || p.Alias != "a" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Parse[*ModelAliasSet]([]byte(`{}`)); err == nil {
		t.Error("a pointer is taken for a payload")
	}
	for want, got := range map[string]func() (Payload, error){
		ModelRegisteredType:      func() (Payload, error) { return Parse[ModelRegistered]([]byte(`{}`)) },
		ModelDeployedType:        func() (Payload, error) { return Parse[ModelDeployed]([]byte(`{}`)) },
		RunCompletedType:         func() (Payload, error) { return Parse[RunCompleted]([]byte(`{}`)) },
		RunStatusChangedType:     func() (Payload, error) { return Parse[RunStatusChanged]([]byte(`{}`)) },
		DatasetDriftDetectedType: func() (Payload, error) { return Parse[DatasetDriftDetected]([]byte(`{}`)) },
		DeploymentFailedType:     func() (Payload, error) { return Parse[DeploymentFailed]([]byte(`{}`)) },
		ModelAliasSetType:        func() (Payload, error) { return Parse[ModelAliasSet]([]byte(`{}`)) },
		ModelAliasRemovedType:    func() (Payload, error) { return Parse[ModelAliasRemoved]([]byte(`{}`)) },
		ModelStageChangedType:    func() (Payload, error) { return Parse[ModelStageChanged]([]byte(`{}`)) },
		ModelDeletedType:         func() (Payload, error) { return Parse[ModelDeleted]([]byte(`{}`)) },
		DriftClearedType:         func() (Payload, error) { return Parse[DriftCleared]([]byte(`{}`)) },
		RunNotRespondingType:     func() (Payload, error) { return Parse[RunNotRespondingEvent]([]byte(`{}`)) },
	} {
		if p, err := got(); err != nil || p.EventType() != want {
			t.Errorf("%s: %T, %v", want, p, err)
		}
	}
}
