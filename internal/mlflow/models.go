package mlflow

import (
	"context"
	"maps"
	"slices"

	"github.com/carillon-events/carillon/internal/workspace"
)

// lookAtModels reads the versions of the models that changed since the place. The list
// begins with those that changed last, so one that changes meanwhile repeats rows and
// hides none. A wide look goes on to the end of it when something counts as a deployment
// or aliases raise events: an alias that is set does not change its model's time.
func (p *poller) lookAtModels(ctx context.Context, next *place, wide bool) error {
	from := whole(max(0, p.place.Models-modelOverlap.Milliseconds()))
	all, most := wide && (p.server.DeployOn.Any() || p.wantsAliases()), pageOfChanged
	if all {
		most = pageOfModels
	}
	seen, listed := map[string]bool{}, 0
	var mark workspace.Mark
	for models, err := range pages(p.client, "", func(token string) ([]registeredModel, string, error) {
		mark = p.ledger.Mark()
		return p.client.registeredModels(ctx, token, most)
	}) {
		if err != nil {
			return err
		}
		if listed += len(models); listed > mostObjects {
			return errTooMany
		}
		old := false
		for _, m := range models {
			if old = m.LastUpdated < from; old && !all {
				break
			}
			if !old {
				next.Models = max(next.Models, int64(m.LastUpdated))
				seen[m.Name] = true
				if err := p.readModel(ctx, m); err != nil {
					return err
				}
			}
			if err := p.readDeployments(ctx, m, mark); err != nil {
				return err
			}
			if err := p.readAliases(ctx, m); err != nil {
				return err
			}
		}
		if old && !all {
			break
		}
	}
	if all {
		next.Deployed = deployments(p.server.DeployOn)
	}
	for name, state := range p.models {
		switch {
		case seen[name]:
		case state.pending:
			if err := p.readVersions(ctx, name, state); err != nil {
				return err
			}
		default:
			delete(p.models, name)
		}
	}
	return nil
}

// readModel reads the versions of a model, unless it was read twice since its last
// update: once may have been within the millisecond of another one.
func (p *poller) readModel(ctx context.Context, m registeredModel) error {
	state := p.models[m.Name]
	if state.updated != m.LastUpdated {
		state.updated, state.reads = m.LastUpdated, 0
	}
	if isPrompt(m.Tags) || state.reads >= 2 && !state.pending {
		p.models[m.Name] = state
		return nil
	}
	return p.readVersions(ctx, m.Name, state)
}

// readVersions observes the versions of a model that the ledger does not know.
func (p *poller) readVersions(ctx context.Context, model string, state modelState) error {
	events, pending, err := p.versionsOf(ctx, model)
	p.events += events
	if err != nil {
		return err
	}
	state.pending = pending
	state.reads++
	p.models[model] = state
	return nil
}

// sweepModels reads all versions of all models.
func (p *poller) sweepModels(ctx context.Context, next *place) error {
	all, read := map[string]registeredModel{}, p.ledger.Mark()
	for models, err := range pages(p.client, "", func(token string) ([]registeredModel, string, error) {
		return p.client.registeredModels(ctx, token, pageOfModels)
	}) {
		if err != nil {
			return err
		}
		for _, m := range models {
			next.Models = max(next.Models, int64(m.LastUpdated))
			all[m.Name] = m
		}
		if len(all) > mostObjects {
			return errTooMany
		}
	}
	for versions, err := range pages(p.client, "", func(token string) ([]modelVersion, string, error) {
		return p.client.modelVersions(ctx, "", token)
	}) {
		if err != nil {
			return err
		}
		for i := range versions {
			v := &versions[i]
			m := all[v.Name]
			if isPrompt(m.Tags) {
				continue
			}
			v.Aliases = m.aliasesOf(v.Version)
			if v.Status == "PENDING_REGISTRATION" {
				p.models[v.Name] = modelState{pending: true}
			}
			out, err := p.observeVersion(ctx, v, m.Tags, read)
			if err != nil {
				return err
			}
			p.events += out.Events
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := p.readDeployments(ctx, all[name], read); err != nil {
			return err
		}
		p.aliases.learn(all[name])
	}
	maps.DeleteFunc(p.aliases, func(name string, _ map[string]string) bool { _, there := all[name]; return !there })
	next.Deployed = deployments(p.server.DeployOn)
	return nil
}

func (p *poller) readDeployments(ctx context.Context, m registeredModel, mark workspace.Mark) error {
	events, err := p.deploymentsOf(ctx, m, mark)
	p.events += events
	return err
}

// aliases are those of the registered models, by model: which version each points at.
type aliases map[string]map[string]string

// learn takes the aliases of a model and returns the versions that got or lost one.
func (a aliases) learn(m registeredModel) (moved []string) {
	had, has := a[m.Name], map[string]string{}
	for _, alias := range m.Aliases {
		has[alias.Alias] = alias.Version
	}
	for _, one := range []struct{ these, those map[string]string }{{had, has}, {has, had}} {
		for alias, version := range one.these {
			if one.those[alias] != version && !slices.Contains(moved, version) {
				moved = append(moved, version)
			}
		}
	}
	if a[m.Name] = has; len(has) == 0 {
		delete(a, m.Name)
	}
	slices.Sort(moved)
	return moved
}

// readAliases reads the versions of a model whose aliases moved since it was listed last.
func (p *poller) readAliases(ctx context.Context, m registeredModel) error {
	if isPrompt(m.Tags) {
		return nil
	}
	for _, version := range p.aliases.learn(m) {
		mark := p.ledger.Mark()
		v, err := p.client.modelVersion(ctx, m.Name, version)
		if absent(err) {
			continue // deleted with its aliases
		}
		if err != nil {
			delete(p.aliases, m.Name) // the next look reads them all
			return err
		}
		out, err := p.observeVersion(ctx, &v, m.Tags, mark)
		p.events += out.Events
		if err != nil {
			delete(p.aliases, m.Name)
			return err
		}
	}
	return nil
}
