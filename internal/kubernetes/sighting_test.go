package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

var prod = resource.Cluster{Name: "prod"}

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	var o map[string]any
	raw, err := yaml.YAMLToJSON([]byte(text))
	u := &unstructured.Unstructured{}
	if err == nil {
		err = u.UnmarshalJSON(raw)
	}
	if err != nil {
		t.Fatal(err, o)
	}
	return u
}

const inference = `
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {namespace: ml, name: churn, uid: u1, generation: 2, labels: {team: growth}, annotations: {%s}}
spec: {predictor: {minReplicas: 1, model: {modelFormat: {name: sklearn}, storageUri: "models:/churn/3"}}}
status: {%s}
`

const readyTrue, readyFalse = `{type: PredictorReady, status: "True"}, {type: Ready, status: "True"}`, `{type: Ready, status: "False", reason: RevisionMissing}`

// An address that is signed is shown without what signs it.
func TestStorageURI(t *testing.T) {
	for uri, want := range map[string]string{
		"models:/churn/3": "models:/churn/3", "pvc://volume/churn": "pvc://volume/churn", "s3://models/churn/v3": "s3://models/churn/v3",
		"https://a.blob.core.windows.net/m/churn?sv=1&sig=s3cret": "https://a.blob.core.windows.net/m/churn", "https://kim:s3cret@h.example/m": "https://h.example/m",
	} {
		o, err := sight(&prod, &kinds[0], object(t, strings.Replace(fmt.Sprintf(inference, "", ""), "models:/churn/3", uri, 1)))
		if err != nil || o.Properties["storageUri"] != want {
			t.Errorf("%s is %q, error %v", uri, o.Properties["storageUri"], err)
		}
	}
}

// Source: spec/workspace.md section 6.2.
func TestInferenceServices(t *testing.T) {
	for name, c := range map[string]struct{ status, want string }{
		"new":                         {``, "Transitioning u1/2 u1/2/"},
		"ready":                       {`observedGeneration: 2, url: "http://churn.example", conditions: [` + readyTrue + `], components: {predictor: {latestReadyRevision: r2, latestCreatedRevision: r2, latestRolledoutRevision: r2}}, modelStatus: {transitionStatus: UpToDate}`, "Healthy u1/2 u1/2/r2"},
		"ready, without a generation": {`conditions: [` + readyTrue + `]`, "Healthy u1/2 u1/2/"},
		"ready, plain deployment":     {`observedGeneration: 2, conditions: [` + readyTrue + `], deploymentMode: RawDeployment, modelStatus: {}`, "Healthy u1/2 u1/2/"},
		"ready, of before":            {`observedGeneration: 1, conditions: [` + readyTrue + `], modelStatus: {transitionStatus: UpToDate}`, "Transitioning+ u1/2 u1/2/"},
		"not ready":                   {`observedGeneration: 2, conditions: [` + readyFalse + `]`, "Transitioning u1/2 u1/2/"},
		"rolling out":                 {`observedGeneration: 2, conditions: [` + readyTrue + `], components: {predictor: {latestReadyRevision: r1, latestCreatedRevision: r2, latestRolledoutRevision: r1}}, modelStatus: {transitionStatus: UpToDate}`, "Transitioning+ u1/2 u1/2/r1"},
		"loading":                     {`observedGeneration: 2, conditions: [` + readyTrue + `], modelStatus: {transitionStatus: InProgress}`, "Transitioning+ u1/2 u1/2/"},
		"failed to load":              {`observedGeneration: 2, conditions: [` + readyFalse + `], modelStatus: {transitionStatus: BlockedByFailedLoad, lastFailureInfo: {reason: ModelLoadFailed, message: no such key}}`, "Failed u1/2 u1/2/ ModelLoadFailed: no such key"},
		"failed, with an address":     {`observedGeneration: 2, conditions: [` + readyFalse + `], modelStatus: {transitionStatus: BlockedByFailedLoad, lastFailureInfo: {reason: ModelLoadFailed, message: "GET https://kim:s3cret@h.example/m?sig=s3cret: 403"}}`, "Failed u1/2 u1/2/ ModelLoadFailed: GET https://h.example/m 403"},
		"failed, the old one serves":  {`observedGeneration: 2, conditions: [` + readyTrue + `], components: {predictor: {latestReadyRevision: r1, latestCreatedRevision: r2, latestRolledoutRevision: r1}}, modelStatus: {transitionStatus: BlockedByFailedLoad}`, "Failed+ u1/2 u1/2/r1 BlockedByFailedLoad"},
		"invalid":                     {`observedGeneration: 2, modelStatus: {transitionStatus: InvalidSpec}`, "Failed u1/2 u1/2/ InvalidSpec"},
		"failed, of before":           {`observedGeneration: 1, conditions: [` + readyFalse + `], modelStatus: {transitionStatus: BlockedByFailedLoad}`, "Transitioning u1/2 u1/2/"},
		"stopped":                     {`observedGeneration: 2, conditions: [` + readyTrue + `, {type: Stopped, status: "True"}]`, "Transitioning u1/2 u1/2/"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := sight(&prod, &kinds[0], object(t, fmt.Sprintf(inference, "", c.status)))
			if err != nil {
				t.Fatal(err)
			}
			check(t, o, c.want)
			if o.Name != "ml.churn" || o.Service != "ml/churn" || o.Origin != "prod/inferenceservices/ml/churn" || o.ComputeType != "KSERVE" || o.ModelIDs != "churn:3" || o.Tags["team"] != "growth" {
				t.Errorf("%+v", o)
			}
			if p := o.Properties; p["uid"] != "u1" || p["generation"] != "2" || p["storageUri"] != "models:/churn/3" || p["cluster"] != "prod" {
				t.Errorf("properties %v", p)
			}
		})
	}
	if _, err := sight(&prod, &kinds[0], object(t, fmt.Sprintf(inference, "", `conditions: none`))); err == nil {
		t.Error("a status of another form was read")
	}
}

