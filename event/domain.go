package event

import (
	"bytes"
	"strings"
)

// Length of the name of a domain topic, which has letters and digits of ASCII and
// hyphens. Source: spec/management.md section 6.
const (
	MinDomainTopic = 3
	MaxDomainTopic = 128
)

// domainTopics stands between the id of a domain and the name of one of its topics.
const domainTopics = "/topics/"

// readDomainTopic takes the topic of the domain from the property that names it: the
// name alone, or the whole id. Source: spec/events.md section 8.7.
func (d *decoder) readDomainTopic(property string, m *member) {
	named := m.value
	if m.kind == String {
		named = m.text()
	}
	if prefix := len(d.Topic) + len(domainTopics); len(named) > prefix && strings.EqualFold(string(named[:prefix]), d.Topic+domainTopics) {
		named = named[prefix:]
	}
	switch {
	case len(bytes.TrimSpace(named)) == 0:
		d.property(property, "is required and is missing or blank: it names the topic of the domain that the event is for, like 'tenant-a'.")
	case !isDomainTopic(named):
		d.property(property, "is '%s', which cannot be a topic of the domain '%s': its topics have names of %d to %d letters, digits or '-', like 'tenant-a'.",
			shorten(named), d.Topic, MinDomainTopic, MaxDomainTopic)
	default:
		d.source = append(append(d.source[:0], d.topic[:len(d.topic)-1]...), domainTopics...)
		d.source = append(append(d.source, named...), '"')
	}
}

func isDomainTopic(name []byte) bool {
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return len(name) >= MinDomainTopic && len(name) <= MaxDomainTopic
}

// noteDomainTopic tells the event that was just stored which topic of the domain it is for:
// its source is that name, or an id that ends in it.
func (d *decoder) noteDomainTopic(e *Event) {
	if d.Domain {
		e.DomainTopic = e.Source[bytes.LastIndexByte(e.Source, '/')+1:]
	}
}
