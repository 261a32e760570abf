package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// attributeFlag is az's flag for delivery attributes. The returned function gives
// what the API takes, nil when the flag was not given.
// Source: spec/delivery.md section 6; learn.microsoft.com/cli/azure/eventgrid.
func attributeFlag(cmd *cobra.Command) func() ([]any, error) {
	given := wordsFlag(cmd, "delivery-attribute-mapping", "NAME TYPE VALUE [ISSECRET]",
		"A header of your own on each delivery: NAME static VALUE [true|false], or NAME dynamic SOURCEFIELD. May be repeated; alone it removes all.")
	_ = cmd.RegisterFlagCompletionFunc("delivery-attribute-mapping", completeAttribute)
	return func() ([]any, error) {
		if !given.given() {
			return nil, nil
		}
		mappings := []any{}
		for _, words := range given.groups {
			if len(words) == 0 && len(given.groups) == 1 {
				break
			}
			mapping, err := attributeMapping(cmd, words)
			if err != nil {
				return nil, err
			}
			mappings = append(mappings, mapping)
		}
		return mappings, nil
	}
}

// attributeMapping reads the words of one delivery attribute. Its messages do not
// repeat the value, for it may be a secret.
func attributeMapping(cmd *cobra.Command, words []string) (any, error) {
	const usage = "--delivery-attribute-mapping is NAME static VALUE [true|false], or NAME dynamic SOURCEFIELD"
	if len(words) < 3 {
		return nil, usagef(cmd, "%s; %d words are too few.", usage, len(words))
	}
	mapping := func(kind string, properties map[string]any) map[string]any {
		return map[string]any{"name": words[0], "type": kind, "properties": properties}
	}
	switch {
	case strings.EqualFold(words[1], "static") && len(words) == 3:
		return mapping("Static", map[string]any{"value": words[2], "isSecret": false}), nil
	case strings.EqualFold(words[1], "static") && len(words) == 4 && (strings.EqualFold(words[3], "true") || strings.EqualFold(words[3], "false")):
		return mapping("Static", map[string]any{"value": words[2], "isSecret": strings.EqualFold(words[3], "true")}), nil
	case strings.EqualFold(words[1], "static") && len(words) == 4:
		return nil, usagef(cmd, "%s; what follows the VALUE of %s is neither true nor false.", usage, words[0])
	case strings.EqualFold(words[1], "dynamic") && len(words) == 3:
		return mapping("Dynamic", map[string]any{"sourceField": words[2]}), nil
	case strings.EqualFold(words[1], "static") || strings.EqualFold(words[1], "dynamic"):
		return nil, usagef(cmd, "%s; %s has %d words. Put a value with blanks in quotes.", usage, words[0], len(words))
	}
	return nil, usagef(cmd, "%s; %q is neither static nor dynamic.", usage, words[1])
}

// completeAttribute offers types, then source fields or true and false.
func completeAttribute(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	words := strings.Split(typed, wordSeparator)
	last := words[len(words)-1]
	var offers []string
	switch {
	case len(words) == 2:
		offers = []string{"static", "dynamic"}
	case len(words) == 3 && strings.EqualFold(words[1], "dynamic"):
		offers = filterKeys()
	case len(words) == 4:
		offers = []string{"true", "false"}
	}
	var out []string
	for _, offer := range offers {
		if strings.HasPrefix(strings.ToLower(offer), strings.ToLower(last)) {
			out = append(out, offer)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// withAttributeSecrets puts the delivery attributes, with the values of secret ones,
// into an event subscription. Source: spec/management.md section 3.
func (s *remote) withAttributeSecrets(ctx context.Context, path string, resource json.RawMessage) (json.RawMessage, error) {
	answer, err := s.ask(ctx, http.MethodPost, path+"/getDeliveryAttributes", nil, nil)
	if err != nil {
		return nil, err
	}
	whole := decoded(resource, "")
	properties, _ := whole["properties"].(map[string]any)
	destination, _ := properties["destination"].(map[string]any)
	if to, ok := destination["properties"].(map[string]any); ok {
		to["deliveryAttributeMappings"] = member(answer, "value")
	}
	return encodeJSON(whole)
}
