package manage

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// AttributeChange is a delivery attribute as a request gives it.
type AttributeChange struct {
	Name, Type  string
	Value       *string // of a static one; nil keeps the value of a secret one of the same name
	IsSecret    bool
	SourceField string // of a dynamic one
}

// Attribute is a delivery attribute with its value at hand, secret or not.
type Attribute struct {
	Name, Type  string
	Value       string // of a static one
	IsSecret    bool
	SourceField string // of a dynamic one
}

// keptSecrets returns the delivery attributes whose secret a request may leave out:
// those that are there, as long as they go to the same host. Who may change the
// endpoint does not see them that way.
func keptSecrets(d resource.Destination, oldURL, newURL string) []resource.DeliveryAttribute {
	if d.WebHook == nil || !sameHost(oldURL, newURL) {
		return nil
	}
	return secretAttributes(&d.WebHook.Packing)
}

func secretAttributes(p *resource.Packing) []resource.DeliveryAttribute {
	return slices.DeleteFunc(slices.Clone(p.DeliveryAttributes), func(a resource.DeliveryAttribute) bool { return !a.Secret() })
}

// sameHost reports whether two URLs lead to the same scheme, host and port.
func sameHost(oldURL, newURL string) bool {
	before, errBefore := url.Parse(oldURL)
	after, errAfter := url.Parse(newURL)
	return errBefore == nil && errAfter == nil && before.Scheme == after.Scheme && strings.EqualFold(before.Host, after.Host)
}

// newAttribute is a delivery attribute as it will be stored, and the secret that is
// to be sealed into it, if any.
type newAttribute struct {
	resource.DeliveryAttribute
	secret string
}

// attributes checks the delivery attributes of a request. kept are those whose secret
// it may leave out.
func (v *checker) attributes(changes []AttributeChange, kept []resource.DeliveryAttribute) []newAttribute {
	const field = "destination.properties.deliveryAttributeMappings"
	if len(changes) > resource.MaxDeliveryAttributes {
		v.field(field, "An event subscription can have %d delivery attributes, this one has %d.", resource.MaxDeliveryAttributes, len(changes))
		return nil
	}
	var out []newAttribute
	for i, c := range changes {
		at := fmt.Sprintf("%s[%d]", field, i)
		v.add(resource.CheckAttributeName(v.target+at+".name", c.Name))
		if same := func(a newAttribute) bool { return strings.EqualFold(a.Name, c.Name) }; c.Name != "" && slices.ContainsFunc(out, same) {
			v.field(at+".name", "There is more than one delivery attribute named '%s': names of headers are the same in any case. Give each once.", c.Name)
		}
		a := newAttribute{DeliveryAttribute: resource.DeliveryAttribute{Name: c.Name}}
		kind, known := oneOf(c.Type, resource.AttributeStatic, resource.AttributeDynamic)
		switch {
		case !known:
			v.field(at+".type", "The type '%.40s' of a delivery attribute is not known: use Static with a value, or Dynamic with a sourceField.", c.Type)
		case kind == resource.AttributeDynamic:
			a.Type, a.SourceField = kind, c.SourceField
			v.sourceField(at+".properties.sourceField", c.SourceField)
		default:
			a.Type = kind
			v.attributeValue(at+".properties.value", c, &a, kept)
		}
		out = append(out, a)
	}
	return out
}

