package workspace

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// sighting reads "Healthy u1/g1/r1": a state, and a spec of two parts with a deployment
// behind it. A '+' behind the state says that it is serving, a '?' that it is silent.
func sighting(text string) Sighting {
	state, deployment, _ := strings.Cut(text, " ")
	spec := deployment[:strings.LastIndexByte(deployment, '/')]
	o := Sighting{Origin: "prod/services/ml/churn", Name: "ml.churn", Service: "ml/churn", ComputeType: "KSERVE", ModelIDs: "churn:3", Spec: spec, Deployment: deployment}
	o.Serving, o.Silent = strings.Contains(state, "+"), strings.Contains(state, "?")
	o.State = EndpointState(strings.TrimRight(state, "+?"))
	return o
}

// Source: spec/workspace.md sections 1.5, 6.2 and 6.3.
func TestSightings(t *testing.T) {
	for name, c := range map[string]struct{ sightings, events, state string }{
		"becomes ready":                {"Transitioning u/1/r1, Healthy u/1/r1", "ModelDeployed", "Healthy"},
		"ready when first seen":        {"Healthy u/1/r1", "ModelDeployed", "Healthy"},
		"seen again":                   {"Healthy u/1/r1, Healthy u/1/r1", "ModelDeployed", "Healthy"},
		"there before":                 {"Healthy? u/1/r1, Healthy u/1/r1", "", "Healthy"},
		"on its way before":            {"Transitioning? u/1/r1, Healthy u/1/r1", "ModelDeployed", "Healthy"},
		"another generation":           {"Healthy u/1/r1, Transitioning u/2/r1, Healthy u/2/r2", "ModelDeployed ModelDeployed", "Healthy"},
		"another revision":             {"Healthy u/1/r1, Healthy u/1/r2", "ModelDeployed ModelDeployed", "Healthy"},
		"out and back":                 {"Healthy u/1/r1, Transitioning u/1/r1, Healthy u/1/r1", "ModelDeployed", "Healthy"},
		"out":                          {"Healthy u/1/r1, Transitioning u/1/r1", "ModelDeployed", "Unhealthy"},
		"out, and reported as failed":  {"Healthy u/1/r1, Failed u/1/r1", "ModelDeployed", "Unhealthy"},
		"fewer than wanted":            {"Healthy u/1/r1, Transitioning+ u/1/r1", "ModelDeployed", "Healthy"},
		"the old one serves meanwhile": {"Healthy u/1/r1, Transitioning+ u/2/r1", "ModelDeployed", "Transitioning"},
		"fails":                        {"Transitioning u/1/r1, Failed u/1/r1, Failed u/1/r1", "DeploymentFailed", "Failed"},
		"fails, then another":          {"Failed u/1/r1, Failed u/2/r1, Transitioning u/3/r1, Healthy u/3/r1", "DeploymentFailed DeploymentFailed ModelDeployed", "Healthy"},
		"failed before":                {"Failed? u/1/r1, Failed u/1/r1", "", "Failed"},
		"made again":                   {"Healthy u/1/r1, gone, Healthy v/1/r1", "ModelDeployed ModelDeployed", "Healthy"},
		"gone and there after all":     {"Healthy u/1/r1, gone, Healthy u/1/r1", "ModelDeployed", "Healthy"},
		"gone":                         {"Healthy u/1/r1, gone, gone", "ModelDeployed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(ws *resource.Workspace) { ws.ExtraEvents = []string{"DeploymentFailed"} })
			for text := range strings.SplitSeq(c.sightings, ", ") {
				var err error
				if text == "gone" {
					err = b.ServiceGone(t.Context(), b.ws, "ml.churn", "prod/services/ml/churn")
				} else {
					_, err = b.ObserveService(t.Context(), b.ws, sighting(text), bridge)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			_, events := b.log.since(0)
			var got, ids []string
			for _, e := range events {
				eventType := field(e, "eventType")
				got, ids = append(got, eventType[strings.LastIndexByte(eventType, '.')+1:]), append(ids, field(e, "id"))
				if field(e, "subject") != "endpoints/ml/churn" || field(e, "serviceName") != "ml/churn" {
					t.Errorf("event %s", e)
				}
			}
			slices.Sort(ids)
			if strings.Join(got, " ") != c.events || len(slices.Compact(ids)) != len(events) {
				t.Errorf("events %q with the ids %q, want %q", got, ids, c.events)
			}
			e, err := b.GetEndpoint(t.Context(), b.ws, "ml.churn")
			if c.state == "" && !fault.Is(err, fault.NotFound) || c.state != "" && (err != nil || string(e.State) != c.state) {
				t.Errorf("endpoint %+v, error %v, want it %q", e, err, c.state)
			}
		})
	}
}

func TestSightingsOfTwoClusters(t *testing.T) {
	b := newBench(t)
	first, second := sighting("Healthy u/1/r1"), sighting("Healthy u/1/r1")
	second.Origin = "test/services/ml/churn"
	if _, err := b.ObserveService(t.Context(), b.ws, first, bridge); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ObserveService(t.Context(), b.ws, second, bridge); !fault.Is(err, fault.Conflict) {
		t.Errorf("error is %v", err)
	}
	if err := b.ServiceGone(t.Context(), b.ws, second.Name, second.Origin); err != nil {
		t.Error(err)
	}
	for prefix, want := range map[string]string{"": "map[ml.churn:prod/services/ml/churn]", "prod/": "map[ml.churn:prod/services/ml/churn]", "test/": "map[]"} {
		if got, err := b.ServicesOf(t.Context(), b.ws, prefix); err != nil || fmt.Sprint(got) != want {
			t.Errorf("services of %q: %v, error %v", prefix, got, err)
		}
	}
	_, err := b.PatchEndpoint(t.Context(), b.ws, "ml.churn", EndpointChange{}, kim)
	wantFault(t, err, fault.Conflict, nil, "Kubernetes cluster")
}
