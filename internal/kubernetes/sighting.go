package kubernetes

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/workspace"
)

// kind is a kind of object that is followed.
type kind struct {
	resource schema.GroupVersionResource
	compute  string // serviceComputeType in events
	selector string // beside the cluster's own; "" for none
	optional bool   // clusters without it are followed all the same
	// look adds to a sighting what the object says. An error says that it cannot be read.
	look func(object *unstructured.Unstructured, o *workspace.Sighting) error
}

// kinds are followed in every cluster.
var kinds = []kind{
	{schema.GroupVersionResource{Group: "serving.kserve.io", Version: "v1beta1", Resource: "inferenceservices"}, "KSERVE", "", true, lookAtService},
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "KUBERNETES", serviceLabel + "=true", false, lookAtDeployment},
}

const (
	serviceLabel    = "carillon.dev/model-service" // of a Deployment that is one
	modelIDsComment = "carillon.dev/model-ids"     // annotation
)

// sight says how an object was seen in a cluster.
func sight(c *resource.Cluster, k *kind, object *unstructured.Unstructured) (workspace.Sighting, error) {
	namespace, name := object.GetNamespace(), object.GetName()
	o := workspace.Sighting{
		Origin: origin(c, k, namespace) + name, Name: namespace + "." + name, Service: namespace + "/" + name, ComputeType: k.compute, State: workspace.Transitioning,
		Tags: maps.Clone(object.GetLabels()), Properties: map[string]string{"cluster": c.Name, "namespace": namespace, "name": name, "uid": string(object.GetUID())},
		ModelIDs: object.GetAnnotations()[modelIDsComment],
	}
	if c.NameOnly {
		o.Name, o.Service = name, name
	}
	if o.Tags == nil {
		o.Tags = map[string]string{}
	}
	if !validModelIDs(o.ModelIDs) {
		o.ModelIDs = ""
	}
	if err := k.look(object, &o); err != nil {
		return o, fmt.Errorf("read %s %s/%s: %w", k.resource.Resource, namespace, name, err)
	}
	maps.DeleteFunc(o.Properties, func(_, value string) bool { return value == "" })
	return o, nil
}

// origin begins the origins of what one list of a cluster has; namespace is "" for all.
func origin(c *resource.Cluster, k *kind, namespace string) string {
	at := c.Name + "/" + k.resource.Resource + "/"
	if namespace != "" {
		at += namespace + "/"
	}
	return at
}

// conditions are those of a status.
type conditions []struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (c conditions) is(name, status string) bool {
	for _, one := range c {
		if one.Type == name {
			return one.Status == status
		}
	}
	return false
}

func (c conditions) reason(name string) (reason, message string) {
	for _, one := range c {
		if one.Type == name {
			return one.Reason, one.Message
		}
	}
	return "", ""
}