// attributeValue fills in the value of a static attribute. Its messages do not show
// it, for it may be a secret.
func (v *checker) attributeValue(field string, c AttributeChange, a *newAttribute, kept []resource.DeliveryAttribute) {
	if c.Value == nil && c.IsSecret {
		if i := slices.IndexFunc(kept, func(k resource.DeliveryAttribute) bool { return strings.EqualFold(k.Name, c.Name) }); i >= 0 {
			a.SealedValue = kept[i].SealedValue
			return
		}
	}
	switch {
	case c.Value == nil || *c.Value == "":
		v.field(field, "A Static delivery attribute needs a value; that of a secret one can be left out while one of that name is there and the host of the endpoint stays.")
	case len(*c.Value) > resource.MaxDeliveryAttributeValue:
		v.field(field, "The value of delivery attribute '%s' has %d bytes; at most %d are allowed.", c.Name, len(*c.Value), resource.MaxDeliveryAttributeValue)
	case !resource.HeaderValue(*c.Value):
		v.field(field, "The value of delivery attribute '%s' cannot stand in a header: use printable ASCII characters, without a blank at either end.", c.Name)
	case c.IsSecret:
		a.secret = *c.Value
	default:
		a.Value = *c.Value
	}
}

func (v *checker) sourceField(field, path string) {
	switch {
	case path == "":
		v.field(field, "A Dynamic delivery attribute needs a sourceField: an attribute of the event such as subject, or a path into its data such as data.key1.")
	case len(path) > resource.MaxDeliveryAttributeValue:
		v.field(field, "The sourceField has %d bytes; at most %d are allowed.", len(path), resource.MaxDeliveryAttributeValue)
	case slices.Contains(strings.Split(path, "."), ""):
		v.field(field, "The sourceField '%s' has an empty step: write a path such as data.key1.key2.", path)
	}
}

// sealAttributes returns what is stored of checked delivery attributes.
func (p *Plane) sealAttributes(es *resource.EventSubscription, attributes []newAttribute) ([]resource.DeliveryAttribute, error) {
	var out []resource.DeliveryAttribute
	for _, a := range attributes {
		if a.secret != "" {
			sealed, err := p.Sealer.Seal([]byte(a.secret), es.AttributeOwner(a.Name))
			if err != nil {
				return nil, fmt.Errorf("seal delivery attribute %s of %s: %w", a.Name, es.ID(), err)
			}
			a.SealedValue = sealed
		}
		out = append(out, a.DeliveryAttribute)
	}
	return out, nil
}

// openAttributes returns the delivery attributes of a destination with their values.
func (p *Plane) openAttributes(es *resource.EventSubscription, d resource.Destination) ([]Attribute, error) {
	var out []Attribute
	for _, a := range d.Packing().DeliveryAttributes {
		value, err := OpenAttribute(p.Sealer, es, &a)
		if err != nil {
			return nil, err
		}
		out = append(out, Attribute{Name: a.Name, Type: a.Type, Value: value, IsSecret: a.Secret(), SourceField: a.SourceField})
	}
	return out, nil
}

// Opener opens sealed texts. *secret.Sealer satisfies it.
type Opener interface {
	Open(sealed, associated string) ([]byte, error)
}

// OpenAttribute returns the value of a static delivery attribute, also of a secret
// one.
func OpenAttribute(o Opener, es *resource.EventSubscription, a *resource.DeliveryAttribute) (string, error) {
	if !a.Secret() {
		return a.Value, nil
	}
	plain, err := o.Open(a.SealedValue, es.AttributeOwner(a.Name))
	if err != nil {
		return "", fmt.Errorf("open delivery attribute %s of %s: %w", a.Name, es.ID(), err)
	}
	return string(plain), nil
}

// DeliveryAttributes returns the delivery attributes of an event subscription, with
// the values of secret ones.
func (p *Plane) DeliveryAttributes(ctx context.Context, caller access.Caller, id resource.ID) ([]Attribute, error) {
	if err := p.authorize(ctx, caller, action(id, "getDeliveryAttributes/action"), id); err != nil {
		return nil, err
	}
	_, item, err := p.find(id)
	if err != nil {
		return nil, err
	}
	d := item.Value.Wanted().Destination
	if kind := resource.KindOf(d.Type); kind != nil && kind.Attributes == "" {
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The destination type %s has no delivery attributes.", d.Type)
	}
	if err := p.secretRead(ctx, caller, id, "delivery attributes"); err != nil {
		return nil, err
	}
	return p.openAttributes(&item.Value, d)
}
