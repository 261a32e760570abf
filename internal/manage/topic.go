package manage

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// TopicChange is what a request sets on a topic or a domain.
type TopicChange struct {
	Tracked
	InputSchema string         // "" = EventGridSchema on creation, unchanged after it
	Mapping     *event.Mapping // goes with CustomEventSchema; nil = none on creation, unchanged after it
	// DuplicateWindow is in minutes, 0 for off; nil = off on creation, unchanged after
	// it, also on PUT: a client that does not know it must not turn it off.
	DuplicateWindow *int
	// Who may publish, and from where: nil = the default on PUT, unchanged on PATCH.
	DisableLocalAuth    *bool           // false
	PublicNetworkAccess *string         // Enabled
	InboundIPRules      *[]IPRule       // none
	Extra               json.RawMessage // members that are kept and shown as they came; nil = unchanged on PATCH
}

// IPRule lets publishers of a network in.
type IPRule struct {
	IPMask string // CIDR notation, or one address
	Action string // Allow; "" = that
}

// Values of TopicChange.PublicNetworkAccess and the action of an IPRule.
const (
	PublicAccessEnabled  = "Enabled"
	PublicAccessDisabled = "Disabled"
	IPRuleAllow          = "Allow"
)

// maxExtra bounds what is kept of members that only previews know.
const maxExtra = 64 << 10

// inlet is a kind of resource that publishers post to: topics and domains, which have
// nearly everything in common.
type inlet[T any] struct {
	*Plane
	kind   string // resource type; actions begin with it
	all    *resource.Collection[T]
	name   resource.NameRule
	topic  func(*T) *resource.Topic                      // what both have
	remove func(context.Context, resource.Item[T]) error // needs structure to be locked for writing
	clear  func(context.Context, resource.Item[T]) error // takes out what may be much, before structure is locked; nil for nothing
}

func (p *Plane) topics() inlet[resource.Topic] {
	return inlet[resource.Topic]{p, resource.TypeTopic, p.Store.Topics, resource.TopicName, func(t *resource.Topic) *resource.Topic { return t }, p.removeTopic, nil}
}

func (in inlet[T]) find(id resource.ID) (resource.Item[T], error) {
	return findOne(in.Plane, in.all, id)
}

func (in inlet[T]) get(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[T], error) {
	return readOne(ctx, in.Plane, caller, in.kind+"/", in.all, id)
}

func (in inlet[T]) list(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[T], error) {
	return readAll(ctx, in.Plane, caller, in.kind+"/", in.all, scope, func(v *T) resource.ID { return in.topic(v).ID })
}

// put creates one or replaces it. Its keys, its input schema with the mapping and its
// endpoint stay. set gives it what only its kind has.
func (in inlet[T]) put(ctx context.Context, caller access.Caller, id resource.ID, t TopicChange, set func(*T), c Precondition) (item resource.Item[T], err error) {
	if err := in.authorize(ctx, caller, in.kind+"/write", id); err != nil {
		return item, err
	}
	group, err := in.group(id)
	if err != nil {
		return item, err
	}
	key := id.Key()
	_, exists := in.all.Get(key)
	domain := in.kind == resource.TypeDomain
	schema, problems := t.input(!exists, domain)
	problems = append(append(problems, t.check(in.name, id)...), t.checkWindow())
	problems = append(append(problems, t.checkIngress()...), checkExtra(t.Extra))
	if err := t.verdict(problems); err != nil {
		return item, err
	}
	ctx, unlock := in.alter(ctx)
	defer unlock()
	old, exists := in.all.Get(key)
	if err := c.Check(etagOf(old, exists)); err != nil {
		return item, err
	}
	if exists {
		value := old.Value
		v := in.topic(&value)
		if err := t.moved(v.Meta); err != nil {
			return item, err
		}
		if err := t.keepsInput(v); err != nil {
			return item, err
		}
		v.Tags, v.Extra, v.Modified = t.Tags, t.Extra, stamp(caller)
		t.setWindow(v)
		v.DisableLocalAuth, v.Ingress = false, resource.Ingress{}
		t.setPublishing(v)
		set(&value)
		item, err = in.all.Update(ctx, key, value, old.Revision)
	} else {
		if _, err := in.group(id); err != nil { // it may have gone meanwhile
			return item, err
		}
		if err := in.nameFree(id.Name()); err != nil {
			return item, err
		}
		if _, problems := t.input(true, domain); len(problems) > 0 { // it was there when the request was checked
			return item, t.verdict(problems)
		}
		var value T
		v := in.topic(&value)
		*v = resource.Topic{
			Meta: t.meta(settle(group.Value.ID, in.kind, id.Name()), caller),
			UID:  resource.NewUID(), Partition: in.Partition(), InputSchema: schema, Mapping: t.Mapping, Extra: t.Extra,
		}
		t.setWindow(v)
		t.setPublishing(v)
		for i := range v.SealedKeys {
			if v.SealedKeys[i], err = in.newKey(v.KeyOwner()); err != nil {
				return item, err
			}
		}
		set(&value)
		item, err = in.all.Create(ctx, key, value)
	}
	if err == nil {
		in.changed(ctx, caller, "put", in.topic(&item.Value).ID)
	}
	return item, err
}

