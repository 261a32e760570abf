package destination

import (
	"runtime"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// TestExpressionsThatMakeMuch: no expression makes gigabytes of an event, whoever wrote it.
func TestExpressionsThatMakeMuch(t *testing.T) {
	raw := strings.Replace(modelRegistered, `"data":{`, `"data":{"text":"`+strings.Repeat("a", 40<<10)+`","list":["x"`+strings.Repeat(`,"x"`, 999)+`],`, 1)
	for _, text := range []string{
		`data.list.map(x, event)`,
		`{"a": data.list.map(x, [data, {"b": data}])}`,
		`data.text.replace("a", data.text)`,
		`data.text.replace("", data.text, 40000)`,
		`data.list.join(data.text)`,
		`data.list.map(x, data.text).join()`,
		`data.list.map(x, data.text).join("")`,
		`"%s".format([data.list.map(x, data.text)])`,
		`"%s".format([data.list.map(x, data)])`,
		`"a".matches(data.list[0] + "{1000}")`,
		`(data.text + data.text).matches(data.text)`,
	} {
		e, err := compile(text)
		if err != nil {
			t.Fatal(err)
		}
		f := facts{key: "k"}
		f.read([]byte(raw), event.EventGridSchema)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		made, err := e.of(&f)
		runtime.ReadMemStats(&after)
		if most := uint64(64 << 20); err == nil || after.TotalAlloc-before.TotalAlloc > most {
			t.Errorf("%s makes %T of %d bytes, %v", text, made, after.TotalAlloc-before.TotalAlloc, err)
		}
	}
}

// TestExpressionsThatDouble: a value that holds another twice, forty times over, is neither
// compared nor sent, for there is no end to it.
func TestExpressionsThatDouble(t *testing.T) {
	for _, text := range []string{
		`[[1, 2]]` + strings.Repeat(`.map(a, a + a)`, 40) + `.map(a, size(a))`,
		`[[1, 2]]` + strings.Repeat(`.map(a, [a, a])`, 40) + `.map(a, a == a)`,
		`[[1, 2]]` + strings.Repeat(`.map(a, {"x": a, "y": a})`, 40) + `.map(a, a != a)`,
		`[[1, 2]]` + strings.Repeat(`.map(a, [a, a])`, 40) + `.map(a, a in [a])`,
		`[[1, 2]]` + strings.Repeat(`.map(a, [a, a])`, 40),
	} {
		e, err := compile(text)
		if err != nil {
			t.Fatal(err)
		}
		f := facts{key: "k"}
		f.read([]byte(modelRegistered), event.EventGridSchema)
		if made, err := e.of(&f); err == nil {
			t.Errorf("%.20s… makes %T", text, made)
		}
	}
}

// TestBoundedFunctions holds that those which are bounded do what they did.
func TestBoundedFunctions(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`"a-b-c".replace("-", "+")`, `"a+b+c"`},
		{`"a-b-c".replace("-", "+", 1)`, `"a+b-c"`},
		{`data.modelName.replace("", "-")`, `"-c-h-u-r-n-"`},
		{`["a", data.modelName].join()`, `"achurn"`},
		{`["a", data.modelName].join(", ")`, `"a, churn"`},
		{`"%s is %d, %.1f".format([data.modelName, 3, data.n])`, `"churn is 3, 7.0"`},
		{`data.modelName.matches("^ch[a-z]+$")`, `true`},
		{`data.modelName.matches("^" + data.modelName + "$")`, `true`},
		{`data.modelName.matches("(((a?){30}){30}){30}")`, ``},
		{`data.modelName.matches("(")`, ``},
		{`data.n.matches(data.modelName)`, ``},
		{`[1.0] + [data.n] == [1.0, 7.0] && data.n != 8.0 && data.n in [1.0, 7.0] && "n" in data`, `true`},
		{`data.n in 7.0`, ``},
		{`data.n == data.missing`, ``},
		{`data.n.replace("a", "b")`, ``},
		{`[1].join()`, ``},
	} {
		e, err := compile(tt.text)
		if err != nil && tt.want != "" {
			t.Fatal(err)
		} else if err != nil {
			continue
		}
		f := facts{key: "k"}
		f.read([]byte(modelRegistered), event.EventGridSchema)
		made, err := e.of(&f)
		if got, _ := (&occurrence{payload: made}).json(); (err == nil) != (tt.want != "") || err == nil && !equalJSON(t, string(got), tt.want) {
			t.Errorf("%s: %s, %v; want %s", tt.text, got, err, tt.want)
		}
	}
}
