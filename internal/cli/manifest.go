package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// manifest is what a file says of one resource: its id and its body as the management
// API takes it. A member that it does not say stays as it is.
type manifest struct {
	id    resource.ID
	kind  *declared
	body  map[string]any
	where string // in which document of the file, for messages
}

// declared is a type of resource that a file may hold.
type declared struct {
	name  string // as ARM spells the type
	order int    // what is needed by others comes first
	whole bool   // changed by PUT of the whole; others by PATCH of what differs
}

var declaredKinds = []declared{
	{"Microsoft.Resources/resourceGroups", 0, false},
	{"Carillon.Secrets/connections", 1, false},
	{"Microsoft.MachineLearningServices/workspaces", 1, false},
	{"Carillon.MLflow/servers", 2, true},
	{"Carillon.Kubernetes/clusters", 2, true},
	{"Microsoft.MachineLearningServices/workspaces/driftMonitors", 2, false},
	{"Microsoft.EventGrid/topics", 2, false},
	{"Microsoft.EventGrid/domains", 2, false},
	{"Microsoft.EventGrid/systemTopics", 2, false},
	{"Microsoft.EventGrid/domains/topics", 3, true},
	{"Microsoft.Authorization/roleDefinitions", 3, true},
	{"Microsoft.EventGrid/eventSubscriptions", 4, false},
	{"Microsoft.Authorization/roleAssignments", 5, true},
	{"Microsoft.Authorization/denyAssignments", 6, true}, // last: it may take away what the others need
}

// kindOfID returns the declared type of an id, nil for none.
func kindOfID(id resource.ID) *declared {
	kind := id.Type()
	if lower := strings.ToLower(kind); strings.HasPrefix(lower, "microsoft.eventgrid/") && strings.HasSuffix(lower, "/eventsubscriptions") {
		kind = "Microsoft.EventGrid/eventSubscriptions" // nested under its topic
	}
	i := slices.IndexFunc(declaredKinds, func(d declared) bool { return strings.EqualFold(d.name, kind) })
	if i < 0 {
		return nil
	}
	return &declaredKinds[i]
}

// secretText is a text that came from the environment: it is sent and never shown.
type secretText string

// readManifests reads a file of YAML or JSON: documents parted by lines of ---, each one
// resource, a list of them, or an object with the list as its member resources. They
// come in the order in which they can be made.
func (a *app) readManifests(path string) ([]manifest, error) {
	raw, err := a.readAll(path)
	if err != nil {
		return nil, err
	}
	var all []manifest
	var problems []error
	for i, document := range splitDocuments(raw) {
		text, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, fmt.Errorf("read document %d of %s: %w", i+1, path, err)
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("read document %d of %s: %w", i+1, path, err)
		}
		bodies := []any{value}
		if object, ok := value.(map[string]any); ok && object["resources"] != nil && object["id"] == nil {
			value = object["resources"]
		}
		if list, ok := value.([]any); ok {
			bodies = list
		}
		for j, body := range bodies {
			if body == nil {
				continue // an empty document
			}
			m, err := a.manifestOf(body, fmt.Sprintf("document %d, resource %d of %s", i+1, j+1, path))
			problems = append(problems, err)
			all = append(all, m)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(x, y manifest) int { return x.kind.order - y.kind.order })
	seen := map[string]string{}
	for _, m := range all {
		if other, twice := seen[m.id.Key()]; twice {
			return nil, fmt.Errorf("%s and %s are both %s", other, m.where, m.id)
		}
		seen[m.id.Key()] = m.where
	}
	return all, nil
}

// splitDocuments parts a file at lines of three dashes.
func splitDocuments(raw []byte) [][]byte {
	var documents [][]byte
	var current bytes.Buffer
	lines := bufio.NewReader(bytes.NewReader(raw))
	for {
		line, err := lines.ReadString('\n')
		if strings.TrimRight(line, " \r\n") == "---" {
			documents = append(documents, bytes.Clone(current.Bytes()))
			current.Reset()
		} else {
			current.WriteString(line)
		}
		if errors.Is(err, io.EOF) {
			return append(documents, current.Bytes())
		}
	}
}

