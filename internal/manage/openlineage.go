package manage

import (
	"context"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/resource"
)

// actionWorkspaceKeys is what seeing the keys of a workspace needs: Data Scientist does
// not have it. Source: spec/access.md section 8.
const actionWorkspaceKeys = actionWorkspaces + "listKeys/action"

// LineageReceiver returns the workspace that takes OpenLineage events, and when its keys
// were changed; exists is false while nobody has asked for them.
func (p *Plane) LineageReceiver(ctx context.Context, caller access.Caller, id resource.ID) (ws resource.Item[resource.Workspace], keys resource.Item[resource.LineageKeys], exists bool, err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"read", id); err != nil {
		return ws, keys, false, err
	}
	if ws, err = p.workspace(id); err != nil {
		return ws, keys, false, err
	}
	keys, exists = p.Store.LineageKeys.Get(id.Key())
	return ws, keys, exists, nil
}

// LineageKeys returns the two keys with which a workspace is sent OpenLineage events, and
// makes them the first time.
func (p *Plane) LineageKeys(ctx context.Context, caller access.Caller, id resource.ID) ([2]string, error) {
	if err := p.authorize(ctx, caller, actionWorkspaceKeys, id); err != nil {
		return [2]string{}, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	ws, err := p.workspace(id)
	if err != nil {
		return [2]string{}, err
	}
	item, exists := p.Store.LineageKeys.Get(id.Key())
	if !exists {
		if item, err = p.makeLineageKeys(ctx, caller, ws); err != nil {
			return [2]string{}, err
		}
	}
	if err := p.secretRead(ctx, caller, ws.Value.ID, "OpenLineage keys"); err != nil {
		return [2]string{}, err
	}
	return p.OpenLineageKeys(&item.Value)
}

// makeLineageKeys needs structure to be locked for writing.
func (p *Plane) makeLineageKeys(ctx context.Context, caller access.Caller, ws resource.Item[resource.Workspace]) (item resource.Item[resource.LineageKeys], err error) {
	k := resource.LineageKeys{UID: resource.NewUID(), Workspace: ws.Value.ID, Created: stamp(caller)}
	k.Modified = k.Created
	for i := range k.SealedKeys {
		if k.SealedKeys[i], err = p.newKey(k.KeyOwner()); err != nil {
			return item, err
		}
	}
	if item, err = p.Store.LineageKeys.Create(ctx, ws.Key, k); err == nil {
		p.changed(ctx, caller, "make OpenLineage keys", ws.Value.ID)
	}
	return item, err
}

// RegenerateLineageKey replaces one of the keys, "key1" or "key2", and returns both.
// unread says why the request could not be read, nil when it could.
func (p *Plane) RegenerateLineageKey(ctx context.Context, caller access.Caller, id resource.ID, name string, unread error) ([2]string, error) {
	for _, action := range []string{actionWorkspaceKeys, actionWorkspaces + "write"} {
		if err := p.authorize(ctx, caller, action, id); err != nil {
			return [2]string{}, err
		}
	}
	if unread != nil {
		return [2]string{}, unread
	}
	which, err := whichKey(name)
	if err != nil {
		return [2]string{}, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	ws, err := p.workspace(id)
	if err != nil {
		return [2]string{}, err
	}
	item, exists := p.Store.LineageKeys.Get(id.Key())
	if !exists {
		if item, err = p.makeLineageKeys(ctx, caller, ws); err != nil {
			return [2]string{}, err
		}
	} else {
		k := item.Value
		if k.SealedKeys[which], err = p.newKey(k.KeyOwner()); err != nil {
			return [2]string{}, err
		}
		k.Modified = stamp(caller)
		if item, err = p.Store.LineageKeys.Update(ctx, item.Key, k, item.Revision); err != nil {
			return [2]string{}, err
		}
		p.changed(ctx, caller, "regenerate OpenLineage "+strings.ToLower(name), ws.Value.ID)
	}
	return p.OpenLineageKeys(&item.Value)
}

// OpenLineageKeys opens the keys of a workspace.
func (p *Plane) OpenLineageKeys(k *resource.LineageKeys) ([2]string, error) {
	return p.openKeys(k.SealedKeys, k.KeyOwner())
}
