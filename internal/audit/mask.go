package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/secret"
)

// maxValue is the longest value that is kept of a member, in bytes of JSON.
const maxValue = 16 << 10

// hashed are members that hold what is kept of a secret that need not be shown again.
var hashed = []string{"hash", "salt", "tokenHash"}

// masked stands for a secret.
const masked = `"(secret)"`

// fieldsOf returns the members in which two stored records differ, in order of their
// paths, with secrets masked. A record that is not there is nil.
func fieldsOf(before, after []byte) ([]Field, error) {
	var old, now map[string]any
	for _, side := range []struct {
		raw  []byte
		into *map[string]any
	}{{before, &old}, {after, &now}} {
		if side.raw == nil {
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(side.raw))
		decoder.UseNumber()
		if err := decoder.Decode(side.into); err != nil {
			return nil, fmt.Errorf("read a record for the audit log: %w", err)
		}
	}
	fields := differing("", old, now)
	slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Path, b.Path) })
	return fields, nil
}

// differing goes down objects; everything else is compared whole.
func differing(path string, old, now map[string]any) []Field {
	names := map[string]bool{}
	for _, side := range []map[string]any{old, now} {
		for name := range side {
			names[name] = true
		}
	}
	var fields []Field
	for name := range names {
		a, was := old[name]
		b, is := now[name]
		before, after := encode(a), encode(b)
		if was == is && bytes.Equal(before, after) {
			continue
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		inOld, oldObject := a.(map[string]any)
		inNow, nowObject := b.(map[string]any)
		if oldObject && nowObject {
			fields = append(fields, differing(at, inOld, inNow)...)
			continue
		}
		f := Field{Path: at}
		if was {
			f.Before = shown(name, a)
		}
		if is {
			f.After = shown(name, b)
		}
		fields = append(fields, f)
	}
	return fields
}

// encode writes a value that was decoded from JSON.
func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null") // it came from JSON, so it goes there
	}
	return raw
}

// shown is a value as the audit log shows it.
func shown(name string, v any) json.RawMessage {
	raw := encode(mask(name, v))
	if len(raw) > maxValue {
		return encode(fmt.Sprintf("(%d bytes, sha256 %s)", len(raw), hashOf(raw)))
	}
	return raw
}

// mask replaces the secrets in a value.
func mask(name string, v any) any {
	if slices.Contains(hashed, name) {
		return json.RawMessage(masked)
	}
	switch v := v.(type) {
	case string:
		if secret.IsSealed(v) {
			return json.RawMessage(masked)
		}
	case []any:
		for i := range v {
			v[i] = mask(name, v[i])
		}
	case map[string]any:
		for member := range v {
			v[member] = mask(member, v[member])
		}
	}
	return v
}