// manifestOf reads one resource.
func (a *app) manifestOf(value any, where string) (manifest, error) {
	body, ok := value.(map[string]any)
	if !ok {
		return manifest{}, fmt.Errorf("%s is not an object with id and properties", where)
	}
	body, err := a.fromEnvironment(body, "")
	if err != nil {
		return manifest{}, fmt.Errorf("%s: %w", where, err)
	}
	text, _ := body["id"].(string)
	if text == "" {
		text = assignmentIDOf(body)
	}
	id, err := resource.ParseID(text)
	if err != nil || text == "" {
		return manifest{}, fmt.Errorf("%s has no id, or one that cannot be read (%q): give the full resource id; a role assignment and a deny assignment may leave it out and give properties.scope", where, text)
	}
	m := manifest{id: id, kind: kindOfID(id), body: map[string]any{}, where: where}
	if m.kind == nil {
		var names []string
		for _, d := range declaredKinds {
			names = append(names, d.name)
		}
		return m, fmt.Errorf("%s, %s, is of a type that cannot be declared: use %s", where, id, strings.Join(names, ", "))
	}
	if kind, _ := body["type"].(string); kind != "" && !strings.EqualFold(kind, id.Type()) && !strings.EqualFold(kind, m.kind.name) {
		return m, fmt.Errorf("%s says that its type is %s, and its id is that of a %s", where, kind, m.kind.name)
	}
	for name, value := range body {
		if !slices.Contains([]string{"id", "name", "type", "etag", "systemData"}, name) && value != nil {
			m.body[name] = value
		}
	}
	return m, nil
}

// assignmentIDOf derives the id of a role assignment or a deny assignment that has none,
// as "carillon role assignment create" and "carillon role deny-assignment create" do.
func assignmentIDOf(body map[string]any) string {
	properties, _ := body["properties"].(map[string]any)
	said := func(name string) string { text, _ := properties[name].(string); return text }
	kind, _ := body["type"].(string)
	at := strings.TrimRight(said("scope"), "/")
	switch {
	case said("scope") == "":
	case strings.EqualFold(kind, "Microsoft.Authorization/roleAssignments") && said("principalId") != "" && said("roleDefinitionId") != "":
		return at + roleAssignments + "/" + assignmentName(at, said("principalId"), said("roleDefinitionId"))
	case strings.EqualFold(kind, "Microsoft.Authorization/denyAssignments") && said("denyAssignmentName") != "":
		return at + denyAssignments + "/" + denyAssignmentName(at, said("denyAssignmentName"))
	}
	return ""
}

var environmentReference = regexp.MustCompile(`\$\{env:([^}]*)\}`)

// fromEnvironment puts environment variables in the place of ${env:NAME}.
func (a *app) fromEnvironment(object map[string]any, path string) (map[string]any, error) {
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value, err := a.expand(object[name], strings.TrimPrefix(path+"."+name, "."))
		if err != nil {
			return nil, err
		}
		out[name] = value
	}
	return out, nil
}

func (a *app) expand(value any, path string) (any, error) {
	switch v := value.(type) {
	case map[string]any:
		return a.fromEnvironment(v, path)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = a.expand(v[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return nil, err
			}
		}
		return out, nil
	case string:
		var missing []string
		expanded := environmentReference.ReplaceAllStringFunc(v, func(ref string) string {
			name := environmentReference.FindStringSubmatch(ref)[1]
			found := a.getenv(name)
			if found == "" {
				missing = append(missing, name)
			}
			return found
		})
		if len(missing) > 0 {
			return nil, fmt.Errorf("%s refers to the environment variable %s, which is not set", path, strings.Join(missing, ", "))
		}
		if expanded != v {
			return secretText(expanded), nil
		}
	}
	return value, nil
}

// difference is a member in which a resource is not what a file says.
type difference struct {
	Field  string `json:"field"`
	Before any    `json:"before,omitempty"`
	After  any    `json:"after,omitempty"`
}

