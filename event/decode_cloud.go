package event

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
)

// The attributes of a CloudEvent that are not extensions, in the order of the
// stored form; extensions stand before data.
const (
	cloudSpecVersion = iota
	cloudType
	cloudSource
	cloudSubject
	cloudTime
	cloudID
	cloudContentType
	cloudDataSchema
	cloudData
	cloudDataBase64
	maxMembers
)

var cloudNames = [maxMembers]string{"specversion", "type", "source", "subject", "time", "id", "datacontenttype", "dataschema", "data", "data_base64"}

// cloudRequired is the order in which missing attributes are noticed.
var cloudRequired = [...]int{cloudID, cloudSource, cloudSpecVersion, cloudType}

// extension is an extension attribute as it was published.
type extension struct {
	name   []byte // decoded
	member member
}

// Media types of the CloudEvents JSON format.
const (
	MediaTypeCloudEvent  = "application/cloudevents+json"
	MediaTypeCloudEvents = "application/cloudevents-batch+json"
	mediaTypeJSON        = "application/json"
)

// DecodeCloudEvents decodes and validates a publish request of CloudEvents 1.0
// in structured, batch or binary mode; header holds the content type and, in
// binary mode, the attributes. Extension attributes keep their values and types,
// a binary event gets the structured form. The events own their memory: body can
// be used again.
//
// The four required attributes must be there, be strings and not be blank, and
// specversion must be 1.0. With o.Lenient only id and type must be there: a
// missing source becomes the topic and a missing specversion 1.0, numbers and
// booleans become text, data and data_base64 may stand together. An extension
// whose value is an object or array is refused unless lenient.
//
// A structured content type wins over binary headers, which may accompany it.
// The error is an *[InvalidError]. Source: spec/events.md sections 2.2 and 8.6;
// CloudEvents HTTP protocol binding 1.0.2, section 3.2.
func DecodeCloudEvents(body []byte, header http.Header, o DecodeOptions) ([]Event, error) {
	d := newDecoder(CloudEventSchemaV1_0, body, o)
	defer d.free()
	switch contentType := header.Get("Content-Type"); mediaType(contentType) {
	case MediaTypeCloudEvents:
		return d.request(true, false)
	case MediaTypeCloudEvent:
		return d.request(false, true)
	case mediaTypeJSON:
		if isBinary(header) {
			return d.binary(header)
		}
		return d.request(false, true)
	default:
		if err := d.checkSize(); err != nil {
			return nil, err
		}
		received := "no content type"
		if contentType != "" {
			received = "'" + shorten(contentType) + "'"
		}
		return nil, &InvalidError{Code: InvalidContentType, Index: -1, Message: "This topic takes schema CloudEventV10 with content type '" +
			MediaTypeCloudEvent + "' for one event or '" + MediaTypeCloudEvents + "' for a batch; received " + received + "."}
	}
}

// mediaType is a content type without parameters.
func mediaType(contentType string) string {
	contentType, _, _ = strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(contentType))
}

// readCloud collects the members of one event.
func (d *decoder) readCloud(c *Cursor) {
	clear(d.members[:])
	d.extensions = d.extensions[:0]
	for c.Next() {
		key := c.Key
		if c.KeyEscaped {
			key = AppendUnquoted(nil, key)
		}
		m := member{c.Value, c.Kind, c.ValueEscaped}
		switch k := cloudMember(key); {
		case c.Kind == Null && k != cloudData: // equals an absent attribute
		case k < 0:
			d.extensions = append(d.extensions, extension{key, m})
		case d.members[k].kind != None:
			d.property(cloudNames[k], "appears twice.")
		default:
			d.members[k] = m
		}
	}
}

func cloudMember(name []byte) int {
	for k := range cloudNames {
		if string(name) == cloudNames[k] {
			return k
		}
	}
	return -1
}