// inferenceService is what is of use of one.
// Source: kserve/kserve: pkg/apis/serving/v1beta1/inference_service_status.go.
type inferenceService struct {
	Spec struct {
		Predictor map[string]any `json:"predictor"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration int64      `json:"observedGeneration"`
		URL                string     `json:"url"`
		Conditions         conditions `json:"conditions"`
		Components         map[string]struct {
			LatestReadyRevision     string `json:"latestReadyRevision"`
			LatestCreatedRevision   string `json:"latestCreatedRevision"`
			LatestRolledoutRevision string `json:"latestRolledoutRevision"`
		} `json:"components"`
		ModelStatus struct {
			TransitionStatus string `json:"transitionStatus"`
			LastFailureInfo  struct {
				Reason  string `json:"reason"`
				Message string `json:"message"`
			} `json:"lastFailureInfo"`
		} `json:"modelStatus"`
		DeploymentMode     string `json:"deploymentMode"`
		ServingRuntimeName string `json:"servingRuntimeName"`
	} `json:"status"`
}

// Values of transitionStatus.
const (
	upToDate    = "UpToDate"
	loadFailed  = "BlockedByFailedLoad"
	invalidSpec = "InvalidSpec"
)

// lookAtService reads an InferenceService. It is deployed when it is ready, the status is
// of the present generation, and its model is up to date; while a newer revision was made
// than is ready, a rollout is under way. Source: spec/workspace.md section 6.2.
func lookAtService(object *unstructured.Unstructured, o *workspace.Sighting) error {
	var s inferenceService
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &s); err != nil {
		return err
	}
	status, predictor := &s.Status, s.Status.Components["predictor"]
	uri := storageURI(s.Spec.Predictor)
	if o.ModelIDs == "" {
		o.ModelIDs = modelIDOf(uri)
	}
	generation := object.GetGeneration()
	o.ScoringURI = status.URL
	for name, value := range map[string]string{
		"url": status.URL, "runtime": runtimeOf(&s), "storageUri": secret.Redact(uri), "revision": predictor.LatestRolledoutRevision,
		"generation": strconv.FormatInt(generation, 10), "deploymentMode": status.DeploymentMode,
	} {
		o.Properties[name] = value
	}
	o.Spec = fmt.Sprintf("%s/%d", object.GetUID(), generation)
	o.Deployment = o.Spec + "/" + predictor.LatestRolledoutRevision
	current := status.ObservedGeneration == generation || status.ObservedGeneration == 0
	transition := status.ModelStatus.TransitionStatus
	rolling := predictor.LatestReadyRevision != "" && predictor.LatestReadyRevision != predictor.LatestCreatedRevision
	ready := status.Conditions.is("Ready", "True") && !status.Conditions.is("Stopped", "True")
	switch {
	case current && (transition == loadFailed || transition == invalidSpec) && !(ready && !rolling && transition != invalidSpec):
		o.State, o.Serving = workspace.EndpointFailed, ready
		o.Properties["failure"] = joined(status.ModelStatus.LastFailureInfo.Reason, status.ModelStatus.LastFailureInfo.Message)
		if o.Properties["failure"] == "" {
			o.Properties["failure"] = transition
		}
	case current && ready && !rolling && (transition == upToDate || transition == ""):
		o.State = workspace.Healthy
	default:
		o.Serving = ready
	}
	return nil
}

func runtimeOf(s *inferenceService) string {
	if s.Status.ServingRuntimeName != "" {
		return s.Status.ServingRuntimeName
	}
	model, _ := s.Spec.Predictor["model"].(map[string]any)
	name, _ := model["runtime"].(string)
	return name
}

// storageURI is that of the predictor's model: under "model", or, as before it, under the
// name of a framework.
func storageURI(predictor map[string]any) string {
	for _, name := range slices.Sorted(maps.Keys(predictor)) {
		if one, ok := predictor[name].(map[string]any); ok {
			if uri, _ := one["storageUri"].(string); uri != "" {
				return uri
			}
		}
	}
	return ""
}

// deployment is what is of use of one.
// Source: kubernetes/kubectl: pkg/polymorphichelpers/rollout_status.go.
type deployment struct {
	Spec struct {
		Replicas *int64 `json:"replicas"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration int64      `json:"observedGeneration"`
		Replicas           int64      `json:"replicas"`
		UpdatedReplicas    int64      `json:"updatedReplicas"`
		AvailableReplicas  int64      `json:"availableReplicas"`
		Conditions         conditions `json:"conditions"`
	} `json:"status"`
}

const revisionComment = "deployment.kubernetes.io/revision" // annotation that the controller keeps

// lookAtDeployment reads a Deployment. A rollout is done when every replica is of it and
// available; scaling is none, for the revision stays. One without replicas serves nothing.
// Source: spec/workspace.md section 6.3.
func lookAtDeployment(object *unstructured.Unstructured, o *workspace.Sighting) error {
	var d deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &d); err != nil {
		return err
	}
	status, wanted := &d.Status, int64(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	revision := object.GetAnnotations()[revisionComment]
	o.Properties["revision"] = revision
	o.Spec = fmt.Sprintf("%s/%s", object.GetUID(), revision)
	o.Deployment = o.Spec
	current := status.ObservedGeneration >= object.GetGeneration()
	whole := status.UpdatedReplicas == wanted && status.Replicas == wanted && status.AvailableReplicas == wanted
	reason, message := status.Conditions.reason("Progressing")
	switch {
	case current && wanted > 0 && whole && revision != "":
		o.State = workspace.Healthy
	case current && reason == "ProgressDeadlineExceeded":
		o.State, o.Serving = workspace.EndpointFailed, status.AvailableReplicas > 0
		o.Properties["failure"] = joined(reason, message)
	default:
		o.Serving = status.AvailableReplicas > 0
	}
	return nil
}

// joined is a reason and a message in one text.
func joined(reason, message string) string {
	const most = 2 << 10
	text := reason
	if message != "" {
		text = strings.TrimPrefix(reason+": "+message, ": ")
	}
	text = secret.Redact(text) // it may quote an address with a signature
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

var (
	modelID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}:[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`)
	version = regexp.MustCompile(`^v?[0-9]+$`)
)

// validModelIDs checks "name:version,name:version". Source: spec/workspace.md section 1.5.
func validModelIDs(ids string) bool {
	for id := range strings.SplitSeq(ids, ",") {
		if !modelID.MatchString(id) {
			return false
		}
	}
	return true
}

// modelIDOf makes a model id of an address that ends in a name and a number, such as
// models:/churn/3 or s3://models/churn/v3; "" of any other.
func modelIDOf(uri string) string {
	uri = strings.TrimRight(uri, "/")
	parts := strings.Split(strings.Replace(uri, ":/", ":/ ", 1), "/")
	if len(parts) < 2 {
		return ""
	}
	name, number := strings.TrimSpace(parts[len(parts)-2]), strings.TrimSpace(parts[len(parts)-1])
	if id := name + ":" + number; version.MatchString(number) && modelID.MatchString(id) && !strings.HasSuffix(name, ":") {
		return id
	}
	return ""
}
