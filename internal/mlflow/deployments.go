package mlflow

import (
	"context"
	"strings"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// computeType is that of everything that MLflow has for deployed.
const computeType = "MLFLOW"

// deploymentsOf submits which versions of a model, which was asked for after mark, have
// the aliases and stages that count as a deployment, and returns the events that came of
// it. Source: spec/workspace.md section 5.2, "ModelDeployed".
func (o *observer) deploymentsOf(ctx context.Context, m registeredModel, mark workspace.Mark) (events int, err error) {
	if m.Name == "" || isPrompt(m.Tags) {
		return 0, nil
	}
	versions := map[string]string{} // by what was given to them
	for _, a := range m.Aliases {
		versions[deployment("alias", a.Alias)] = a.Version
	}
	for i := range m.Latest {
		versions[deployment("stage", m.Latest[i].Stage)] = m.Latest[i].Version
	}
	for line := range strings.SplitSeq(deployments(o.server.DeployOn), "\n") {
		kind, name, given := strings.Cut(line, ":")
		if !given {
			continue
		}
		seen := workspace.DeploymentObservation{
			Service: m.Name + "@" + name, ComputeType: computeType, Tags: map[string]string{}, Seen: mark,
			Silent: !o.server.EmitBacklog && !o.known.readDeployed(line),
		}
		if version := versions[line]; version != "" {
			seen.ModelIDs = m.Name + ":" + version
			seen.Properties = map[string]string{"mlflow." + kind: name, "mlflow.modelUri": "models:/" + m.Name + "/" + version}
		}
		out, err := o.ledger.ObserveDeployment(ctx, o.ws, seen, stamp)
		events += out.Events
		if err := o.skip(ctx, "deployment", seen.Service, err); err != nil {
			return events, err
		}
	}
	return events, nil
}

// deployments is what counts as a deployment, a line each.
func deployments(on resource.DeployOn) string {
	var lines []string
	for _, alias := range on.Alias {
		lines = append(lines, deployment("alias", alias))
	}
	for _, stage := range on.Stage {
		lines = append(lines, deployment("stage", stage))
	}
	return strings.Join(lines, "\n")
}

func deployment(kind, name string) string { return kind + ":" + name }