// patch changes tags and settings.
func (in inlet[T]) patch(ctx context.Context, caller access.Caller, id resource.ID, t TopicChange, set func(*T), c Precondition) (item resource.Item[T], err error) {
	if err := in.authorize(ctx, caller, in.kind+"/write", id); err != nil {
		return item, err
	}
	_, problems := t.input(false, in.kind == resource.TypeDomain)
	problems = append(append(problems, t.Problems...), resource.CheckTags(t.Tags)...)
	problems = append(append(problems, t.checkWindow()), t.checkIngress()...)
	if err := t.verdict(append(problems, checkExtra(t.Extra))); err != nil {
		return item, err
	}
	ctx, unlock := in.alter(ctx)
	defer unlock()
	old, err := in.find(id)
	if err != nil {
		return item, err
	}
	if err := c.Check(old.ETag()); err != nil {
		return item, err
	}
	value := old.Value
	v := in.topic(&value)
	if err := t.keepsInput(v); err != nil {
		return item, err
	}
	if t.Tags != nil {
		v.Tags = t.Tags
	}
	if v.Extra, err = mergeExtra(v.Extra, t.Extra); err != nil {
		return item, err
	}
	t.setWindow(v)
	t.setPublishing(v)
	set(&value)
	v.Modified = stamp(caller)
	item, err = in.all.Update(ctx, id.Key(), value, old.Revision)
	if err == nil {
		in.changed(ctx, caller, "patch", v.ID)
	}
	return item, err
}

// drop removes one with its event subscriptions and reports whether it was there.
func (in inlet[T]) drop(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	if err := in.authorize(ctx, caller, in.kind+"/delete", id); err != nil {
		return false, err
	}
	if in.clear != nil {
		v, exists := in.all.Get(id.Key())
		if err := c.Check(etagOf(v, exists)); err != nil || !exists {
			return false, err
		}
		if err := in.clear(ctx, v); err != nil {
			return false, err
		}
	}
	ctx, unlock := in.alter(ctx)
	defer unlock()
	v, exists := in.all.Get(id.Key())
	if err := c.Check(etagOf(v, exists)); err != nil || !exists {
		return false, err
	}
	if err := in.remove(ctx, v); err != nil {
		return false, err
	}
	in.changed(ctx, caller, "delete", in.topic(&v.Value).ID)
	return true, nil
}

// keys returns the two access keys.
func (in inlet[T]) keys(ctx context.Context, caller access.Caller, id resource.ID) ([2]string, error) {
	if err := in.authorize(ctx, caller, in.kind+"/listKeys/action", id); err != nil {
		return [2]string{}, err
	}
	item, err := in.find(id)
	if err != nil {
		return [2]string{}, err
	}
	v := in.topic(&item.Value)
	if err := in.secretRead(ctx, caller, v.ID, "access keys"); err != nil {
		return [2]string{}, err
	}
	return in.openKeys(v.SealedKeys, v.KeyOwner())
}

// regenerate replaces one access key, "key1" or "key2", and returns both.
// unread says why the request could not be read, nil when it could.
func (in inlet[T]) regenerate(ctx context.Context, caller access.Caller, id resource.ID, name string, unread error) ([2]string, error) {
	if err := in.authorize(ctx, caller, in.kind+"/regenerateKey/action", id); err != nil {
		return [2]string{}, err
	}
	if unread != nil {
		return [2]string{}, unread
	}
	which, err := whichKey(name)
	if err != nil {
		return [2]string{}, err
	}
	ctx, unlock := in.alter(ctx)
	defer unlock()
	old, err := in.find(id)
	if err != nil {
		return [2]string{}, err
	}
	value := old.Value
	v := in.topic(&value)
	if v.SealedKeys[which], err = in.newKey(v.KeyOwner()); err != nil {
		return [2]string{}, err
	}
	v.Modified = stamp(caller)
	if _, err := in.all.Update(ctx, id.Key(), value, old.Revision); err != nil {
		return [2]string{}, err
	}
	in.changed(ctx, caller, "regenerate "+strings.ToLower(name), v.ID)
	return in.openKeys(v.SealedKeys, v.KeyOwner())
}

