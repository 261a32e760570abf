package manage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// The actions of the master key lie in Microsoft.Authorization, as those of principals
// do: Contributor does not have them.
const (
	actionMasterKeyRead  = "Microsoft.Authorization/masterKeys/read"
	actionMasterKeyWrite = "Microsoft.Authorization/masterKeys/write"
)

const masterKeyRecord = "current" // key of the one record

// resealAgain is how long a sealing anew rests that could not go on.
const resealAgain = time.Minute

// MasterKeys is where master keys are kept. secret.Source satisfies it.
type MasterKeys interface {
	// Load returns the keys; the first seals.
	Load(ctx context.Context) ([]secret.Key, error)
	// Keep keeps these and no others.
	Keep(keys ...secret.Key) error
	// Own reports whether the server may make keys there.
	Own() bool
	// Name says where the keys are.
	Name() string
}

// KeyFiles are private keys that lie in files, sealed with the master key.
type KeyFiles interface {
	// SealedWith returns the id of the master key that each is sealed with.
	SealedWith() ([]string, error)
	// Reseal seals those with the current master key that are not. Nothing is sealed
	// with one from before once it has returned.
	Reseal() error
}

// MasterKey is the state of the master key.
type MasterKey struct {
	Source  string
	KeyID   string
	Rotated time.Time // zero for never
	Retired []string  // ids of keys from before that are still kept
	Secrets int       // sealed texts and files that there are
	Behind  int       // of them, those that are still sealed under a key from before

	Rotating bool // the last change is not done
}

func masterKeyID() resource.ID {
	return resource.Root.Extension("Carillon.Secrets", "masterKeys", "default")
}

// CheckSecrets refuses a start without the master keys that secrets are sealed with.
// keys are those at hand. Call it after the store is loaded, before Run.
func (p *Plane) CheckSecrets(keys []secret.Key) error {
	p.rotating.Lock()
	defer p.rotating.Unlock()
	p.retired = idsOf(keys[1:])
	missing := map[string]int{}
	p.Store.SealedTexts(func(_ resource.Place, sealed string) {
		if id := secret.KeyOf(sealed); id != "" && !p.Sealer.Knows(id) {
			missing[id]++
		}
	})
	var problems []error
	for id, n := range missing {
		problems = append(problems, fmt.Errorf("%d secrets are sealed with the master key %s, and %s does not hold it: put that key there, behind the first", n, id, p.MasterKeys.Name()))
	}
	return errors.Join(problems...)
}

func idsOf(keys []secret.Key) (ids []string) {
	for _, k := range keys {
		ids = append(ids, k.ID())
	}
	return ids
}

// MasterKey tells how the master key stands.
func (p *Plane) MasterKey(ctx context.Context, caller access.Caller) (MasterKey, error) {
	release, err := p.holdMasterKey(ctx, caller, actionMasterKeyRead)
	if err != nil {
		return MasterKey{}, err
	}
	defer release()
	return p.masterKeyNow()
}

// holdMasterKey keeps the master key as it is for somebody who may do something with it,
// until release is called.
func (p *Plane) holdMasterKey(ctx context.Context, caller access.Caller, action string) (release func(), err error) {
	if err := p.authorize(ctx, caller, action, masterKeyID()); err != nil {
		return nil, err
	}
	if p.MasterKeys == nil {
		return nil, notFound("MasterKeyNotFound", "This server has no master key of its own.")
	}
	p.rotating.Lock()
	return p.rotating.Unlock, nil
}

func (p *Plane) masterKeyNow() (MasterKey, error) {
	k := MasterKey{Source: p.MasterKeys.Name(), KeyID: p.Sealer.Current(), Retired: slices.Clone(p.retired)}
	if item, ok := p.Store.MasterKeys.Get(masterKeyRecord); ok && item.Value.KeyID == k.KeyID {
		k.Rotated = item.Value.Rotated
	}
	count := func(id string) {
		k.Secrets++
		if id != k.KeyID {
			k.Behind++
		}
	}
	p.Store.SealedTexts(func(_ resource.Place, sealed string) { count(secret.KeyOf(sealed)) })
	for _, files := range p.KeyFiles {
		ids, err := files.SealedWith()
		if err != nil {
			return MasterKey{}, fmt.Errorf("look at what is sealed with the master key: %w", err)
		}
		for _, id := range ids {
			count(id)
		}
	}
	k.Rotating = k.Behind > 0 || len(k.Retired) > 0 && p.MasterKeys.Own()
	return k, nil
}

