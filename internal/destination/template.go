package destination

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// eventTemplate is a text with places for what an event says of itself.
type eventTemplate []piece

// piece is a part of a template: a text, or a place whose name is the text.
type piece struct {
	text  string
	place int // in places, -1 for a text
}

// places are what a template may take from an event, by their names, which are those of a
// CloudEvent. gridPlaces are the names that the members of an Event Grid event have.
var (
	places     = [...]string{"type", "subject", "source", "id"}
	gridPlaces = [len(places)]string{"eventType", "subject", "topic", "id"}
)

// parseTemplate reads a template: {type}, {subject}, {source} and {id} are places.
func parseTemplate(text string) (t eventTemplate, err error) {
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "{")
		if before != "" {
			t = append(t, piece{before, -1})
		}
		if !found {
			return t, nil
		}
		name, more, closed := strings.Cut(after, "}")
		place := slices.Index(places[:], name)
		if !closed || place < 0 {
			return nil, fmt.Errorf("{%.40s is none of {%s}", name, strings.Join(places[:], "}, {"))
		}
		t, rest = append(t, piece{name, place}), more
	}
}

// fill is the text with value of each place's name in it.
func (t eventTemplate) fill(value func(name string) string) string {
	var b strings.Builder
	for _, p := range t {
		if p.place >= 0 {
			p.text = value(p.text)
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// any is the text with the name of each place in it.
func (t eventTemplate) any() string { return t.fill(func(name string) string { return name }) }

// of returns the text for an event as it is delivered. clean, unless nil, is asked what
// becomes of what the event says.
func (t eventTemplate) of(body []byte, schema event.Schema, clean func(string) string) (string, error) {
	text, err := t.appendTo(nil, body, schema, clean)
	return string(text), err
}

// appendTo appends what of returns to dst.
func (t eventTemplate) appendTo(dst, body []byte, schema event.Schema, clean func(string) string) ([]byte, error) {
	says, err := t.read(body, schema)
	if err != nil {
		return dst, fmt.Errorf("the event has no type or subject to fill in: %w", err)
	}
	for _, p := range t {
		switch {
		case p.place < 0:
			dst = append(dst, p.text...)
		case clean != nil:
			dst = append(dst, clean(string(says[p.place]))...)
		default:
			dst = append(dst, says[p.place]...)
		}
	}
	return dst, nil
}

// read returns what an event says for the places of the template. It reads no more of the
// event than it has to: stored events have their attributes first.
func (t eventTemplate) read(body []byte, schema event.Schema) (says [len(places)][]byte, err error) {
	names := &gridPlaces
	if schema == event.CloudEventSchemaV1_0 {
		names = &places
	}
	var wanted [len(places)]bool
	left := 0
	for _, p := range t {
		if p.place >= 0 && !wanted[p.place] {
			wanted[p.place] = true
			left++
		}
	}
	if left > 0 && event.KindOf(body) != event.Object {
		return says, errors.New("it is no JSON object")
	}
	for c := event.Walk(body); left > 0; {
		if !c.Next() {
			return says, c.Err()
		}
		for place, name := range names {
			if !wanted[place] || string(c.Key) != name {
				continue
			}
			if c.Kind != event.String {
				return says, fmt.Errorf("property '%s' is %s, not String", name, c.Kind)
			}
			says[place] = c.Value[1 : len(c.Value)-1]
			if c.ValueEscaped {
				says[place] = event.AppendUnquoted(nil, says[place])
			}
			wanted[place] = false
			left--
			break
		}
	}
	return says, nil
}
