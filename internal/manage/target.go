package manage

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Targets knows the destinations that are no webhooks. Package destination satisfies it.
type Targets interface {
	// Check tells why a destination can never be used as it is described, nil when it
	// may be. Nothing is asked of it. Targets of its faults are names of fields.
	Check(kind *resource.Kind, values resource.Values, secrets map[string]string) error
	// Probe asks the destination of an event subscription for what has to be there, as
	// far as it can be asked without an effect. The error is fit to be shown.
	Probe(ctx context.Context, es *resource.EventSubscription) error
}

// newTarget is a checked destination of a kind, and the secrets that are to be sealed
// into it.
type newTarget struct {
	kind    *resource.Kind
	values  resource.Values
	secrets map[string]string // in plain
	kept    map[string]string // sealed, of the one that is there
}

// destinationProperties is where the fields of a destination are in a request.
const destinationProperties = "destination.properties"

// newTarget checks what a request says of a destination of a kind. Secrets that it
// leaves out are those of present, as long as they go to the same address.
func (p *Plane) newTarget(v *checker, es *resource.EventSubscription, kind *resource.Kind, d *DestinationChange, present resource.Destination) newTarget {
	t := newTarget{kind: kind, kept: map[string]string{}}
	var problems []*fault.Error
	t.values, t.secrets, problems = kind.Check(v.target+destinationProperties, d.Members)
	for _, problem := range problems {
		v.add(problem)
	}
	same := present.Target != nil && present.Type == kind.Name && sameAddress(kind, present.Target.Values, t.values)
	plain := maps.Clone(t.secrets)
	for _, f := range kind.Fields {
		if f.Type != resource.FieldSecret {
			continue
		}
		if _, given := t.secrets[f.Name]; !given && same && present.Target.Sealed[f.Name] != "" {
			t.kept[f.Name] = present.Target.Sealed[f.Name]
			opened, err := p.Sealer.Open(t.kept[f.Name], es.FieldOwner(f.Name))
			if err != nil {
				v.field(destinationProperties+"."+f.Name, "The %s that is there cannot be opened: give it anew.", f.Name)
			}
			plain[f.Name] = string(opened)
		}
		if f.Required && plain[f.Name] == "" {
			v.field(destinationProperties+"."+f.Name, "A destination of type %s needs %s: %s.", kind.Name, f.Name, f.Help)
		}
	}
	switch {
	case len(problems) > 0 || p.Targets == nil:
	default:
		if err := p.Targets.Check(kind, t.values, plain); err != nil {
			v.add(fieldProblem(v.target+destinationProperties, err))
		}
	}
	if kind.Attributes == "" && len(d.Attributes) > 0 {
		v.field(destinationProperties+".deliveryAttributeMappings", "A destination of type %s takes no delivery attributes: leave deliveryAttributeMappings out.", kind.Name)
	}
	v.namedAttributes(kind, d.Attributes)
	if !kind.Batching && cmp.Or(d.MaxEventsPerBatch, d.PreferredBatchSizeInKilobytes) != nil {
		v.field(destinationProperties+".maxEventsPerBatch", "A destination of type %s puts events together by itself: leave maxEventsPerBatch and preferredBatchSizeInKilobytes out.", kind.Name)
	}
	return t
}

// namedAttributes checks the delivery attributes whose names mean something to a kind.
func (v *checker) namedAttributes(kind *resource.Kind, attributes []AttributeChange) {
	for i, a := range attributes {
		named := kind.NamedAttribute(a.Name)
		if named == nil {
			continue
		}
		at := fmt.Sprintf("%s.deliveryAttributeMappings[%d]", destinationProperties, i)
		if named.Dynamic && !strings.EqualFold(a.Type, resource.AttributeDynamic) {
			v.field(at+".type", "The delivery attribute %s is of one message alone and cannot be the same text for all: make it Dynamic, with a sourceField such as id.", named.Name)
		}
		if named.Without != "" && slices.ContainsFunc(attributes[:i], func(other AttributeChange) bool { return strings.EqualFold(other.Name, named.Without) }) {
			v.field(at+".name", "A message can have one of the delivery attributes %s and %s: leave one of them out.", named.Without, named.Name)
		}
	}
}

// fieldProblem puts where the fields are before the target of a fault.
func fieldProblem(prefix string, err error) *fault.Error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return fault.Field(prefix, "The destination cannot be used: %v.", err)
	}
	told := *f
	told.Target = prefix + "." + f.Target
	return &told
}

// sameAddress reports whether secrets go to the same place.
func sameAddress(kind *resource.Kind, a, b resource.Values) bool {
	return !slices.ContainsFunc(kind.Fields, func(f resource.Field) bool { return f.Address && !bytes.Equal(a[f.Name], b[f.Name]) })
}

// seal returns what is stored of a checked destination.
func (t newTarget) seal(p *Plane, es *resource.EventSubscription) (*resource.Target, error) {
	out := &resource.Target{Values: t.values, Sealed: t.kept}
	for name, text := range t.secrets {
		if text == "" {
			continue
		}
		sealed, err := p.Sealer.Seal([]byte(text), es.FieldOwner(name))
		if err != nil {
			return nil, fmt.Errorf("seal %s of %s: %w", name, es.ID(), err)
		}
		out.Sealed[name] = sealed
	}
	return out, nil
}

// sameTarget reports whether a destination is described as another one. A secret that
// was given anew counts as another one.
func sameTarget(a, b resource.Destination) bool {
	return a.Target != nil && b.Target != nil && a.Type == b.Type && maps.Equal(a.Target.Sealed, b.Target.Sealed) &&
		maps.EqualFunc(a.Target.Values, b.Target.Values, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) })
}

// probe asks a destination that is new or changed for what has to be there.
func (p *Plane) probe(ctx context.Context, es resource.EventSubscription, wanted *resource.Settings) error {
	if p.Targets == nil || es.Active && sameTarget(wanted.Destination, es.Destination) {
		return nil
	}
	es.Destination, es.DeliverySchema = wanted.Destination, wanted.DeliverySchema
	if err := p.Targets.Probe(ctx, &es); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fault.New(fault.Invalid, "InvalidDestination", "The destination of event subscription '%s' cannot be used: %v.", es.Name, err)
	}
	return nil
}

// OpenFields returns the secrets of a destination's fields.
func OpenFields(o Opener, es *resource.EventSubscription, t *resource.Target) (map[string]string, error) {
	secrets := map[string]string{}
	for name, sealed := range t.Sealed {
		plain, err := o.Open(sealed, es.FieldOwner(name))
		if err != nil {
			return nil, fmt.Errorf("open %s of %s: %w", name, es.ID(), err)
		}
		secrets[name] = string(plain)
	}
	return secrets, nil
}

// authorizeDestination is the second check of a change that names a resource as
// destination: nobody may aim events at what he may not write.
// Source: spec/access.md section 10.
func (p *Plane) authorizeDestination(caller access.Caller, id resource.ID, d *DestinationChange) error {
	if d == nil {
		return nil
	}
	kind := resource.KindOf(d.Type)
	if kind == nil || len(kind.Linked) == 0 {
		return nil
	}
	values, _, _ := kind.Check("", d.Members)
	named := values.ID("resourceId")
	if named.Type() == "" {
		return nil // said with the other problems
	}
	for _, l := range kind.Linked {
		if p.Access.Allowed(caller, l.Action, l.At(values)) {
			return nil
		}
	}
	last := kind.Linked[len(kind.Linked)-1]
	return p.Access.CheckLinked(caller, action(id, "write"), id, last.Action, last.At(values))
}
