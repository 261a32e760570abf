package resource

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// Kind describes destinations of one endpointType other than webhooks: what an event
// subscription says of one, and in which form it takes events. What a request says is
// checked by it, help is written from it, and package destination has a sender for
// each.
type Kind struct {
	Name    string // the endpointType, as it is spelled
	Azure   bool   // Event Grid has it: members that it does not know are passed over, as there
	Summary string // one line for people
	Needs   string // for people: what else has to be there, "" for nothing
	Form    Form
	// Together is the most events of one attempt: of FormArray in one message, of
	// FormMessages each in its own. 1 where there is no other way.
	Together int
	Fields   []Field
	// Batching says that event subscriptions choose the size of batches, as those of webhooks do.
	Batching bool
	// Attributes says what delivery attributes become; "" = it takes none.
	Attributes string
	// Named are delivery attributes that become something else, each of its own.
	Named []NamedAttribute
	// Linked are the actions of which whoever aims an event subscription at a resource
	// needs one. Source: spec/access.md section 10.
	Linked []Link
}

// NamedAttribute is a delivery attribute whose name means something to a kind of
// destination. Source: spec/delivery.md section 6.
type NamedAttribute struct {
	Name    string
	Becomes string // for people
	Dynamic bool   // it has to be a field of the event
	Without string // another one that cannot be there beside it
}

// NamedAttribute returns the named delivery attribute of that name in any case, nil when
// there is none.
func (k *Kind) NamedAttribute(name string) *NamedAttribute {
	i := slices.IndexFunc(k.Named, func(a NamedAttribute) bool { return strings.EqualFold(a.Name, name) })
	if i < 0 {
		return nil
	}
	return &k.Named[i]
}

// Link is an action that is needed on a resource.
type Link struct {
	Action string
	Below  func(Values) ID // the resource; nil = that of the field resourceId
}

// At returns the resource that the action is needed on.
func (l Link) At(v Values) ID {
	if l.Below != nil {
		return l.Below(v)
	}
	return v.ID("resourceId")
}

// Form is the form in which events are handed over.
type Form uint8

// The forms.
const (
	// FormRequest is that of webhooks: an array, or a CloudEvent as an object unless batched.
	FormRequest Form = iota
	// FormArray is always an array.
	FormArray
	// FormMessages hands events over one by one, as objects, several of them in one attempt.
	FormMessages
	// FormPull hands nothing over: receivers ask for CloudEvents, one by one in their answer.
	FormPull
)

// Field is something that an event subscription says of its destination.
type Field struct {
	Name     string // the member below destination.properties
	Type     FieldType
	Required bool
	Default  string // of what is left out, "" for none; shown, not stored
	Choices  []string
	Min, Max int64  // of FieldInteger; of FieldText the longest in bytes is Max, 0 = MaxFieldText
	Resource string // of FieldResourceID: its type
	URL      bool   // the text is an http or https address
	// Address says that the destination's secrets go where the field says. With another
	// value secrets have to be given anew.
	Address bool
	Help    string // a sentence without a full stop
	Example string // as on a command line
}

// FieldType is what values of a field are.
type FieldType uint8

// The types of fields.
const (
	FieldText FieldType = iota
	FieldSecret
	FieldInteger
	FieldBoolean
	FieldChoice
	FieldResourceID
	FieldMap        // names to texts
	FieldExpression // of the Common Expression Language: JSON made of an event
)

// String names the type for people.
func (t FieldType) String() string {
	return [...]string{"text", "secret", "integer", "boolean", "choice", "resource id", "object", "expression"}[t]
}

// MaxFieldText bounds texts that say no other bound, in bytes.
const MaxFieldText = 8 << 10

// Target is a destination other than a webhook. Its Kind says what its values mean.
type Target struct {
	Values Values            `json:"values,omitempty"` // of the fields that are no secrets
	Sealed map[string]string `json:"sealed,omitempty"` // secrets by field, each sealed with FieldOwner as associated data
	Packing
}

// Values are the values of fields by name, as checked JSON.
type Values map[string]json.RawMessage

// Text returns the text of a field, "" when there is none.
func (v Values) Text(name string) (s string) {
	_ = json.Unmarshal(v[name], &s) // checked
	return s
}

// Int returns the number of a field, otherwise when there is none.
func (v Values) Int(name string, otherwise int64) int64 {
	if v[name] != nil {
		_ = json.Unmarshal(v[name], &otherwise) // checked
	}
	return otherwise
}

// Bool reports whether a field is true.
func (v Values) Bool(name string) (b bool) {
	_ = json.Unmarshal(v[name], &b) // checked
	return b
}

// Map returns the texts of a field by name.
func (v Values) Map(name string) (m map[string]string) {
	_ = json.Unmarshal(v[name], &m) // checked
	return m
}

// ID returns the resource id of a field, the zero ID when there is none.
func (v Values) ID(name string) ID {
	id, _ := ParseID(v.Text(name)) // checked
	return id
}

// FieldOwner is the associated data that the secret of a destination's field is sealed
// with.
func (es *EventSubscription) FieldOwner(name string) string {
	return es.UID.String() + "/destination/" + name
}

// KindOf returns the kind of an endpointType, in any case, nil when there is none.
func KindOf(name string) *Kind {
	i := slices.IndexFunc(kinds, func(k *Kind) bool { return strings.EqualFold(k.Name, name) })
	if i < 0 {
		return nil
	}
	return kinds[i]
}

