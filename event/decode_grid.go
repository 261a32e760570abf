package event

import (
	"bytes"
	"strings"
)

// The members of an Event Grid event, in the order of the stored form.
const (
	gridTopic = iota
	gridSubject
	gridType
	gridTime
	gridID
	gridDataVersion
	gridMetadataVersion
	gridData // last, so that Parse need not read it to find the others
	gridMembers
)

var gridNames = [gridMembers]string{"topic", "subject", "eventType", "eventTime", "id", "dataVersion", "metadataVersion", "data"}

// gridRequired is the order in which missing members are noticed.
// Source: spec/events.md section 1, "Rules worth coding".
var gridRequired = [...]int{gridSubject, gridID, gridType, gridTime}

// DecodeEventGrid decodes and validates the body of a publish request in the
// Event Grid schema: an array of events, or one event. Property names are taken
// in any case and stored in the canonical one; topic, dataVersion and
// metadataVersion are stamped; everything else keeps the published bytes. The
// events own their memory: body can be used again.
//
// The error is an *[InvalidError]. Source: spec/events.md sections 1 and 8.6.
func DecodeEventGrid(body []byte, o DecodeOptions) ([]Event, error) {
	d := newDecoder(EventGridSchema, body, o)
	defer d.free()
	return d.request(true, true)
}

// readGrid collects the members of one event.
func (d *decoder) readGrid(c *Cursor) {
	clear(d.members[:])
	for c.Next() {
		key := c.Key
		if c.KeyEscaped {
			key = AppendUnquoted(nil, key)
		}
		k := gridMember(key)
		switch {
		case k < 0:
			d.property(string(key), "is not known. The schema is closed to other properties than %s; put it inside data.", strings.Join(gridNames[:], ", "))
		case d.members[k].kind != None:
			d.property(gridNames[k], "appears twice.")
		case c.Kind != Null || k == gridData:
			d.members[k] = member{c.Value, c.Kind, c.ValueEscaped}
		}
	}
}

// gridMember returns the index of a member by its name in any case, or -1.
func gridMember(name []byte) int {
	for k := range gridNames {
		if string(name) == gridNames[k] {
			return k
		}
	}
	for k := range gridNames {
		if equalFoldASCII(name, gridNames[k]) {
			return k
		}
	}
	return -1
}

func equalFoldASCII(name []byte, canonical string) bool {
	if len(name) != len(canonical) {
		return false
	}
	for i, c := range name {
		if c != canonical[i] && (c|0x20 != canonical[i]|0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// storeGrid validates the collected members and appends the event.
func (d *decoder) storeGrid() {
	m := &d.members
	for k := range gridNames {
		coerced := k == gridID && (m[k].kind == Number || m[k].kind == True || m[k].kind == False)
		if m[k].kind != None && m[k].kind != String && k != gridData && !coerced {
			d.property(gridNames[k], "has the wrong type: expected JSON token String, received %s.", m[k].kind)
		}
	}
	if d.broken != nil {
		return
	}
	for _, k := range gridRequired {
		if m[k].blank() {
			d.property(gridNames[k], "is required and is missing or blank.")
			return
		}
	}
	if when := m[gridTime].text(); !isTime(when) {
		d.property(gridNames[gridTime], "is not a date-time: received '%s', expected text like 2024-05-01T10:00:00Z.", shorten(when))
		return
	}
	if version := &m[gridMetadataVersion]; version.kind == String && string(version.text()) != "1" {
		d.property(gridNames[gridMetadataVersion], "must be exactly '1', received '%s'. Leave it out: the service sets it.", shorten(version.text()))
		return
	}
	if topic := &m[gridTopic]; d.Domain {
		if d.readDomainTopic(gridNames[gridTopic], topic); d.broken != nil {
			return
		}
	} else if !topic.blank() && !d.isAddressed(topic.text()) {
		d.property(gridNames[gridTopic], "is '%s', but the request is addressed to topic '%s'. Leave it out: the service sets it.", shorten(topic.text()), d.Topic)
		d.broken.Code = Unauthorized
		return
	}

	start := len(d.block)
	e := Event{Schema: EventGridSchema}
	d.putSource(&e)
	e.Subject = d.put(`,"subject":`, &m[gridSubject])
	e.Type = d.put(`,"eventType":`, &m[gridType])
	e.Time = d.put(`,"eventTime":`, &m[gridTime])
	e.ID = d.putText(`,"id":`, &m[gridID])
	if m[gridDataVersion].kind == None {
		m[gridDataVersion] = noText
	}
	e.DataVersion = d.put(`,"dataVersion":`, &m[gridDataVersion])
	d.block = append(d.block, `,"metadataVersion":"1"`...)
	if m[gridData].kind != None {
		d.put(`,"data":`, &m[gridData])
		e.Data = d.block[len(d.block)-len(m[gridData].value):]
	}
	d.block = append(d.block, '}')
	e.Raw = d.block[start:len(d.block):len(d.block)]
	d.events = append(d.events, e)
}

var noText = member{value: []byte(`""`), kind: String}

// isAddressed reports whether topic is the one the request is addressed to; ARM
// ids are compared ignoring case.
func (d *decoder) isAddressed(topic []byte) bool {
	return string(topic) == d.Topic || strings.EqualFold(string(topic), d.Topic)
}

// putSource begins the stored form of an Event Grid event with its topic.
func (d *decoder) putSource(e *Event) {
	source := d.topic
	if d.Domain {
		source = d.source
	}
	e.Source = d.putText(`{"topic":`, &member{value: source, kind: String, escaped: bytes.IndexByte(source, '\\') >= 0})
	d.noteDomainTopic(e)
}

func isTime(text []byte) bool {
	_, ok := ParseTime(text)
	return ok
}
