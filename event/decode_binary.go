package event

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

const binaryPrefix = "Ce-" // canonical form of the header prefix ce-

// isBinary reports whether a request carries attributes in headers.
func isBinary(header http.Header) bool {
	for name := range header {
		if strings.HasPrefix(name, binaryPrefix) {
			return true
		}
	}
	return false
}

// binaryRequired is the order in which missing headers are noticed.
var binaryRequired = [...]int{cloudSpecVersion, cloudID, cloudSource, cloudType}

// binary decodes one event whose attributes are headers and whose data is the
// body, which is JSON: the live service takes no other content type in this mode.
// Source: spec/events.md section 2.2, "Binary header rules".
func (d *decoder) binary(header http.Header) ([]Event, error) {
	if err := d.checkSize(); err != nil {
		return nil, err
	}
	if err := d.readHeaders(header); err != nil {
		return nil, err
	}
	data := d.body[skipSpace(d.body, 0):]
	if len(data) == 0 {
		return nil, d.invalid(-1, "The body is empty: in binary mode it is the JSON data of an event of schema %s.", d.schema.InputName())
	}
	end, syntax := scanValue(data, 0, 1)
	if syntax == nil {
		if after := skipSpace(data, end); after < len(data) {
			syntax = unexpected(data, after, "the end of the text")
		}
	}
	if syntax != nil {
		return nil, d.invalid(0, "The body is not the JSON data of an event of schema %s: %s at byte %d.", d.schema.InputName(), syntax.Reason, syntax.Offset+len(d.body)-len(data))
	}
	size := len(d.body)
	for i := range d.extensions {
		size += len(d.extensions[i].name) + len(d.extensions[i].member.value)
	}
	for k := range d.members {
		size += len(d.members[k].value)
	}
	if size > d.MaxEventBytes {
		if size += compactSize(data[:end]) - len(d.body); size > d.MaxEventBytes {
			return nil, tooLargeEvent(0, size, d.MaxEventBytes)
		}
	}
	d.members[cloudData] = member{value: data[:end], kind: KindOf(data)}
	d.reserve(max(size, 1), len(d.body))
	if d.storeCloud(); d.broken != nil {
		return nil, d.broken
	}
	return d.events, nil
}

// readHeaders collects the attributes of a binary event in the order of their
// names, so that equal requests give equal stored forms.
func (d *decoder) readHeaders(header http.Header) error {
	var names []string
	for name := range header {
		if strings.HasPrefix(name, binaryPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		attribute := strings.ToLower(name[len(binaryPrefix):])
		k := cloudMember([]byte(attribute))
		if attribute == "" || k == cloudContentType || k == cloudData || k == cloudDataBase64 {
			return invalidHeader(name, "is not an attribute header: the content type is in Content-Type and the data is the body.")
		}
		if len(header[name]) != 1 {
			return invalidHeader(name, "appears twice.")
		}
		text, problem := decodeHeader(header[name][0])
		if problem != "" {
			return invalidHeader(name, problem)
		}
		quoted := AppendQuoted(nil, text)
		m := member{value: quoted, kind: String, escaped: bytes.IndexByte(quoted, '\\') >= 0}
		if k < 0 {
			d.extensions = append(d.extensions, extension{[]byte(attribute), m})
		} else {
			d.members[k] = m
		}
	}
	for _, k := range binaryRequired {
		if d.members[k].blank() && !(d.Lenient && (k == cloudSource || k == cloudSpecVersion)) {
			return invalidHeader("ce-"+cloudNames[k], "is required in binary mode and is missing or empty.")
		}
	}
	contentType := AppendQuoted(nil, header.Get("Content-Type"))
	d.members[cloudContentType] = member{value: contentType, kind: String, escaped: bytes.IndexByte(contentType, '\\') >= 0}
	return nil
}

func invalidHeader(name, problem string) *InvalidError {
	return &InvalidError{Code: InvalidCloudEventHeader, Index: 0, Message: fmt.Sprintf(
		"Header '%s' of schema %s %s", shorten(strings.ToLower(name)), CloudEventSchemaV1_0.InputName(), problem)}
}

// decodeHeader undoes what the HTTP binding does to an attribute value: one round
// of percent-encoding, and the quotes of a quoted string, which only older
// senders write. Source: CloudEvents HTTP protocol binding 1.0.2, section 3.1.3.2.
// The second result says what is wrong, as the end of a sentence about the header.
func decodeHeader(value string) (text []byte, problem string) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = unquoteHeader(value[1 : len(value)-1])
	}
	decoded := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] != '%' {
			decoded = append(decoded, value[i])
			continue
		}
		if i+2 >= len(value) || hexDigit[value[i+1]] < 0 || hexDigit[value[i+2]] < 0 {
			return nil, fmt.Sprintf("has a %% without two hexadecimal digits at byte %d of its value; write %%25 for the character itself.", i)
		}
		decoded = append(decoded, byte(hexDigit[value[i+1]])<<4|byte(hexDigit[value[i+2]]))
		i += 2
	}
	if !utf8.Valid(decoded) {
		return nil, "does not decode to UTF-8."
	}
	return decoded, ""
}

// unquoteHeader removes the backslashes of a quoted string.
func unquoteHeader(inner string) string {
	if strings.IndexByte(inner, '\\') < 0 {
		return inner
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		if inner[i] == '\\' && i+1 < len(inner) {
			i++
		}
		b.WriteByte(inner[i])
	}
	return b.String()
}
