package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// Sealing is a record that holds sealed secrets. EachSealed calls f with each sealed
// text, to be looked at or replaced, and what it is sealed for; never with "".
type Sealing interface {
	EachSealed(f func(sealed *string, associated string))
}

// EachSealed satisfies Sealing.
func (t *Topic) EachSealed(f func(sealed *string, associated string)) {
	for i := range t.SealedKeys {
		each(f, &t.SealedKeys[i], t.KeyOwner())
	}
}

// EachSealed satisfies Sealing.
func (es *EventSubscription) EachSealed(f func(sealed *string, associated string)) {
	destinations := []*Destination{&es.Destination}
	if es.Pending != nil {
		destinations = append(destinations, &es.Pending.Destination)
	}
	for _, d := range destinations {
		if d.WebHook != nil {
			es.eachSealedOf(d.WebHook, f)
		}
		if d.Target != nil {
			es.eachAttribute(&d.Target.Packing, f)
			for name, sealed := range d.Target.Sealed {
				again := sealed
				if each(f, &again, es.FieldOwner(name)); again != sealed { // readers share the map
					d.Target.Sealed[name] = again
				}
			}
		}
	}
}

func (es *EventSubscription) eachAttribute(p *Packing, f func(sealed *string, associated string)) {
	for i := range p.DeliveryAttributes {
		each(f, &p.DeliveryAttributes[i].SealedValue, es.AttributeOwner(p.DeliveryAttributes[i].Name))
	}
}

func (es *EventSubscription) eachSealedOf(hook *WebHook, f func(sealed *string, associated string)) {
	each(f, &hook.SealedURL, es.URLOwner())
	es.eachAttribute(&hook.Packing, f)
	if hook.Signing != nil {
		for i := range hook.Signing.Keys {
			each(f, &hook.Signing.Keys[i].Sealed, es.SigningOwner(hook.Signing.Keys[i].ID))
		}
	}
	if hook.TokenIssuer != nil {
		each(f, &hook.TokenIssuer.SealedSecret, es.ClientSecretOwner())
	}
	if hook.ClientCertificate != nil {
		each(f, &hook.ClientCertificate.SealedKey, es.ClientKeyOwner())
	}
}

// EachSealed satisfies Sealing.
func (m *MLflowServer) EachSealed(f func(sealed *string, associated string)) {
	each(f, &m.SealedSecret, m.SecretOwner())
	each(f, &m.Webhook.Sealed, m.WebhookOwner())
}

// EachSealed satisfies Sealing.
func (c *Cluster) EachSealed(f func(sealed *string, associated string)) {
	each(f, &c.SealedSecret, c.SecretOwner())
}

// EachSealed satisfies Sealing.
func (k *LineageKeys) EachSealed(f func(sealed *string, associated string)) {
	for i := range k.SealedKeys {
		each(f, &k.SealedKeys[i], k.KeyOwner())
	}
}

func each(f func(*string, string), sealed *string, associated string) {
	if *sealed != "" {
		f(sealed, associated)
	}
}

// MasterKey tells which key secrets are sealed with, and since when: the one record of
// its kind. The key itself is never stored.
type MasterKey struct {
	KeyID   string    `json:"keyId"`
	Rotated time.Time `json:"rotated"`
	By      string    `json:"by,omitempty"` // object id
}

// Place is where a record is kept.
type Place struct{ Kind, Key string }

// SealedTexts calls f with every sealed text of every record, in no order.
func (s *Store) SealedTexts(f func(at Place, sealed string)) {
	for _, c := range s.collections {
		c.eachSealed(f)
	}
}

func (c *Collection[T]) eachSealed(f func(Place, string)) {
	if _, ok := any((*T)(nil)).(Sealing); !ok {
		return
	}
	for _, item := range c.List("") {
		any(&item.Value).(Sealing).EachSealed(func(sealed *string, _ string) { f(Place{c.kind, item.Key}, *sealed) })
	}
}

// Reseal replaces the sealed texts of one record by what f makes of them. Nothing else
// changes, and no witness is told: it means the same as before. A record that is gone
// is no error.
func (s *Store) Reseal(ctx context.Context, at Place, f func(sealed, associated string) (string, error)) error {
	c, ok := s.collections[at.Kind]
	if !ok {
		return fmt.Errorf("seal anew: there are no records of the kind %q", at.Kind)
	}
	return c.reseal(ctx, at.Key, f)
}

func (c *Collection[T]) reseal(ctx context.Context, key string, f func(sealed, associated string) (string, error)) error {
	item, ok := c.Get(key)
	if !ok {
		return nil
	}
	raw, err := json.Marshal(item.Value)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", c.kind, key, err)
	}
	var v T // shares nothing with the store
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("decode %s %s: %w", c.kind, key, err)
	}
	var problem error
	any(&v).(Sealing).EachSealed(func(sealed *string, associated string) {
		if again, err := f(*sealed, associated); err != nil {
			problem = err
		} else {
			*sealed = again
		}
	})
	if problem != nil {
		return fmt.Errorf("seal %s %s anew: %w", c.kind, key, problem)
	}
	if raw, err = json.Marshal(v); err != nil {
		return fmt.Errorf("encode %s %s: %w", c.kind, key, err)
	}
	var revision uint64
	err = c.store.write(raw, func() (err error) {
		revision, err = c.store.kv.Update(ctx, c.kind+"/"+item.Key, raw, item.Revision)
		return err
	})
	if err != nil {
		return c.wrap("seal anew", key, err)
	}
	c.install(Item[T]{Key: item.Key, Value: v, Revision: revision})
	return nil
}

// Forbid keeps every text from being stored from now on, unless a record holds it:
// then nothing is forbidden and the answer is where it was found. The texts are ends
// of master keys: nothing sealed with one that is about to go may be stored any more.
func (s *Store) Forbid(texts ...string) (found []Place) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for _, c := range s.collections {
		found = append(found, c.holding(texts)...)
	}
	if len(found) == 0 {
		s.forbidden = append(s.forbidden, texts...)
	}
	return found
}

func (c *Collection[T]) holding(texts []string) (found []Place) {
	for _, item := range c.List("") {
		raw, err := json.Marshal(item.Value)
		if err != nil || slices.ContainsFunc(texts, func(text string) bool { return bytes.Contains(raw, []byte(text)) }) {
			found = append(found, Place{c.kind, item.Key})
		}
	}
	return found
}

// write stores a record, unless it holds what is forbidden.
func (s *Store) write(raw []byte, store func() error) error {
	s.writing.RLock()
	defer s.writing.RUnlock()
	for _, text := range s.forbidden {
		if bytes.Contains(raw, []byte(text)) {
			return fault.New(fault.Conflict, "MasterKeyRotated", "The master key was changed while this request was under way. Send it again.")
		}
	}
	return store()
}
