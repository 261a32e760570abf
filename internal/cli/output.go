package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// view says how one kind of resource is shown as a table.
type view struct {
	plural  string // for "No topics."
	columns []column
	detail  []column // shown below the columns when there is one resource only
}

// column is a title and the path of a member, segments separated by dots;
// alternatives are separated by '|', the first that is there counts; one that
// begins with '=' is a text of its own, and of one that ends with '/' the last segment
// is shown: the name in an id; one that begins with '#' is a number of three digits. A
// path that begins with '?' has no row, and in a list no column, where nothing is there.
type column struct {
	title string
	path  string
}

// show prints one resource.
func (a *app) show(v view, resource json.RawMessage) error {
	if a.output == "json" {
		return writeJSON(a.stdout, resource)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, c := range slices.Concat(v.columns, v.detail) {
		if path, optional := strings.CutPrefix(c.path, "?"); optional {
			if c.path = path; member(resource, path) == nil {
				continue
			}
		}
		title := c.title
		for _, line := range lines(resource, c.path) {
			fmt.Fprintf(w, "%s\t%s\n", title, line)
			title = ""
		}
	}
	return w.Flush()
}

// lines is the cell of a member, with a line for each advanced filter.
func lines(resource json.RawMessage, path string) []string {
	list, _ := member(resource, path).([]any)
	var out []string
	for _, entry := range list {
		if object, ok := entry.(map[string]any); ok && object["operatorType"] != nil {
			out = append(out, plain(entry))
		}
	}
	if len(out) > 0 {
		return out
	}
	return []string{cell(resource, path)}
}

// list prints several resources.
func (a *app) list(v view, resources []json.RawMessage) error {
	if a.output == "json" {
		return writeJSON(a.stdout, joinArray(resources))
	}
	if len(resources) == 0 {
		fmt.Fprintf(a.stderr, "No %s.\n", v.plural)
		return nil
	}
	var columns []column
	var titles []string
	for _, c := range v.columns {
		path, optional := strings.CutPrefix(c.path, "?")
		if !optional || slices.ContainsFunc(resources, func(r json.RawMessage) bool { return member(r, path) != nil }) {
			columns = append(columns, column{c.title, path})
			titles = append(titles, strings.ToUpper(c.title))
		}
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(titles, "\t"))
	for _, r := range resources {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(r, c.path)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// deleted says that something is gone; -o json says nothing, as az does.
func (a *app) deleted(what, name string) error {
	if a.output != "json" {
		fmt.Fprintf(a.stdout, "Deleted %s %s.\n", what, name)
	}
	return nil
}

// waiting tells a person at a terminal what is going on when it takes more than
// a second. The returned function ends it.
func (a *app) waiting(what string) (done func()) {
	if !terminal(a.stderr) {
		return func() {}
	}
	timer := time.AfterFunc(time.Second, func() { fmt.Fprintf(a.stderr, "%s…\n", what) })
	return func() { timer.Stop() }
}

func joinArray(entries []json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, e := range entries {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// encodeJSON is json.Marshal that leaves <, > and & as they are: what it makes is
// read by people, and never put into a page.
func encodeJSON(value any) (json.RawMessage, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// writeJSON prints JSON indented; members and numbers stay as they came.
func writeJSON(w io.Writer, raw json.RawMessage) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(raw), "", "  "); err != nil {
		return fmt.Errorf("the server's answer is not JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// cell is the text of a member in a table; nothing there is a dash, so that
// columns stay where scripts look for them.
func cell(resource json.RawMessage, path string) string {
	return firstOf(text(resource, path), "-")
}

// text returns a member as text, "" when it is absent, null or empty.
func text(resource json.RawMessage, path string) string {
	for alternative := range strings.SplitSeq(path, "|") {
		if literal, ok := strings.CutPrefix(alternative, "="); ok {
			return literal
		}
		alternative, short := strings.CutPrefix(alternative, "#")
		path, name := strings.CutSuffix(alternative, "/")
		if t := plain(member(resource, path)); t != "" {
			if x, err := strconv.ParseFloat(t, 64); short && err == nil {
				t = fmt.Sprintf("%.3g", x)
			}
			if name {
				t = t[strings.LastIndexByte(t, '/')+1:]
			}
			return t
		}
	}
	return ""
}

// member returns the value at a path, nil when it is not there; the path "" is
// the whole value. The name of the last member may hold dots.
func member(resource json.RawMessage, path string) any {
	decoder := json.NewDecoder(bytes.NewReader(resource))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil
	}
	if path == "" {
		return value
	}
	for path != "" {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		if last, there := object[path]; there {
			return last
		}
		var segment string
		segment, path, _ = strings.Cut(path, ".")
		value = object[segment]
	}
	return value
}

// plain writes a value the way a table shows it.
func plain(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return oneLine(v)
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = plain(e)
		}
		return strings.Join(parts, ", ")
	case map[string]any:
		if v["inputSchemaMappingType"] != nil {
			return mappingText(v)
		}
		if v["operatorType"] != nil { // an advanced filter, as it is written on a command line
			words := []string{shellWord(v["key"]), plain(v["operatorType"])}
			if v["value"] != nil {
				words = append(words, shellWord(v["value"]))
			}
			values, _ := v["values"].([]any)
			for _, value := range values {
				words = append(words, shellWord(value))
			}
			return strings.Join(words, " ")
		}
		if v["ipMask"] != nil { // an inbound IP rule, whose action is always Allow
			return plain(v["ipMask"])
		}
		if _, ok := v["keys"].([]any); ok && v["version"] != nil {
			return signingText(v)
		}
		if isPermission(v) {
			return permissionText(v)
		}
		if isClientCertificate(v) {
			return clientCertificateText(v)
		}
		if _, ok := v["clientSecret"]; ok {
			return tokenIssuerText(v)
		}
		if of, ok := v["properties"].(map[string]any); ok && v["name"] != nil && v["type"] != nil { // a delivery attribute, likewise
			shown := firstOf(plain(of["value"]), plain(of["sourceField"]))
			if of["isSecret"] == true && of["value"] == nil {
				shown = "(secret)"
			}
			return plain(v["name"]) + " " + strings.ToLower(plain(v["type"])) + " " + shown
		}
		parts := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, oneLine(k)+"="+enclosed(v[k]))
		}
		return strings.Join(parts, " ")
	default:
		return fmt.Sprint(v)
	}
}

// enclosed is plain for a member of an object: what holds several values itself is put
// in brackets, so that it is seen where it ends.
func enclosed(value any) string {
	switch value.(type) {
	case []any:
		return "[" + plain(value) + "]"
	case map[string]any:
		return "{" + plain(value) + "}"
	}
	return plain(value)
}

// shellWord writes the key or a value of an advanced filter so that it can be put
// on a command line again: in the shell's quotes if it needs them, and inside them
// in quotes of its own if --advanced-filter would take the value for something
// else.
func shellWord(value any) string {
	if pair, ok := value.([]any); ok && len(pair) == 2 {
		return plain(pair[0]) + "," + plain(pair[1])
	}
	text, ok := value.(string)
	if !ok {
		return plain(value)
	}
	word := oneLine(text)
	if word == "" || strings.ContainsAny(word[:1], "-('\"") || strings.ContainsAny(word[len(word)-1:], ")'\"") {
		quote := "\""
		if strings.Contains(word, quote) {
			quote = "'"
		}
		word = quote + word + quote
	}
	plainWord := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:,@%+=", r) || r >= 0x80
	}
	if strings.IndexFunc(word, func(r rune) bool { return !plainWord(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// oneLine keeps foreign text on its line and in its place: control characters,
// which could move a terminal's cursor, are shown as '?'.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// paint colours text for terminals, and leaves it alone elsewhere.
type paint bool

// painter returns the paint for standard output. NO_COLOR is honoured, see
// no-color.org.
func (a *app) painter() paint {
	return paint(terminal(a.stdout) && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb")
}

func (p paint) code(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) bold(s string) string  { return p.code("1", s) }
func (p paint) faint(s string) string { return p.code("2", s) }
func (p paint) red(s string) string   { return p.code("31", s) }
func (p paint) green(s string) string { return p.code("32", s) }
func (p paint) cyan(s string) string  { return p.code("36", s) }

// eventType paints the type of an event by what it means.
func (p paint) eventType(name string) string {
	switch {
	case strings.HasSuffix(name, "RunStatusChanged"), strings.HasSuffix(name, "DatasetDriftDetected"):
		return p.code("1;33", name)
	default:
		return p.code("1;32", name)
	}
}
