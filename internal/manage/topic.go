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

const actionTopics = "Microsoft.EventGrid/topics/"

// TopicChange is what a request sets on a topic.
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

// Topic returns a topic.
func (p *Plane) Topic(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.Topic], error) {
	return readOne(ctx, p, caller, actionTopics, p.Store.Topics, id)
}

func (p *Plane) topic(id resource.ID) (resource.Item[resource.Topic], error) {
	return findOne(p, p.Store.Topics, id)
}

// Topics returns the topics of a subscription or a resource group.
func (p *Plane) Topics(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[resource.Topic], error) {
	return readAll(ctx, p, caller, actionTopics, p.Store.Topics, scope, func(t *resource.Topic) resource.ID { return t.ID })
}

// PutTopic creates a topic or replaces it. Its keys, its input schema with the mapping
// and its endpoint stay.
func (p *Plane) PutTopic(ctx context.Context, caller access.Caller, id resource.ID, t TopicChange, c Precondition) (item resource.Item[resource.Topic], err error) {
	if err := p.authorize(ctx, caller, actionTopics+"write", id); err != nil {
		return item, err
	}
	group, err := p.group(id)
	if err != nil {
		return item, err
	}
	key := id.Key()
	_, exists := p.Store.Topics.Get(key)
	schema, problems := t.input(!exists)
	problems = append(append(problems, t.check(resource.TopicName, id)...), t.checkWindow())
	problems = append(append(problems, t.checkIngress()...), checkExtra(t.Extra))
	if err := t.verdict(problems); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	old, exists := p.Store.Topics.Get(key)
	if err := c.Check(etagOf(old, exists)); err != nil {
		return item, err
	}
	if exists {
		if err := t.moved(old.Value.Meta); err != nil {
			return item, err
		}
		if err := t.keepsInput(&old.Value); err != nil {
			return item, err
		}
		v := old.Value
		v.Tags, v.Extra, v.Modified = t.Tags, t.Extra, stamp(caller)
		t.setWindow(&v)
		v.DisableLocalAuth, v.Ingress = false, resource.Ingress{}
		t.setPublishing(&v)
		item, err = p.Store.Topics.Update(ctx, key, v, old.Revision)
	} else {
		if _, err := p.group(id); err != nil { // it may have gone meanwhile
			return item, err
		}
		if err := p.topicNameFree(id.Name()); err != nil {
			return item, err
		}
		if _, problems := t.input(true); len(problems) > 0 { // it was there when the request was checked
			return item, t.verdict(problems)
		}
		v := resource.Topic{
			Meta: t.meta(settle(group.Value.ID, resource.TypeTopic, id.Name()), caller),
			UID:  resource.NewUID(), Partition: p.Partition(), InputSchema: schema, Mapping: t.Mapping, Extra: t.Extra,
		}
		t.setWindow(&v)
		t.setPublishing(&v)
		for i := range v.SealedKeys {
			if v.SealedKeys[i], err = p.newTopicKey(&v); err != nil {
				return item, err
			}
		}
		item, err = p.Store.Topics.Create(ctx, key, v)
	}
	if err == nil {
		p.changed(ctx, caller, "put", item.Value.ID)
	}
	return item, err
}

