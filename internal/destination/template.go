package destination

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// eventTemplate is a text with places for what an event says of itself: texts and names
// of places in turn, a text first.
type eventTemplate []string

// places are what a template may take from an event.
var places = []string{"type", "subject", "source", "id"}

// parseTemplate reads a template: {type}, {subject}, {source} and {id} are places.
func parseTemplate(text string) (t eventTemplate, err error) {
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "{")
		t = append(t, before)
		if !found {
			return t, nil
		}
		name, more, closed := strings.Cut(after, "}")
		if !closed || !slices.Contains(places, name) {
			return nil, fmt.Errorf("{%.40s is none of {%s}", name, strings.Join(places, "}, {"))
		}
		t, rest = append(t, name), more
	}
}

func (t eventTemplate) fill(value func(name string) string) string {
	var b strings.Builder
	for i, text := range t {
		if i%2 == 1 {
			text = value(text)
		}
		b.WriteString(text)
	}
	return b.String()
}

// any is the text with the name of each place in it.
func (t eventTemplate) any() string { return t.fill(func(name string) string { return name }) }

// of returns the text for an event as it is delivered. clean, unless nil, is asked what
// becomes of what the event says.
func (t eventTemplate) of(body []byte, schema event.Schema, clean func(string) string) (string, error) {
	if len(t) == 1 {
		return t[0], nil
	}
	var e event.Event
	if err := e.Parse(body, schema); err != nil {
		return "", fmt.Errorf("the event has no type or subject to fill in: %w", err)
	}
	return t.fill(func(name string) string {
		var text string
		switch name {
		case "type":
			text = string(e.Type)
		case "subject":
			text = string(e.Subject)
		case "id":
			text = string(e.ID)
		default:
			text = string(e.Source)
		}
		if clean != nil {
			text = clean(text)
		}
		return text
	}), nil
}