// RotateMasterKey changes the master key: to a new one where the server keeps it, else
// to what stands first where the operator keeps it. New secrets are sealed with it from
// then on; those that are there follow in the background, and the old key is kept until
// the last of them did. A stop in between loses nothing: the next start goes on.
func (p *Plane) RotateMasterKey(ctx context.Context, caller access.Caller) (MasterKey, error) {
	release, err := p.holdMasterKey(ctx, caller, actionMasterKeyWrite)
	if err != nil {
		return MasterKey{}, err
	}
	defer release()
	if now, err := p.masterKeyNow(); err != nil {
		return MasterKey{}, err
	} else if now.Rotating {
		return now, fault.New(fault.Conflict, "MasterKeyRotationUnderWay", "The last change of the master key is not done: %d of %d secrets are still sealed with the key from before. Try again when they are not.", now.Behind, now.Secrets)
	}
	ctx = context.WithoutCancel(ctx)
	keys, err := p.MasterKeys.Load(ctx)
	if err != nil {
		return MasterKey{}, err
	}
	if p.MasterKeys.Own() {
		fresh, err := secret.NewKey()
		if err != nil {
			return MasterKey{}, err
		}
		keys = append([]secret.Key{fresh}, keys...)
	} else if keys[0].ID() == p.Sealer.Current() {
		return MasterKey{}, fault.New(fault.Conflict, "MasterKeyUnchanged", "The first key of %s is still %s. Put a new one before it, keep the old one behind it, and try again; a variable of the environment is read at a start.", p.MasterKeys.Name(), keys[0].ID())
	} else if p.Sealer.Knows(keys[0].ID()) {
		return MasterKey{}, fault.New(fault.Conflict, "MasterKeyUsedBefore", "The first key of %s, %s, is one from before. Make a new one: openssl rand -hex 32.", p.MasterKeys.Name(), keys[0].ID())
	}
	// The audit log first, then the key where it is kept, then what is sealed with it.
	if err := p.noteMasterKey(ctx, resource.MasterKey{KeyID: keys[0].ID(), Rotated: time.Now().UTC().Truncate(time.Second), By: caller.ObjectID}); err != nil {
		return MasterKey{}, err
	}
	if p.MasterKeys.Own() {
		if err := p.MasterKeys.Keep(keys...); err != nil {
			return MasterKey{}, err
		}
	}
	p.Sealer.Use(keys[0], keys[1:]...)
	p.retired = idsOf(keys[1:])
	p.changed(ctx, caller, "rotate", masterKeyID(), slog.String("key_id", keys[0].ID()))
	select {
	case p.resealing <- struct{}{}:
	default:
	}
	return p.masterKeyNow()
}

func (p *Plane) noteMasterKey(ctx context.Context, k resource.MasterKey) error {
	item, ok := p.Store.MasterKeys.Get(masterKeyRecord)
	if !ok {
		_, err := p.Store.MasterKeys.Create(ctx, masterKeyRecord, k)
		return err
	}
	_, err := p.Store.MasterKeys.Update(ctx, masterKeyRecord, k, item.Revision)
	return err
}

// keepResealing seals anew what is sealed under a master key from before, at the start
// and after each change, until ctx ends.
func (p *Plane) keepResealing(ctx context.Context) {
	if p.MasterKeys == nil {
		return
	}
	for {
		var again <-chan time.Time
		if err := p.reseal(ctx); err != nil && ctx.Err() == nil {
			p.Log.Error("secrets could not be sealed anew", telemetry.Error, err)
			again = time.After(resealAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.resealing:
		case <-again:
		}
	}
}

// reseal seals everything anew that is behind, and lets the old keys go once nothing is.
func (p *Plane) reseal(ctx context.Context) error {
	var current string
	for {
		current = p.Sealer.Current()
		behind := map[resource.Place]bool{}
		p.Store.SealedTexts(func(at resource.Place, sealed string) {
			if id := secret.KeyOf(sealed); id != "" && id != current {
				behind[at] = true
			}
		})
		if len(behind) == 0 {
			break
		}
		for at := range behind {
			// Somebody who changed the record in between is met in the next pass.
			if err := p.resealOne(ctx, at); err != nil && !fault.Is(err, fault.PreconditionFailed) {
				return err
			}
		}
	}
	for _, files := range p.KeyFiles {
		if err := files.Reseal(); err != nil {
			return err
		}
	}
	return p.dropRetired(ctx, current)
}

// resealOne seals one record anew, in turn with its other changes: none of them is
// refused because of it.
func (p *Plane) resealOne(ctx context.Context, at resource.Place) error {
	rewrap := func(ctx context.Context, unlock func()) error {
		defer unlock()
		return p.Store.Reseal(ctx, at, p.Sealer.Rewrap)
	}
	item, ok := p.Store.EventSubscriptions.Get(at.Key)
	if at.Kind != "eventSubscription" || !ok {
		return rewrap(p.alter(ctx))
	}
	done, err := p.changes.take(ctx, item.Value.Key())
	if err != nil {
		return err
	}
	defer done()
	return rewrap(p.alterOne(ctx, item.Value.Key()))
}

// dropRetired lets the keys go that nothing is sealed under, and that nothing will be:
// a request that sealed with one and has not stored it yet is refused when it does.
func (p *Plane) dropRetired(ctx context.Context, current string) error {
	p.rotating.Lock()
	defer p.rotating.Unlock()
	if len(p.retired) == 0 {
		return nil
	}
	keys, err := p.MasterKeys.Load(ctx)
	if err != nil {
		return err
	}
	if keys[0].ID() != current || p.Sealer.Current() != current {
		return nil // changed again; the next pass or the next start sees to it
	}
	var beginnings []string
	for _, id := range p.retired {
		beginnings = append(beginnings, secret.BeginningOf(id))
	}
	if found := p.Store.Forbid(beginnings...); len(found) > 0 {
		return fmt.Errorf("master keys from before are kept: %d records hold what is sealed with them, among them %s %s", len(found), found[0].Kind, found[0].Key)
	}
	if err := p.MasterKeys.Keep(keys[0]); err != nil {
		return err
	}
	p.Log.Info("every secret is sealed with the new master key", "key_id", current, "needed_no_more", p.retired)
	p.retired = nil
	return nil
}