// topicNameFree reports a Conflict for a name that another topic has: the name is
// the topic's place in the path that publishers post to.
func (p *Plane) topicNameFree(name string) error {
	for _, other := range p.Store.Topics.List("") {
		if strings.EqualFold(other.Value.ID.Name(), name) {
			return fault.New(fault.Conflict, "Conflict", "The topic name '%s' is taken by '%s'. Topic names are unique on a server, for publishers post to /topics/{name}; choose another one.",
				name, other.Value.ID)
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

// PatchTopic changes tags and settings of a topic.
func (p *Plane) PatchTopic(ctx context.Context, caller access.Caller, id resource.ID, t TopicChange, c Precondition) (item resource.Item[resource.Topic], err error) {
	if err := p.authorize(ctx, caller, actionTopics+"write", id); err != nil {
		return item, err
	}
	_, problems := t.input(false)
	problems = append(append(problems, t.Problems...), resource.CheckTags(t.Tags)...)
	problems = append(append(problems, t.checkWindow()), t.checkIngress()...)
	if err := t.verdict(append(problems, checkExtra(t.Extra))); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	old, err := p.topic(id)
	if err != nil {
		return item, err
	}
	if err := c.Check(old.ETag()); err != nil {
		return item, err
	}
	if err := t.keepsInput(&old.Value); err != nil {
		return item, err
	}
	v := old.Value
	if t.Tags != nil {
		v.Tags = t.Tags
	}
	if v.Extra, err = mergeExtra(v.Extra, t.Extra); err != nil {
		return item, err
	}
	t.setWindow(&v)
	t.setPublishing(&v)
	v.Modified = stamp(caller)
	item, err = p.Store.Topics.Update(ctx, id.Key(), v, old.Revision)
	if err == nil {
		p.changed(ctx, caller, "patch", v.ID)
	}
	return item, err
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

// DeleteTopic removes a topic with its event subscriptions and reports whether it
// was there.
func (p *Plane) DeleteTopic(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionTopics+"delete", id); err != nil {
		return false, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	t, exists := p.Store.Topics.Get(id.Key())
	if err := c.Check(etagOf(t, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.removeTopic(ctx, t); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", t.Value.ID)
	return true, nil
}

// removeTopic needs structure to be locked for writing.
func (p *Plane) removeTopic(ctx context.Context, t resource.Item[resource.Topic]) error {
	if err := p.removeEventSubscriptions(ctx, t.Value.ID); err != nil {
		return err
	}
	if err := p.Store.Topics.Delete(ctx, t.Key, t.Revision); err != nil {
		return err
	}
	return p.removeGrants(ctx, t.Value.ID)
}

// TopicKeys returns the two access keys of a topic.
func (p *Plane) TopicKeys(ctx context.Context, caller access.Caller, id resource.ID) ([2]string, error) {
	if err := p.authorize(ctx, caller, actionTopics+"listKeys/action", id); err != nil {
		return [2]string{}, err
	}
	item, err := p.topic(id)
	if err != nil {
		return [2]string{}, err
	}
	if err := p.secretRead(ctx, caller, item.Value.ID, "access keys"); err != nil {
		return [2]string{}, err
	}
	return p.openKeys(&item.Value)
}

// RegenerateTopicKey replaces one access key, "key1" or "key2", and returns both.
// unread says why the request could not be read, nil when it could.
func (p *Plane) RegenerateTopicKey(ctx context.Context, caller access.Caller, id resource.ID, name string, unread error) ([2]string, error) {
	if err := p.authorize(ctx, caller, actionTopics+"regenerateKey/action", id); err != nil {
		return [2]string{}, err
	}
	if unread != nil {
		return [2]string{}, unread
	}
	which := -1
	switch strings.ToLower(name) {
	case "":
		return [2]string{}, fault.Field("keyName", "Say which key is to be replaced: send {\"keyName\":\"key1\"} or key2.")
	case "key1":
		which = 0
	case "key2":
		which = 1
	default:
		return [2]string{}, fault.Field("keyName", "The key name '%s' is not valid: use key1 or key2.", name)
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	old, err := p.topic(id)
	if err != nil {
		return [2]string{}, err
	}
	v := old.Value
	if v.SealedKeys[which], err = p.newTopicKey(&v); err != nil {
		return [2]string{}, err
	}
	v.Modified = stamp(caller)
	if _, err := p.Store.Topics.Update(ctx, id.Key(), v, old.Revision); err != nil {
		return [2]string{}, err
	}
	p.changed(ctx, caller, "regenerate "+strings.ToLower(name), v.ID)
	return p.openKeys(&v)
}

// newTopicKey makes an access key of 32 random bytes in base64 and seals it.
// Source: spec/management.md section 5.3.
func (p *Plane) newTopicKey(t *resource.Topic) (string, error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
	sealed, err := p.Sealer.Seal([]byte(base64.StdEncoding.EncodeToString(raw[:])), t.KeyOwner())
	if err != nil {
		return "", fmt.Errorf("seal a key of topic %s: %w", t.ID, err)
	}
	return sealed, nil
}

func (p *Plane) openKeys(t *resource.Topic) (keys [2]string, err error) {
	for i, sealed := range t.SealedKeys {
		plain, err := p.Sealer.Open(sealed, t.KeyOwner())
		if err != nil {
			return [2]string{}, fmt.Errorf("open a key of topic %s: %w", t.ID, err)
		}
		keys[i] = string(plain)
	}
	return keys, nil
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
