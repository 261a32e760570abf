package arm

import (
	"maps"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// mappingBody is the mapping of a topic of custom input on the wire. What is not
// mapped is shown as null, as Azure does.
// Source: spec/events.md section 3, spec/management.md section 5.2.
type mappingBody struct {
	Type       string            `json:"inputSchemaMappingType"`
	Properties mappingProperties `json:"properties"`
}

type mappingProperties struct {
	ID          fieldBody        `json:"id"`
	Topic       fieldBody        `json:"topic"`
	Time        fieldBody        `json:"eventTime"`
	Type        defaultFieldBody `json:"eventType"`
	Subject     defaultFieldBody `json:"subject"`
	DataVersion defaultFieldBody `json:"dataVersion"`
}

type fieldBody struct {
	SourceField *string `json:"sourceField"`
}

type defaultFieldBody struct {
	SourceField  *string `json:"sourceField"`
	DefaultValue *string `json:"defaultValue"`
}

// mappingBodyOf returns the mapping's form on the wire, null for none.
func mappingBodyOf(m *event.Mapping) any {
	if m == nil {
		return nil
	}
	field := func(a event.MappedAttribute) fieldBody { return fieldBody{orNull(a.SourceField)} }
	withDefault := func(a event.MappedAttribute) defaultFieldBody {
		return defaultFieldBody{orNull(a.SourceField), orNull(a.DefaultValue)}
	}
	return mappingBody{Type: "Json", Properties: mappingProperties{
		ID: field(m.ID), Topic: field(m.Topic), Time: field(m.Time),
		Type: withDefault(m.Type), Subject: withDefault(m.Subject), DataVersion: withDefault(m.DataVersion),
	}}
}

// mappingOf reads the mapping of a topic's properties, nil when it is absent or empty.
func mappingOf(p fields) *event.Mapping {
	raw, given := p.member("inputSchemaMapping")
	if !given || emptyObject(raw) {
		return nil
	}
	f, ok := p.object("inputSchemaMapping")
	if !ok {
		return nil
	}
	if kind := f.str("inputSchemaMappingType"); kind != "" && !strings.EqualFold(kind, "Json") {
		f.refuse("inputSchemaMappingType", "The inputSchemaMappingType '%.40s' is not known: use Json.", kind)
	}
	m, names := new(event.Mapping), []string{}
	attributes := f.sub("properties")
	m.Attributes(func(name string, a *event.MappedAttribute) {
		from := attributes.sub(name)
		a.SourceField, a.DefaultValue = from.str("sourceField"), from.str("defaultValue")
		names = append(names, name)
	})
	for _, name := range slices.Sorted(maps.Keys(attributes.members)) {
		if _, known := canonical(name, names...); !known {
			attributes.refuse(name, "'%.40s' is not an attribute that can be mapped: use %s.", name, strings.Join(names, ", "))
		}
	}
	return m
}