// storeCloud validates the collected members and appends the event.
func (d *decoder) storeCloud() {
	if d.checkCloud(); d.broken != nil {
		return
	}
	m := &d.members
	if m[cloudSpecVersion].kind == None {
		m[cloudSpecVersion] = member{value: []byte(`"1.0"`), kind: String}
	}
	if m[cloudSource].blank() { // lenient, and not to a domain
		m[cloudSource] = member{value: d.topic, kind: String, escaped: bytes.IndexByte(d.topic, '\\') >= 0}
	}

	start := len(d.block)
	e := Event{Schema: CloudEventSchemaV1_0}
	d.putText(`{"specversion":`, &m[cloudSpecVersion])
	e.Type = d.putText(`,"type":`, &m[cloudType])
	e.Source = d.putText(`,"source":`, &m[cloudSource])
	e.Subject = d.putOptional(`,"subject":`, &m[cloudSubject])
	e.Time = d.putOptional(`,"time":`, &m[cloudTime])
	d.noteDomainTopic(&e)
	e.ID = d.putText(`,"id":`, &m[cloudID])
	d.putOptional(`,"datacontenttype":`, &m[cloudContentType])
	e.DataVersion = bytes.TrimPrefix(d.putOptional(`,"dataschema":`, &m[cloudDataSchema]), []byte{'#'})
	for i := range d.extensions {
		x := &d.extensions[i]
		d.block = append(d.block, ',')
		d.block = AppendQuoted(d.block, x.name)
		d.put(":", &x.member)
	}
	if m[cloudData].kind != None {
		d.put(`,"data":`, &m[cloudData])
		e.Data = d.block[len(d.block)-len(m[cloudData].value):]
	}
	d.putOptional(`,"data_base64":`, &m[cloudDataBase64])
	d.block = append(d.block, '}')
	e.Raw = d.block[start:len(d.block):len(d.block)]
	d.events = append(d.events, e)
}

// putOptional is putText for a member that may be absent.
func (d *decoder) putOptional(name string, m *member) []byte {
	if m.kind == None {
		return nil
	}
	return d.putText(name, m)
}

// checkCloud reports the first rule that the collected members break.
func (d *decoder) checkCloud() {
	m := &d.members
	for k := range cloudNames {
		scalar := m[k].kind == Number || m[k].kind == True || m[k].kind == False
		if m[k].kind != None && m[k].kind != String && k != cloudData && (!d.Lenient || !scalar || k == cloudDataBase64) {
			d.property(cloudNames[k], "has the wrong type: expected JSON token String, received %s.", m[k].kind)
		}
	}
	if d.broken != nil {
		return
	}
	for _, k := range cloudRequired {
		if m[k].blank() && !(d.Lenient && (k == cloudSource || k == cloudSpecVersion)) {
			d.property(cloudNames[k], "is required and is missing or blank.")
			return
		}
	}
	if d.Domain {
		if d.readDomainTopic(cloudNames[cloudSource], &m[cloudSource]); d.broken != nil {
			return
		}
	}
	if version := &m[cloudSpecVersion]; !d.Lenient && string(version.text()) != "1.0" {
		d.property(cloudNames[cloudSpecVersion], "must be '1.0', received '%s'.", shorten(version.text()))
		return
	}
	if when := &m[cloudTime]; when.kind == String && !isTime(when.text()) || when.kind != String && when.kind != None {
		d.property(cloudNames[cloudTime], "is not a date-time: received %s, expected text like 2024-05-01T10:00:00Z.", shorten(when.value))
		return
	}
	if m[cloudDataBase64].kind != None && m[cloudData].kind == Null {
		m[cloudData] = member{}
	}
	if m[cloudDataBase64].kind != None && !d.Lenient {
		if m[cloudData].kind != None {
			d.property(cloudNames[cloudDataBase64], "cannot stand beside data: an event has one payload.")
			return
		}
		encoded := m[cloudDataBase64].text()
		if _, err := base64.StdEncoding.Strict().Decode(make([]byte, base64.StdEncoding.DecodedLen(len(encoded))), encoded); err != nil {
			d.property(cloudNames[cloudDataBase64], "is not base64 text: %v.", err)
			return
		}
	}
	d.checkExtensions()
}

func (d *decoder) checkExtensions() {
	const few = 16 // up to here comparing all pairs is the faster way
	var seen map[string]bool
	if len(d.extensions) > few {
		seen = make(map[string]bool, len(d.extensions))
	}
	for i := range d.extensions {
		x := &d.extensions[i]
		twice := seen[string(x.name)]
		if seen != nil {
			seen[string(x.name)] = true
		} else {
			for j := range i {
				twice = twice || bytes.Equal(d.extensions[j].name, x.name)
			}
		}
		switch {
		case len(x.name) == 0:
			d.property("", "has no name.")
		case twice:
			d.property(string(x.name), "appears twice.")
		case !d.Lenient && (x.member.kind == Object || x.member.kind == Array):
			d.property(string(x.name), "is an extension attribute of the wrong type: expected JSON token String, Number or Boolean, received %s. Put it inside data.", x.member.kind)
		}
	}
}
