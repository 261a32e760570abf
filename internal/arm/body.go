package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// maxBody bounds the body of a request. Source: spec/management.md section 6.
const maxBody = 8 << 20

// readBody reads the body of a request as one JSON object. No body at all is an
// object without members.
func (r *request) readBody() (fields, error) {
	f := fields{members: map[string]json.RawMessage{}, problems: &[]*fault.Error{}}
	if t := r.http.Header.Get("Content-Type"); t != "" {
		media, _, err := mime.ParseMediaType(t)
		if err != nil || media != "application/json" && media != "text/json" && media != "application/merge-patch+json" {
			return f, fault.New(fault.UnsupportedMedia, "UnsupportedMediaType", "The content type '%.80s' is not taken here; send application/json.", t)
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(r.w, r.http.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return f, fault.New(fault.TooLarge, "RequestContentTooLarge", "The request body is larger than %d bytes.", maxBody)
		}
		return f, fault.New(fault.Invalid, "InvalidRequestContent", "The request body ended early.").Because(err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return f, nil
	}
	if !json.Valid(raw) {
		return f, fault.New(fault.Invalid, "InvalidRequestContent", "The request body is not JSON %s.", whereBroken(raw))
	}
	if !utf8.Valid(raw) { // decoding would put other characters in the place of what was sent
		return f, fault.New(fault.Invalid, "InvalidRequestContent", "The request body is not UTF-8; send it in that encoding.")
	}
	if firstByte(raw) != '{' {
		return f, fault.New(fault.Invalid, "InvalidRequestContent", "The request body is %s; it must be an object.", jsonType(raw))
	}
	f.fill(raw)
	return f, nil
}

// whereBroken says from where on a body is not JSON.
func whereBroken(raw []byte) string {
	var body json.RawMessage
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(raw, &body)); ok && int(syntax.Offset) < len(raw) {
		return fmt.Sprintf("from byte %d on", syntax.Offset)
	}
	return "at its end"
}

// sub returns a nested object; one that is absent or wrong has no members.
func (f fields) sub(name string) fields {
	if inner, ok := f.object(name); ok {
		return inner
	}
	return fields{path: f.target(name), members: map[string]json.RawMessage{}, problems: f.problems}
}

// str reads a string member, "" when it is absent or wrong.
func (f fields) str(name string) string {
	if s := f.text(name); s != nil {
		return *s
	}
	return ""
}

// refuse notes that a member asks for what this server does not do.
func (f fields) refuse(name, format string, args ...any) {
	f.note(fault.Field(f.target(name), format, args...))
}

// knows refuses the members that have a value and are none of names.
func (f fields) knows(names ...string) {
	for _, name := range slices.Sorted(maps.Keys(f.members)) {
		if known := slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) }); !known && !f.null(name) {
			short := fmt.Sprintf("%.60s", name)
			f.refuse(short, "The member %s is not known here: use %s.", short, strings.Join(names, ", "))
		}
	}
}

// verdict returns why a body could not be read, or the wrong types that were met.
func (f fields) verdict(unread error) error {
	if unread != nil {
		return unread
	}
	return fault.Join(*f.problems...)
}

// tags reads a tag map: nil when it is absent.
func (f fields) tags() map[string]string {
	raw, ok := f.member("tags")
	if !ok {
		return nil
	}
	if firstByte(raw) != '{' {
		f.wrong(f.target("tags"), raw, "an object whose values are strings")
		return nil
	}
	tags, members := map[string]string{}, map[string]json.RawMessage{}
	_ = json.Unmarshal(raw, &members) // it is a valid object
	for key, v := range members {
		if firstByte(v) != '"' {
			f.wrong(f.target("tags")+"."+key, v, "a string")
			continue
		}
		var text string
		_ = json.Unmarshal(v, &text) // it is a valid string
		tags[key] = text
	}
	return tags
}

// tracked reads what every tracked resource has, and checks that the body speaks
// of the resource that the path names.
func (r *request) tracked() (fields, manage.Tracked) {
	f, err := r.readBody()
	t := manage.Tracked{Location: f.str("location"), Tags: f.tags(), Unread: err}
	r.sameResource(f)
	return f, t
}

// sameResource notes members that contradict the path.
// Source: spec/management.md section 6.
func (r *request) sameResource(f fields) {
	if id := f.str("id"); id != "" {
		if parsed, err := resource.ParseID(id); err != nil || !parsed.Equal(r.id) {
			f.refuse("id", "The id '%.200s' in the body is not that of the path, '%s'. Leave it out.", id, r.id)
		}
	}
	if name := f.str("name"); name != "" && !strings.EqualFold(name, r.id.Name()) && !strings.HasSuffix(strings.ToLower(name), "/"+strings.ToLower(r.id.Name())) {
		f.refuse("name", "The name '%.200s' in the body is not that of the path, '%s'. Leave it out.", name, r.id.Name())
	}
	if kind := f.str("type"); kind != "" && !r.id.IsType(kind) {
		f.refuse("type", "The type '%.200s' in the body is not that of the path, '%s'. Leave it out.", kind, r.id.Type())
	}
}

// systemData says who made and changed a resource.
// Source: spec/management.md section 5.1.
type systemData struct {
	CreatedBy          string `json:"createdBy"`
	CreatedByType      string `json:"createdByType"`
	CreatedAt          string `json:"createdAt"`
	LastModifiedBy     string `json:"lastModifiedBy"`
	LastModifiedByType string `json:"lastModifiedByType"`
	LastModifiedAt     string `json:"lastModifiedAt"`
}

func systemDataOf(created, modified resource.Stamp) systemData {
	return systemData{
		CreatedBy: created.By, CreatedByType: created.Kind, CreatedAt: armTime(created.At),
		LastModifiedBy: modified.By, LastModifiedByType: modified.Kind, LastModifiedAt: armTime(modified.At),
	}
}

// armTime writes a time as ARM does: RFC 3339 in UTC with seven digits.
func armTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// trackedBody is what every tracked resource shows.
type trackedBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	ETag       string            `json:"etag"`
	SystemData systemData        `json:"systemData"`
}

func trackedOf(m resource.Meta, resourceType, etag string) trackedBody {
	return trackedBody{
		ID: m.ID.String(), Name: m.ID.Name(), Type: resourceType, Location: m.Location, Tags: m.Tags, ETag: etag,
		SystemData: systemDataOf(m.Created, m.Modified),
	}
}

// guid makes a stable GUID out of a UID, for members that must hold one.
func guid(u resource.UID) string {
	s := u.String()
	return fmt.Sprintf("%s-%s-4%s-8%s-%s", s[:8], s[8:12], s[12:15], s[13:16], s[:12])
}

// kept are members that are stored and shown as they came. The zero value keeps
// nothing.
type kept map[string]json.RawMessage

// keep takes members of an object that are there.
func (k kept) keep(f fields, names ...string) {
	for _, name := range names {
		if raw, ok := f.member(name); ok {
			k[name] = raw
		}
	}
}

// raw returns the stored form, nil for nothing.
func (k kept) raw() json.RawMessage {
	if len(k) == 0 {
		return nil
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return nil // the members are valid JSON
	}
	return raw
}

// keptOf reads a stored form.
func keptOf(raw json.RawMessage) kept {
	k := kept{}
	if len(raw) > 0 {
		_ = json.Unmarshal(raw, &k) // it was written by raw
	}
	return k
}

// or returns a kept member, or a default where it was not kept.
func (k kept) or(name string, otherwise any) any {
	if raw, ok := k[name]; ok && !isNull(raw) {
		return raw
	}
	return otherwise
}
