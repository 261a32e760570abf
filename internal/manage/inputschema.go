package manage

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const (
	targetInputSchema = "properties.inputSchema"
	targetMapping     = "properties.inputSchemaMapping"
)

// maxMapped bounds names and defaults of a mapping, in characters. Event Grid
// documents no limit; this is that of values in filters.
const maxMapped = 512

// input returns the input schema that a request asks for and every problem of it and
// of its mapping. What must be there is asked for when the topic is to be made; a
// domain has to know the topic of each event.
func (t *TopicChange) input(create, domain bool) (event.Schema, []*fault.Error) {
	schema := event.EventGridSchema
	if t.InputSchema != "" {
		var err error
		if schema, err = event.ParseSchema(t.InputSchema); err != nil {
			return 0, []*fault.Error{fault.Field(targetInputSchema, "The input schema '%s' is not known: use EventGridSchema, CloudEventSchemaV1_0 or CustomEventSchema.", t.InputSchema)}
		}
	}
	// What is missing may be what could not be read.
	unread := slices.ContainsFunc(t.Problems, func(f *fault.Error) bool { return f != nil && strings.HasPrefix(f.Target, targetMapping) })
	switch {
	case t.Mapping != nil && schema != event.CustomEventSchema && (create || t.InputSchema != ""):
		return schema, []*fault.Error{fault.Field(targetMapping, "An inputSchemaMapping goes with the input schema CustomEventSchema, this one is %s. Leave the mapping out, or use that schema.", schema)}
	case t.Mapping != nil:
		return schema, mappingProblems(t.Mapping, !unread, domain)
	case create && schema == event.CustomEventSchema && !unread:
		return schema, []*fault.Error{fault.Field(targetMapping, "The input schema CustomEventSchema needs an inputSchemaMapping that gives eventType and subject each a sourceField, a defaultValue or both.")}
	}
	return schema, nil
}

// mappingProblems holds a mapping against the rules: only type, subject and data
// version have defaults, and without a type or a subject, which are missed if the
// mapping is whole, nothing could be published. Source: spec/events.md section 3.
func mappingProblems(m *event.Mapping, whole, domain bool) (problems []*fault.Error) {
	m.Attributes(func(name string, a *event.MappedAttribute) {
		target := targetMapping + ".properties." + name
		bad := func(field, format string, args ...any) {
			problems = append(problems, fault.Field(target+field, format, args...))
		}
		hasDefault, required := name == "eventType" || name == "subject" || name == "dataVersion", name == "eventType" || name == "subject"
		if n := utf8.RuneCountInString(a.SourceField); n > maxMapped {
			bad(".sourceField", "The sourceField of %s has %d characters; at most %d are allowed.", name, n, maxMapped)
		}
		switch n := utf8.RuneCountInString(a.DefaultValue); {
		case n > 0 && !hasDefault:
			bad(".defaultValue", "%s can have no defaultValue, only eventType, subject and dataVersion can. Leave it out: an event without %s gets one.", name, name)
		case n > maxMapped:
			bad(".defaultValue", "The defaultValue of %s has %d characters; at most %d are allowed.", name, n, maxMapped)
		case n > 0 && strings.TrimSpace(a.DefaultValue) == "":
			bad(".defaultValue", "The defaultValue of %s is blank. Give it a text, or leave it out.", name)
		case domain && name == "topic" && whole && a.SourceField == "":
			bad("", "Each event of a domain is for one of its topics: give topic a sourceField, the member that names it.")
		case n == 0 && required && whole && a.SourceField == "":
			bad("", "Every event has %s: give it a sourceField, a defaultValue or both.", name)
		}
	})
	return problems
}

// keepsInput returns what a change would have changed of an existing topic's input
// schema. The schema is fixed at creation, and so is its mapping: events that were
// logged before would have another form than those after.
// Source: spec/management.md section 5.2.
func (t *TopicChange) keepsInput(old *resource.Topic) error {
	var problems []*fault.Error
	if t.InputSchema != "" && !strings.EqualFold(t.InputSchema, old.InputSchema.String()) {
		problems = append(problems, fault.Field(targetInputSchema, "The input schema of %s '%s' is %s and cannot be changed to %s. Make another %[1]s, or delete this one first.",
			noun(old.ID), old.ID.Name(), old.InputSchema, t.InputSchema))
	}
	switch {
	case t.Mapping == nil || old.Mapping != nil && *t.Mapping == *old.Mapping:
	case old.Mapping == nil:
		problems = append(problems, fault.Field(targetMapping, "The %s '%s' has the input schema %s and takes no inputSchemaMapping. Leave it out, or make one of CustomEventSchema.", noun(old.ID), old.ID.Name(), old.InputSchema))
	default:
		problems = append(problems, fault.Field(targetMapping, "The inputSchemaMapping of %s '%s' cannot be changed. Send the one that it has, leave it out, or make another %[1]s.", noun(old.ID), old.ID.Name()))
	}
	return fault.Join(problems...)
}

// noun is what people call the resource of an id that publishers post to.
func noun(id resource.ID) string {
	if id.IsType(resource.TypeDomain) {
		return "domain"
	}
	return "topic"
}