// Topic returns a topic.
func (p *Plane) Topic(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.Topic], error) {
	return p.topics().get(ctx, caller, id)
}

func (p *Plane) topic(id resource.ID) (resource.Item[resource.Topic], error) {
	return p.topics().find(id)
}

// Topics returns the topics of a subscription or a resource group.
func (p *Plane) Topics(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[resource.Topic], error) {
	return p.topics().list(ctx, caller, scope)
}

// PutTopic creates a topic or replaces it. Its keys, its input schema with the mapping
// and its endpoint stay.
func (p *Plane) PutTopic(ctx context.Context, caller access.Caller, id resource.ID, t TopicChange, c Precondition) (resource.Item[resource.Topic], error) {
	return p.topics().put(ctx, caller, id, t, func(*resource.Topic) {}, c)
}

// PatchTopic changes tags and settings of a topic.
func (p *Plane) PatchTopic(ctx context.Context, caller access.Caller, id resource.ID, t TopicChange, c Precondition) (resource.Item[resource.Topic], error) {
	return p.topics().patch(ctx, caller, id, t, func(*resource.Topic) {}, c)
}

// DeleteTopic removes a topic with its event subscriptions and reports whether it
// was there.
func (p *Plane) DeleteTopic(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	return p.topics().drop(ctx, caller, id, c)
}

// removeTopic needs structure to be locked for writing.
func (p *Plane) removeTopic(ctx context.Context, t resource.Item[resource.Topic]) error {
	if err := p.removeEventSubscriptions(ctx, t.Value.ID); err != nil {
		return err
	}
	return p.removeGranted(ctx, func() error { return p.Store.Topics.Delete(ctx, t.Key, t.Revision) }, t.Value.ID)
}

// TopicKeys returns the two access keys of a topic.
func (p *Plane) TopicKeys(ctx context.Context, caller access.Caller, id resource.ID) ([2]string, error) {
	return p.topics().keys(ctx, caller, id)
}

// RegenerateTopicKey replaces one access key, "key1" or "key2", and returns both.
// unread says why the request could not be read, nil when it could.
func (p *Plane) RegenerateTopicKey(ctx context.Context, caller access.Caller, id resource.ID, name string, unread error) ([2]string, error) {
	return p.topics().regenerate(ctx, caller, id, name, unread)
}

// nameFree reports a Conflict for a name that another topic or domain has: the name is
// its place in the path that publishers post to, and in the host.
func (p *Plane) nameFree(name string) error {
	taken := func(kind string, by resource.ID) error {
		return fault.New(fault.Conflict, "Conflict", "The name '%s' is taken by the %s '%s'. Names of topics and domains are unique on a server, for publishers post to them by name; choose another one.",
			name, kind, by)
	}
	for _, other := range p.Store.Topics.List("") {
		if strings.EqualFold(other.Value.ID.Name(), name) {
			return taken("topic", other.Value.ID)
		}
	}
	for _, other := range p.Store.Domains.List("") {
		if strings.EqualFold(other.Value.ID.Name(), name) {
			return taken("domain", other.Value.ID)
		}
	}
	return nil
}

func (t *TopicChange) checkWindow() *fault.Error {
	if w := t.DuplicateWindow; w != nil && (*w < 0 || *w > resource.MaxDuplicateWindow) {
		return fault.Field("properties.duplicateDetectionWindowInMinutes",
			"The value %d of duplicateDetectionWindowInMinutes is out of range: use 1 to %d, or 0 to take every event.", *w, resource.MaxDuplicateWindow)
	}
	return nil
}

func (t *TopicChange) setWindow(v *resource.Topic) {
	if t.DuplicateWindow != nil {
		v.DuplicateWindow = *t.DuplicateWindow
	}
}

