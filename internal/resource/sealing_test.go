package resource

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// fill gives every text its own value and makes every pointer and one element of every
// slice, and returns the values of fields whose name says that they are sealed.
func fill(v reflect.Value, name string, n *int, depth int) (sealed []string) {
	switch v.Kind() {
	case reflect.String:
		*n++
		v.SetString(fmt.Sprintf("text %d", *n))
		if strings.HasPrefix(name, "Sealed") {
			sealed = append(sealed, v.String())
		}
	case reflect.Pointer:
		if depth < 12 && v.CanSet() {
			v.Set(reflect.New(v.Type().Elem()))
			sealed = fill(v.Elem(), name, n, depth+1)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			sealed = fill(v.Index(0), name, n, depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			sealed = append(sealed, fill(v.Index(i), name, n, depth+1)...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				sealed = append(sealed, fill(f, v.Type().Field(i).Name, n, depth+1)...)
			}
		}
	}
	return sealed
}

// TestEachSealed finds every field that is sealed, also one that is added later: what
// the walk leaves out would keep an old master key for ever.
func TestEachSealed(t *testing.T) {
	store, records := NewStore(NewMemoryKV()), 0
	for kind, c := range store.collections {
		items := reflect.ValueOf(c).Elem().FieldByName("items")
		record := reflect.New(items.Type().Elem().Field(1).Type) // Item.Value
		n := 0
		want := fill(record.Elem(), "", &n, 0)
		s, ok := record.Interface().(Sealing)
		if !ok {
			if len(want) > 0 {
				t.Errorf("a %s has sealed fields and no EachSealed", kind)
			}
			continue
		}
		records++
		got := map[string]bool{}
		s.EachSealed(func(sealed *string, _ string) {
			if got[*sealed] {
				t.Errorf("%s: %q is walked twice", kind, *sealed)
			}
			got[*sealed] = true
		})
		if len(got) != len(want) || len(want) == 0 {
			t.Errorf("%s: %d sealed texts are walked of %d", kind, len(got), len(want))
		}
		for _, text := range want {
			if !got[text] {
				t.Errorf("%s: %q is not walked", kind, text)
			}
		}
	}
	if records < 2 {
		t.Errorf("%d kinds of records are sealed", records)
	}
}
