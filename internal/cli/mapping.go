package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// mappedAttributes are the attributes that custom input can be mapped to, in the order
// of the documentation; defaults says which can have one.
// Source: spec/events.md section 3.
var mappedAttributes = []struct {
	name     string
	defaults bool
}{{"id", false}, {"topic", false}, {"eventTime", false}, {"eventType", true}, {"subject", true}, {"dataVersion", true}}

// mappingFlags are az's flags for the mapping of custom input. The returned function
// puts it into the properties of a topic.
func mappingFlags(cmd *cobra.Command) func(inputSchema string, properties map[string]any) error {
	const fieldsFlag, defaultsFlag = "input-mapping-fields", "input-mapping-default-values"
	fields := wordsFlag(cmd, fieldsFlag, "ATTRIBUTE=FIELD...", "With customeventschema: which members of a published object are id, eventTime, eventType, subject, dataVersion.")
	defaults := wordsFlag(cmd, defaultsFlag, "ATTRIBUTE=TEXT...", "With customeventschema: what eventType, subject, dataVersion are where an object has none.")
	_ = cmd.RegisterFlagCompletionFunc(fieldsFlag, completeMapping(false))
	_ = cmd.RegisterFlagCompletionFunc(defaultsFlag, completeMapping(true))
	return func(inputSchema string, properties map[string]any) error {
		if !fields.given() && !defaults.given() {
			return nil
		}
		if inputSchema != customInput {
			return usagef(cmd, "--%s and --%s go with --input-schema customeventschema, not %s.", fieldsFlag, defaultsFlag, inputSchema)
		}
		mapped := map[string]map[string]string{}
		for _, f := range []struct {
			flag, member string
			words        *words
			defaults     bool
		}{{fieldsFlag, "sourceField", fields, false}, {defaultsFlag, "defaultValue", defaults, true}} {
			for _, word := range f.words.all() {
				key, value, _ := strings.Cut(word, "=")
				name := mappedAttribute(key, f.defaults)
				if name == "" || value == "" {
					return usagef(cmd, "--%s %q is not ATTRIBUTE=VALUE with one of the attributes %s.", f.flag, word, strings.Join(attributeNames(f.defaults), ", "))
				}
				if mapped[name] == nil {
					mapped[name] = map[string]string{}
				}
				mapped[name][f.member] = value
			}
		}
		properties["inputSchemaMapping"] = map[string]any{"inputSchemaMappingType": "Json", "properties": mapped}
		return nil
	}
}

// attributeNames are the names that a flag takes.
func attributeNames(defaults bool) (names []string) {
	for _, a := range mappedAttributes {
		if a.defaults || !defaults {
			names = append(names, a.name)
		}
	}
	return names
}

// mappedAttribute gives an attribute its documented spelling, "" for none.
func mappedAttribute(word string, defaults bool) string {
	for _, name := range attributeNames(defaults) {
		if strings.EqualFold(name, word) {
			return name
		}
	}
	return ""
}

// completeMapping offers the attributes that stand before the '='.
func completeMapping(defaults bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		words := strings.Split(typed, wordSeparator)
		last := words[len(words)-1]
		offers := attributeNames(defaults)
		for i := range offers {
			offers[i] += "="
		}
		offers = slices.DeleteFunc(offers, func(offer string) bool {
			return len(offer) < len(last) || !strings.EqualFold(offer[:len(last)], last)
		})
		return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// mappingText writes a mapping as its two flags take it.
func mappingText(mapping map[string]any) string {
	attributes, _ := mapping["properties"].(map[string]any)
	text := func(member string) string {
		var parts []string
		for _, a := range mappedAttributes {
			attribute, _ := attributes[a.name].(map[string]any)
			if value := plain(attribute[member]); value != "" {
				parts = append(parts, a.name+"="+value)
			}
		}
		return strings.Join(parts, " ")
	}
	fields, defaults := text("sourceField"), text("defaultValue")
	switch {
	case defaults == "":
		return fields
	case fields == "":
		return "defaults " + defaults
	default:
		return fields + "; defaults " + defaults
	}
}