// differences compares what a file says with what is there. What the file does not say
// counts for nothing, and neither does a secret that the server never shows.
func differences(path string, there, said any) []difference {
	object, ok := said.(map[string]any)
	if !ok {
		if said == nil || same(path, there, said) {
			return nil
		}
		return []difference{{path, shownValue(path, there), shownValue(path, said)}}
	}
	present, _ := there.(map[string]any)
	var all []difference
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if _, there := present[name]; !there && strings.HasSuffix(path, "destination.properties") && slices.Contains(fieldSecrets, name) && object[name] != nil {
			all = append(all, difference{strings.TrimPrefix(path+"."+name, "."), nil, shownValue(name, secretText(""))})
			continue
		}
		all = append(all, differences(strings.TrimPrefix(path+"."+name, "."), present[name], object[name])...)
	}
	return all
}

// unshown are members whose values the server never shows.
var unshown = append([]string{"clientSecret", "key", "password", "token", "clientKey", "connectionString", "secretAccessKey", "sessionToken"}, fieldSecrets...)

// fieldSecrets are those of destinations that are no webhooks: null says that there is
// one.
var fieldSecrets = func() (names []string) {
	for _, k := range resource.Kinds() {
		for _, f := range k.Fields {
			if f.Type == resource.FieldSecret {
				names = append(names, f.Name)
			}
		}
	}
	return names
}()

// verbatim are members whose texts may begin with / and are no ids: paths and columns of
// datasets.
var verbatim = []string{"uri", "features", "timestampColumn"}

// same compares two values as the server would: numbers by value, times by the moment,
// ids and words of closed sets ignoring case.
func same(path string, there, said any) bool {
	name := path[strings.LastIndexByte(path, '.')+1:]
	if there == nil && slices.Contains(unshown, name) {
		return true
	}
	switch s := said.(type) {
	case []any:
		list, _ := there.([]any)
		if len(list) != len(s) {
			return false
		}
		for i := range s {
			if len(differences(path, list[i], s[i])) > 0 {
				return false
			}
		}
		return true
	case json.Number:
		n, ok := there.(json.Number)
		x, _, errX := big.ParseFloat(string(s), 10, 200, big.ToNearestEven)
		y, _, errY := big.ParseFloat(string(n), 10, 200, big.ToNearestEven)
		return ok && errX == nil && errY == nil && x.Cmp(y) == 0
	case secretText:
		return same(path, there, string(s))
	case string:
		t, _ := there.(string)
		if a, err := time.Parse(time.RFC3339, s); err == nil {
			if b, err := time.Parse(time.RFC3339, t); err == nil {
				return a.Equal(b)
			}
		}
		switch {
		case slices.Contains(verbatim, name):
			return s == t
		case name == "roleDefinitionId":
			return strings.EqualFold(s[strings.LastIndexByte(s, '/')+1:], t[strings.LastIndexByte(t, '/')+1:])
		case strings.HasPrefix(s, "/"), slices.Contains([]string{"endpointType", "operatorType", "location", "inputSchema", "eventDeliverySchema", "principalId", "id", "server"}, name):
			return strings.EqualFold(strings.TrimRight(s, "/"), strings.TrimRight(t, "/"))
		}
		return s == t
	}
	return there == said
}

// shownValue is a value as differences are shown: without secrets.
func shownValue(path string, value any) any {
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch v := value.(type) {
	case nil:
		return nil
	case secretText:
		return "(secret)"
	case string:
		switch {
		case slices.Contains(unshown, name):
			return "(secret)"
		case name == "endpointUrl":
			if shown := secret.MaskURL(v); shown == v {
				return v
			} else {
				return shown + " (and a secret)"
			}
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = shownValue(path, v[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for member := range v {
			out[member] = shownValue(path+"."+member, v[member])
		}
		if v["isSecret"] == true && v["value"] != nil {
			out["value"] = "(secret)"
		}
		return out
	}
	return value
}

// laidOver is what is there with what a file says in its place.
func laidOver(there, said any) any {
	object, ok := said.(map[string]any)
	if !ok {
		if said == nil {
			return there
		}
		return said
	}
	out := map[string]any{}
	if present, ok := there.(map[string]any); ok {
		maps.Copy(out, present)
	}
	for name, value := range object {
		out[name] = laidOver(out[name], value)
	}
	return out
}