// Kinds returns every kind, in the order of the documentation.
func Kinds() []*Kind { return slices.Clone(kinds) }

// EndpointTypes are the names of all destinations, webhooks first.
func EndpointTypes() []string {
	names := []string{DestinationWebHook}
	for _, k := range kinds {
		names = append(names, k.Name)
	}
	return names
}

// Field returns a field by its name in any case, nil when there is none.
func (k *Kind) Field(name string) *Field {
	i := slices.IndexFunc(k.Fields, func(f Field) bool { return strings.EqualFold(f.Name, name) })
	if i < 0 {
		return nil
	}
	return &k.Fields[i]
}

// packing are the members that every destination may have besides its fields.
var packing = []string{"maxEventsPerBatch", "preferredBatchSizeInKilobytes", "deliveryAttributeMappings"}

// Check reads what a request says of a destination: values and secrets, in the
// spelling of the fields, and every problem, in their order, each below target.
// Secrets that are required may be missing: whether one is there already is for the
// caller to see.
func (k *Kind) Check(target string, members map[string]json.RawMessage) (values Values, secrets map[string]string, problems []*fault.Error) {
	values, secrets = Values{}, map[string]string{}
	note := func(name, format string, args ...any) {
		problems = append(problems, fault.Field(target+"."+name, format, args...))
	}
	given := map[string]json.RawMessage{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		f := k.Field(name)
		switch {
		case string(members[name]) == "null":
		case f != nil:
			given[f.Name] = members[name]
		case k.Azure || slices.ContainsFunc(packing, func(p string) bool { return strings.EqualFold(p, name) }):
		default:
			note(fmt.Sprintf("%.60s", name), "A destination of type %s has no %.60s: use %s.", k.Name, name, strings.Join(k.fieldNames(), ", "))
		}
	}
	for i := range k.Fields {
		f := &k.Fields[i]
		raw, there := given[f.Name]
		if !there {
			if f.Required && f.Type != FieldSecret {
				note(f.Name, "A destination of type %s needs %s: %s, for example %s.", k.Name, f.Name, f.Help, f.Example)
			}
			continue
		}
		checked, problem := f.check(raw)
		switch {
		case problem != "":
			note(f.Name, "%s", problem)
		case f.Type == FieldSecret:
			var text string
			_ = json.Unmarshal(checked, &text) // it is a string
			secrets[f.Name] = text
		case string(checked) != `""`: // an empty text says nothing
			values[f.Name] = checked
		}
	}
	return values, secrets, problems
}

func (k *Kind) fieldNames() []string {
	var names []string
	for _, f := range k.Fields {
		names = append(names, f.Name)
	}
	return names
}

// check returns a value in its stored form, or what is wrong with it. What it says of
// a secret does not show it.
func (f *Field) check(raw json.RawMessage) (json.RawMessage, string) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return nil, fmt.Sprintf("The value of %s is not JSON.", f.Name)
	}
	shown := string(raw)
	if f.Type == FieldSecret {
		shown = "that was given"
	}
	bad := func(want string) (json.RawMessage, string) {
		return nil, fmt.Sprintf("The value %.300s of %s is not %s, for example %s.", shown, f.Name, want, f.Example)
	}
	switch f.Type {
	case FieldInteger:
		n, ok := value.(float64)
		if !ok || n != math.Trunc(n) || int64(n) < f.Min || int64(n) > f.Max {
			return bad(fmt.Sprintf("a whole number from %d to %d", f.Min, f.Max))
		}
		value = int64(n)
	case FieldBoolean:
		if _, ok := value.(bool); !ok {
			return bad("true or false")
		}
	case FieldMap:
		m, ok := value.(map[string]any)
		if !ok {
			return bad("an object whose values are texts")
		}
		for name, v := range m {
			if _, ok := v.(string); !ok || name == "" {
				return bad("an object whose values are texts")
			}
		}
	default:
		text, ok := value.(string)
		if !ok {
			return bad("a text")
		}
		return f.checkText(text, bad)
	}
	if f.Max != 0 && f.Type == FieldMap && int64(len(raw)) > f.Max || len(raw) > 4*MaxFieldText {
		return nil, fmt.Sprintf("The value of %s is too long: %d bytes.", f.Name, len(raw))
	}
	stored, err := json.Marshal(value)
	if err != nil {
		return bad("valid")
	}
	return stored, ""
}

func (f *Field) checkText(text string, bad func(string) (json.RawMessage, string)) (json.RawMessage, string) {
	most := int(f.Max)
	if most == 0 {
		most = MaxFieldText
	}
	switch {
	case len(text) > most:
		return nil, fmt.Sprintf("The value of %s has %d bytes; at most %d are allowed.", f.Name, len(text), most)
	case f.Required && text == "":
		return bad("a text that says something")
	case f.Type == FieldChoice && text != "":
		i := slices.IndexFunc(f.Choices, func(c string) bool { return strings.EqualFold(c, text) })
		if i < 0 {
			return bad("one of " + strings.Join(f.Choices, ", "))
		}
		text = f.Choices[i]
	case f.Type == FieldResourceID && text != "":
		id, err := ParseID(text)
		if err != nil || !id.IsType(f.Resource) {
			return bad("the full id of a " + f.Resource)
		}
	}
	stored, err := json.Marshal(text)
	if err != nil {
		return bad("a text")
	}
	return stored, ""
}