// checkIngress reports what is wrong with the networks that publishers may be in.
// Source: spec/management.md section 5.2.
func (t *TopicChange) checkIngress() (problems []*fault.Error) {
	if access := t.PublicNetworkAccess; access != nil && !strings.EqualFold(*access, PublicAccessEnabled) && !strings.EqualFold(*access, PublicAccessDisabled) {
		problems = append(problems, fault.Field("properties.publicNetworkAccess", "The value '%.40s' of publicNetworkAccess is not supported: use Enabled or Disabled.", *access))
	}
	if t.InboundIPRules == nil {
		return problems
	}
	const target = "properties.inboundIpRules"
	if n := len(*t.InboundIPRules); n > resource.MaxInboundIPRules {
		problems = append(problems, fault.Field(target, "There are %d inboundIpRules; at most %d are allowed. Join neighbouring networks.", n, resource.MaxInboundIPRules))
	}
	for i, rule := range *t.InboundIPRules {
		if _, err := resource.ParseNetwork(rule.IPMask); err != nil {
			problems = append(problems, fault.Field(fmt.Sprintf("%s[%d].ipMask", target, i), "The ipMask '%.60s' is no network: write CIDR notation such as 10.1.0.0/16 or 2001:db8::/32, or one address.", rule.IPMask))
		}
		if rule.Action != "" && !strings.EqualFold(rule.Action, IPRuleAllow) {
			problems = append(problems, fault.Field(fmt.Sprintf("%s[%d].action", target, i), "The action '%.40s' is not known: use Allow. What no rule allows is refused.", rule.Action))
		}
	}
	return problems
}

// setPublishing sets who may publish, and from where, as far as the change says.
func (t *TopicChange) setPublishing(v *resource.Topic) {
	if t.DisableLocalAuth != nil {
		v.DisableLocalAuth = *t.DisableLocalAuth
	}
	if t.PublicNetworkAccess != nil {
		v.Ingress.Closed = strings.EqualFold(*t.PublicNetworkAccess, PublicAccessDisabled)
	}
	if t.InboundIPRules != nil {
		v.Ingress.Allowed = nil
		for _, rule := range *t.InboundIPRules {
			v.Ingress.Allowed = append(v.Ingress.Allowed, rule.IPMask)
		}
	}
}

func checkExtra(extra json.RawMessage) *fault.Error {
	if len(extra) > maxExtra {
		return fault.New(fault.Invalid, "InvalidRequest", "The members of the body that are kept as they come take %d bytes, more than %d. Leave some out.", len(extra), maxExtra)
	}
	return nil
}

// mergeExtra lays the members of change over those of old, objects within objects.
func mergeExtra(old, change json.RawMessage) (json.RawMessage, error) {
	if len(change) == 0 {
		return old, nil
	}
	if !isObject(old) || !isObject(change) {
		return change, nil
	}
	var into, from map[string]json.RawMessage
	if err := json.Unmarshal(old, &into); err != nil {
		return nil, fmt.Errorf("decode kept members: %w", err)
	}
	if err := json.Unmarshal(change, &from); err != nil {
		return nil, fmt.Errorf("decode changed members: %w", err)
	}
	for name, value := range from {
		merged, err := mergeExtra(into[name], value)
		if err != nil {
			return nil, err
		}
		into[name] = merged
	}
	return json.Marshal(into)
}

func isObject(raw json.RawMessage) bool { return bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) }

// newKey makes an access key of 32 random bytes in base64 and seals it for its owner.
// Source: spec/management.md section 5.3.
func (p *Plane) newKey(owner string) (string, error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
	sealed, err := p.Sealer.Seal([]byte(base64.StdEncoding.EncodeToString(raw[:])), owner)
	if err != nil {
		return "", fmt.Errorf("seal a key of %s: %w", owner, err)
	}
	return sealed, nil
}

func (p *Plane) openKeys(sealed [2]string, owner string) (keys [2]string, err error) {
	for i, text := range sealed {
		plain, err := p.Sealer.Open(text, owner)
		if err != nil {
			return [2]string{}, fmt.Errorf("open a key of %s: %w", owner, err)
		}
		keys[i] = string(plain)
	}
	return keys, nil
}

// whichKey reads the name of one of two keys.
func whichKey(name string) (int, error) {
	switch strings.ToLower(name) {
	case "":
		return 0, fault.Field("keyName", "Say which key is to be replaced: send {\"keyName\":\"key1\"} or key2.")
	case "key1":
		return 0, nil
	case "key2":
		return 1, nil
	}
	return 0, fault.Field("keyName", "The key name '%s' is not valid: use key1 or key2.", name)
}

// secretRead tells that a secret is about to be shown, in the audit log and after it in
// the server's. Source: spec/access.md section 9.
func (p *Plane) secretRead(ctx context.Context, caller access.Caller, id resource.ID, what string) error {
	if err := p.Audit.SecretRead(ctx, id, what); err != nil {
		return err
	}
	p.Log.LogAttrs(ctx, slog.LevelInfo, "secret read", slog.String("secret", what),
		slog.String("resource", id.String()), slog.String("principal", caller.ObjectID))
	return nil
}