func check(t *testing.T, o workspace.Sighting, want string) {
	t.Helper()
	serving := ""
	if o.Serving {
		serving = "+"
	}
	if got := strings.TrimSpace(fmt.Sprintf("%s%s %s %s %s", o.State, serving, o.Spec, o.Deployment, o.Properties["failure"])); got != want {
		t.Errorf("seen as %q, want %q", got, want)
	}
}

const rollout = `
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: ml, name: churn, uid: u1, generation: 4, annotations: {deployment.kubernetes.io/revision: "3", carillon.dev/model-ids: "churn:3,scaler:1"}}
spec: {replicas: %d}
status: {%s}
`

// Source: spec/workspace.md section 6.3.
func TestDeployments(t *testing.T) {
	for name, c := range map[string]struct {
		replicas     int
		status, want string
	}{
		"new":                      {2, ``, "Transitioning u1/3 u1/3"},
		"done":                     {2, `observedGeneration: 4, replicas: 2, updatedReplicas: 2, availableReplicas: 2, conditions: [{type: Progressing, status: "True", reason: NewReplicaSetAvailable}]`, "Healthy u1/3 u1/3"},
		"of before":                {2, `observedGeneration: 3, replicas: 2, updatedReplicas: 2, availableReplicas: 2`, "Transitioning+ u1/3 u1/3"},
		"an old replica is left":   {2, `observedGeneration: 4, replicas: 3, updatedReplicas: 2, availableReplicas: 3`, "Transitioning+ u1/3 u1/3"},
		"one is not updated":       {2, `observedGeneration: 4, replicas: 2, updatedReplicas: 1, availableReplicas: 2`, "Transitioning+ u1/3 u1/3"},
		"one is not available":     {2, `observedGeneration: 4, replicas: 2, updatedReplicas: 2, availableReplicas: 1`, "Transitioning+ u1/3 u1/3"},
		"none is available":        {2, `observedGeneration: 4, replicas: 2, updatedReplicas: 2`, "Transitioning u1/3 u1/3"},
		"no progress":              {2, `observedGeneration: 4, replicas: 2, updatedReplicas: 2, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, message: timed out}]`, "Failed u1/3 u1/3 ProgressDeadlineExceeded: timed out"},
		"no progress, the old one": {2, `observedGeneration: 4, replicas: 3, updatedReplicas: 1, availableReplicas: 2, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded}]`, "Failed+ u1/3 u1/3 ProgressDeadlineExceeded"},
		"without replicas":         {0, `observedGeneration: 4`, "Transitioning u1/3 u1/3"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := sight(&prod, &kinds[1], object(t, fmt.Sprintf(rollout, c.replicas, c.status)))
			if err != nil {
				t.Fatal(err)
			}
			check(t, o, c.want)
			if o.ComputeType != "KUBERNETES" || o.ModelIDs != "churn:3,scaler:1" {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for uri, want := range map[string]string{
		"models:/churn/3": "churn:3", "s3://bucket/models/churn/v3/": "churn:v3", "gs://models/churn": "", "models:/churn@champion": "", "models:/3": "",
		"": "", "3": "", "s3://churn/3": "churn:3", "pvc://p/a b/3": "", "hf://org/model": "",
	} {
		if got := modelIDOf(uri); got != want {
			t.Errorf("model id of %q is %q, want %q", uri, got, want)
		}
	}
	annotated := object(t, fmt.Sprintf(inference, `carillon.dev/model-ids: "a:1,b:2"`, ""))
	short := resource.Cluster{Name: "prod", NameOnly: true}
	if o, err := sight(&short, &kinds[0], annotated); err != nil || o.ModelIDs != "a:1,b:2" || o.Name != "churn" || o.Service != "churn" {
		t.Errorf("%+v, error %v", o, err)
	}
	if o, err := sight(&prod, &kinds[0], object(t, fmt.Sprintf(inference, `carillon.dev/model-ids: "a, b"`, ""))); err != nil || o.ModelIDs != "churn:3" {
		t.Errorf("a wrong annotation counts: %+v, error %v", o, err)
	}
}
