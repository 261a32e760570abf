package arm

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/workspace"
)

// door is one method of one route, as the tables of this package have it.
type door struct{ method, kind, pattern string }

// doors are every method of every route there is, and every sub-resource of a workspace:
// one that is added later is among them by itself.
func doors() (list []door) {
	add := func(kind, pattern string, ops methods) {
		for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"} {
			if ops.of(method) != nil {
				list = append(list, door{method, kind, pattern})
			}
		}
	}
	for pattern, ops := range plainRoutes {
		add("", pattern, ops)
	}
	for kind, patterns := range routes {
		for pattern, ops := range patterns {
			add(kind, pattern, ops)
		}
	}
	for _, sub := range subresourcesOf(nil) {
		path := learn + "workspaces/*"
		for i, word := range sub.words {
			path += "/" + strings.ToLower(word)
			if i < len(sub.words)-1 {
				path += "/*"
			}
		}
		for _, single := range []bool{false, true} {
			for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"} {
				if verb, _ := sub.verb(method, single); verb != "" {
					list = append(list, door{method, atGroup, path + map[bool]string{true: "/*"}[single]})
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b door) int {
		return strings.Compare(a.pattern+" "+a.kind+" "+a.method, b.pattern+" "+b.kind+" "+b.method)
	})
	return list
}

// guarded is the management API with something of everything in it, and secrets that
// nobody may see who is not allowed to.
type guarded struct {
	*stack
	facts   *factLog
	names   map[string]string // by the word before it in a path: what is there
	secrets []string          // of settings
	event   string            // stands in the body of an event
}

const (
	guardedTopic  = grids + "/topics/orders"
	guardedDomain = grids + "/domains/area"
)

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{stack: newStack(t), facts: &factLog{facts: map[string]engine.Fact{}}, event: "s3cret-of-the-event"}
	key := filepath.Join(t.TempDir(), "master.key") // the one that the stack seals with
	if err := os.WriteFile(key, []byte(hex.EncodeToString(append([]byte{1}, make([]byte, 31)...))), 0o600); err != nil {
		t.Fatal(err)
	}
	g.plane.Replayer = replayer{g.broker}
	g.plane.MasterKeys = secret.Source{Kept: key}
	g.plane.MLflow = &fakeMLflow{}
	g.plane.Kubernetes = &fakeKubernetes{}
	store, authorizer := g.plane.Store, g.plane.Access
	sub := &WorkspaceAPI{Service: workspace.New(workspace.Config{Recorder: g.facts, Facts: g.facts, Workspaces: store.Workspaces}), Authorizer: authorizer}
	inner := g.handler
	g.handler = NewHandler(Config{
		Plane: g.plane, Deliveries: g.broker, TenantID: "7a000000-0000-0000-0000-000000000000", PublicURL: "https://localhost:7443", Done: g.stopping, Subresources: sub,
		Authenticate: func(r *http.Request) (access.Caller, error) {
			c, ok := g.callers[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
			if !ok {
				inner.ServeHTTP(nopWriter{}, r)
				return c, fmt.Errorf("nobody")
			}
			return c, nil
		},
	})
	close(g.stopping) // a live tail ends at once
	const hooked = `{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/in?code=s3cret-of-the-url","signing":{"version":"v1"},
		"deliveryAttributeMappings":[{"name":"X-Key","type":"Static","properties":{"value":"s3cret-of-the-header","isSecret":true}}]}}}}`
	owner := func(method, path, body string) string {
		return g.must("owner", method, path+"?api-version=2025-02-15", body).Body.String()
	}
	owner("PUT", guardedTopic, `{"location":"local"}`)
	owner("PUT", guardedDomain, `{"location":"local"}`)
	owner("PUT", guardedDomain+"/topics/inner", `{}`)
	g.secrets = []string{"s3cret-of-the-url", "s3cret-of-the-header"}
	for _, source := range []string{guardedTopic, wsID, guardedDomain, guardedDomain + "/topics/inner"} {
		made := owner("PUT", source+"/providers/Microsoft.EventGrid/eventSubscriptions/es1", hooked)
		g.secrets = append(g.secrets, regexp.MustCompile(`whsec_[A-Za-z0-9+/=]+`).FindString(made))
	}
	for _, id := range []string{guardedTopic, guardedDomain, wsID + "/providers/Carillon.OpenLineage/receivers/default"} {
		var keys struct{ Key1, Key2 string }
		if err := json.Unmarshal([]byte(owner("POST", id+"/listKeys", "")), &keys); err != nil || keys.Key1 == "" {
			t.Fatalf("keys of %s: %v", id, err)
		}
		g.secrets = append(g.secrets, keys.Key1, keys.Key2)
	}
	item, _ := store.EventSubscriptions.Get(resource.EventSubscriptionKey(resource.MustID(guardedTopic), "es1"))
	letter := g.broker.bury(&item.Value, 7)
	g.broker.letters[letter].Event = json.RawMessage(`{"id":"e1","data":"` + g.event + `"}`)
	var person struct{ ObjectID, Password string }
	if err := json.Unmarshal([]byte(owner("POST", "/providers/Carillon.Identity/principals", `{"name":"worker"}`)), &person); err != nil || person.ObjectID == "" {
		t.Fatalf("a principal: %v", err)
	}
	g.secrets = append(g.secrets, person.Password)
	group := owner("POST", "/providers/Carillon.Identity/principals", `{"name":"ops","principalType":"Group"}`)
	members := regexp.MustCompile(`"objectId":"([^"]+)"`).FindStringSubmatch(group)[1]
	role, assignment, denial := "0a000000-0000-4000-8000-000000000001", "0b000000-0000-4000-8000-000000000001", "0d000000-0000-4000-8000-000000000001"
	owner("PUT", sub0+"/providers/Microsoft.Authorization/roleDefinitions/"+role, `{"properties":{"roleName":"Small","assignableScopes":["/"],"permissions":[{"actions":["x/read"]}]}}`)
	owner("PUT", local+"/providers/Microsoft.Authorization/roleAssignments/"+assignment, `{"properties":{"roleDefinitionId":"`+access.RoleReader+`","principalId":"`+person.ObjectID+`"}}`)
	owner("PUT", local+"/providers/Microsoft.Authorization/denyAssignments/"+denial, `{"properties":{"denyAssignmentName":"no","permissions":[{"actions":["x/read"]}],"principals":[{"id":"`+access.Everyone+`"}]}}`)
	owner("PUT", wsID+"/experiments/churn/runs/run1", `{"properties":{"status":"Running"}}`)
	owner("PUT", wsID+"/models/m1/versions/1", `{"properties":{}}`)
	owner("PUT", wsID+"/onlineEndpoints/e1", `{"properties":{"state":"Transitioning","computeType":"ACI"}}`)
	owner("PUT", mlflowID, `{"properties":{"url":"https://m.example","token":"s3cret-of-mlflow"}}`)
	g.secrets = append(g.secrets, "s3cret-of-mlflow")
	owner("PUT", wsID+"/providers/Carillon.Kubernetes/clusters/prod", `{"properties":{"server":"https://k.example","token":"s3cret-of-kubernetes"}}`)
	g.secrets = append(g.secrets, "s3cret-of-kubernetes")
	owner("PUT", local+"/providers/Carillon.Secrets/connections/bus", `{"properties":{"resourceId":"`+busID.String()+`","connectionString":"SharedAccessKey=s3cret-of-bus"}}`)
	owner("PUT", local+"/providers/Carillon.Secrets/connections/bucket", `{"properties":{"bucket":"b","accessKeyId":"id","secretAccessKey":"s3cret-of-bucket","sessionToken":"s3cret-of-session"}}`)
	g.secrets = append(g.secrets, "s3cret-of-bus", "s3cret-of-bucket", "s3cret-of-session")
	g.names = map[string]string{
		"servers": "default", "receivers": "default", "clusters": "prod", "connections": "bus",
		"subscriptions": manage.FirstSubscription, "resourcegroups": "local", "topics": "orders", "domains": "area", "domains/topics": "inner", "systemtopics": "default",
		"eventsubscriptions": "es1", "principals": members, "members": person.ObjectID, "credentials": "key1", "federatedcredentials": "ci",
		"masterkeys": "default", "workspaces": "default", "roleassignments": assignment, "roledefinitions": role, "denyassignments": denial, "deadletters": letter,
		"replays": "r1", "events": "e1", "deliverystatus": "default", "locations": "local", "topictypes": "Microsoft.EventGrid.Topics", "extensiontopics": "default",
		"providers": "Microsoft.EventGrid", "experiments": "churn", "runs": "run1", "models": "m1", "versions": "1", "onlineendpoints": "e1", "driftmonitors": "d1",
		"operationsstatus": uuid.NewString(), "operationresults": uuid.NewString(),
	}
	return g
}

const sub0 = sub

// busID is what the connections of the guarded server are for.
var busID = resource.MustID(local + "/providers/Microsoft.ServiceBus/namespaces/ns")

// nopWriter swallows an answer.
type nopWriter struct{}

func (nopWriter) Header() http.Header         { return http.Header{} }
func (nopWriter) Write(p []byte) (int, error) { return len(p), nil }
func (nopWriter) WriteHeader(int)             {}

var digestSeed = maphash.MakeSeed()

// replayer notes replays of the log where those of dead letters are noted.
type replayer struct{ *fakeBroker }

func (r replayer) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replays = append(r.replays, text)
}

func (r replayer) CountLog(_ context.Context, j broker.LogReplay) (broker.LogReplay, error) {
	return j, nil
}

func (r replayer) ReplayLog(_ context.Context, j broker.LogReplay) (broker.LogReplay, error) {
	r.note("log")
	return j, nil
}

func (r replayer) LogReplays(resource.UID) []broker.LogReplay { return nil }

func (r replayer) CancelLogReplay(context.Context, resource.UID, string) (broker.LogReplay, bool, error) {
	r.note("cancel")
	return broker.LogReplay{}, true, nil
}

// digest is all the state that there is; what is in a map is added up, in no order.
func (g *guarded) digest() (sum uint64) {
	add := func(parts ...string) { sum += maphash.String(digestSeed, strings.Join(parts, "\x00")) }
	for key, value := range g.kv.Dump() {
		add("stored", key, value)
	}
	g.broker.mu.Lock()
	defer g.broker.mu.Unlock()
	for uid, es := range g.broker.live {
		add("live", uid.String(), fmt.Sprint(es.Active, es.Paused, es.FilterGeneration, es.Destination.WebHook.SealedURL))
	}
	for id := range g.broker.letters {
		add("letter", id)
	}
	add(g.broker.replays...)
	g.facts.mu.Lock()
	defer g.facts.mu.Unlock()
	for key, f := range g.facts.facts {
		add("fact", key, string(f.Data))
	}
	add(g.facts.events...)
	return sum
}

// place is where a door of the kind any or resource is knocked at.
var places = []string{wsID, guardedTopic, local, sub, "", guardedDomain, guardedTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"}

// path returns the address of a door, and the id that its check is about. fresh names
// something that is not there yet.
func (g *guarded) path(d door, place int, fresh bool) (path string, scope, target resource.ID) {
	prefix := ""
	switch d.kind {
	case "":
	case atSubscription:
		prefix = sub
	case atGroup:
		prefix = local
	case atResource:
		prefix = places[place%2]
	case atAny:
		prefix = places[place%len(places)]
	}
	words := strings.Split(d.pattern, "/")
	named := 0
	for i, w := range words {
		if w != "*" {
			continue
		}
		named = i
		before := words[i-1]
		if before == "topics" && slices.Contains(words[:i], "domains") {
			before = "domains/topics"
		}
		name, ok := g.names[before]
		switch {
		case !ok:
			name = "register"
		case before == "principals" && (strings.HasSuffix(d.pattern, "principals/*") || slices.Contains(words, "resetsecret")) && !slices.Contains(words, "members"):
			name = g.names["members"]
		}
		words[i] = name
	}
	if fresh && named == len(words)-1 && named > 0 {
		if uuid.Validate(words[named]) == nil {
			words[named] = "0f000000-0000-4000-8000-00000000000f"
		} else {
			words[named] = "fresh-one"
		}
	}
	scope = resource.Root
	if prefix != "" {
		scope = resource.MustID(prefix)
	}
	if d.kind == "" {
		path = "/" + strings.Join(words, "/")
		if even := len(words) &^ 1; even > 0 {
			scope = resource.MustID("/" + strings.Join(words[:even], "/"))
		}
		return path, scope, scope
	}
	if words[0] == "providers" {
		return prefix + "/" + strings.Join(words, "/"), scope, scope
	}
	path = prefix + "/providers/" + strings.Join(words, "/")
	even := 1 + (len(words)-1)&^1
	target = scope
	if even > 1 {
		target = resource.MustID(prefix + "/providers/" + strings.Join(words[:even], "/"))
	}
	return path, scope, target
}

// need is one permission.
type need struct {
	action string
	data   bool
	scope  resource.ID
}

// needs returns what a caller has to have for a door to change anything or to show a
// secret: of each list, one. The rule is that of ARM, method and path to action; what
// differs from it is named. Source: spec/access.md sections 6, 9 and 10.
func needs(d door, scope, target resource.ID) (all [][]need) {
	const es = "Microsoft.EventGrid/eventSubscriptions/"
	kinds := strings.Split(d.pattern, "/")
	var typed []string
	for i, w := range kinds {
		if w != "*" && (i == 0 || i%2 == 1 && d.kind != "") {
			typed = append(typed, w)
		}
	}
	last := kinds[len(kinds)-1]
	verb := map[string]string{"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete", "POST": "action"}[d.method]
	bodies := func() (any []need) { // who may read the bodies of events
		for at := scope; !at.IsZero(); at = at.Parent() {
			any = append(any, need{access.ActionReceive, true, at})
			if at.Type() != "" {
				any = append(any, need{at.Type() + "/write", false, at})
			}
			if at.Equal(resource.Root) {
				break
			}
		}
		return any
	}
	own := func(verb string, at resource.ID) []need { // of an event subscription, in either form
		return []need{{es + verb, false, at}, {strings.Join(typed[:min(len(typed), 4)], "/") + "/" + verb, false, at}, {"Microsoft.EventGrid/topics/eventSubscriptions/" + verb, false, at}}
	}
	switch {
	case d.kind == "" || strings.HasPrefix(d.pattern, "providers"):
		return [][]need{{{"Microsoft.Resources/subscriptions/resourceGroups/" + verb, false, target}}}
	case strings.HasPrefix(d.pattern, who+"checkaccess"), strings.HasPrefix(d.pattern, who+"whoami"):
		return nil
	case strings.HasPrefix(d.pattern, who) && verb == "read":
		return [][]need{{{"Microsoft.Authorization/principals/read", false, resource.Root}}}
	case strings.HasPrefix(d.pattern, who):
		return [][]need{{{"Microsoft.Authorization/principals/write", false, resource.Root}}}
	case strings.HasPrefix(d.pattern, flow), strings.HasPrefix(d.pattern, kube):
		return [][]need{{{"Microsoft.MachineLearningServices/workspaces/" + map[bool]string{true: "read", false: "write"}[verb == "read"], false, scope}}}
	case strings.HasPrefix(d.pattern, lineage) && verb == "read":
		return [][]need{{{"Microsoft.MachineLearningServices/workspaces/read", false, scope}}}
	case strings.HasPrefix(d.pattern, lineage):
		all = append(all, []need{{"Microsoft.MachineLearningServices/workspaces/listKeys/action", false, scope}})
		if last == "regeneratekey" {
			all = append(all, []need{{"Microsoft.MachineLearningServices/workspaces/write", false, scope}})
		}
		return all
	case strings.HasPrefix(d.pattern, seal+"masterkeys"):
		return [][]need{{{"Microsoft.Authorization/masterKeys/" + map[bool]string{true: "read", false: "write"}[verb == "read"], false, resource.Root}}}
	case strings.HasPrefix(d.pattern, deliver) && d.method == "DELETE", strings.HasPrefix(d.pattern, deliver+"replays") && d.method == "POST":
		all = append(all, own("write", scope))
		if strings.HasPrefix(d.pattern, deliver+"replays") && d.method == "POST" {
			all = append(all, bodies())
		}
		return all
	case strings.HasPrefix(d.pattern, deliver):
		return [][]need{bodies()}
	case (d.method == "PUT") && (strings.HasSuffix(d.pattern, "roleassignments/*") || strings.HasSuffix(d.pattern, "denyassignments/*")):
		return [][]need{{{strings.Join(typed, "/") + "/write", false, scope}}}
	case strings.HasPrefix(d.pattern, learn+"workspaces/*/"):
		if verb == "action" {
			verb = "write"
		}
		if last == "lifecycleevents" { // who reads them reads the objects
			for _, kind := range []string{"experiments/runs", "models/versions", "onlineEndpoints"} {
				all = append(all, []need{{"Microsoft.MachineLearningServices/workspaces/" + kind + "/read", false, target}})
			}
		}
	case d.method == "POST" && slices.Contains([]string{"pause", "resume", "rotatesigningkey", "sendtestevent", "renderevent"}, last):
		typed, verb = typed[:len(typed)-1], "write"
	case d.method == "POST" && slices.Contains([]string{"explain", "testfilter"}, last):
		scope = target.Parent()
		return [][]need{{{strings.Join(typed[:len(typed)-1], "/") + "/read", false, target}}, bodies()}
	}
	if len(typed) > 0 {
		all = append(all, []need{{strings.Join(typed, "/") + "/" + verb, false, target}})
	}
	if d.pattern == seal+"connections/*" && verb == "write" {
		all = append(all, []need{{busID.Type() + "/write", false, busID}})
	}
	if strings.Contains(d.pattern, "eventsubscriptions/*") && (verb == "write" || verb == "delete") && resource.MustID(wsID).Contains(target) {
		all = append(all, []need{{access.ActionWorkspaceWrite, false, resource.MustID(wsID)}}) // the strict rule
	}
	return all
}

// bodiesOf are requests that a door may be knocked with; the first ones fit most doors.
func bodiesOf(me, worker string) []string {
	return []string{
		`{"location":"local","tags":{"a":"b"},"properties":{"status":"Completed","destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/other"}},
		"source":"` + wsID + `","topicType":"Microsoft.MachineLearningServices.Workspaces","roleDefinitionId":"` + access.RoleOwner + `","principalId":"` + me + `",
		"roleName":"Wide","assignableScopes":["/"],"denyAssignmentName":"d","permissions":[{"actions":["*"],"dataActions":["*"]}],"principals":[{"id":"` + worker + `"}],
		"state":"Healthy","computeType":"ACI","url":"https://n.example","server":"https://l.example","resourceId":"` + busID.String() + `","connectionString":"SharedAccessKey=another"}}`,
		`{"location":"local","tags":{"a":"c"}}`,
		`{"name":"made","keyName":"key1","ids":[],"eventId":"e1","action":"*","principalId":"` + me + `","issuer":"https://id.example","subject":"s","audiences":["api://AzureADTokenExchange"],"type":"secret"}`,
		`{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/in?code=s3cret"}}}}`,
		`{"properties":{}}`, `{}`, ``, `null`, `[`,
	}
}

// permit is what a caller was given or denied, as the test keeps it.
type permit struct {
	scope               resource.ID
	actions, notActions []string
	data, notData       []string
	deny                bool
}

var stars = strings.NewReplacer(`\*`, `.*`)

func matches(patterns []string, action string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return regexp.MustCompile("(?is)^" + stars.Replace(regexp.QuoteMeta(p)) + "$").MatchString(action)
	})
}

// allows decides as spec/access.md section 7 says, in the plainest way.
func allows(permits []permit, n need) bool {
	granted := false
	for _, p := range permits {
		grant, except := p.actions, p.notActions
		if n.data {
			grant, except = p.data, p.notData
		}
		inside := p.scope.Equal(resource.Root) || strings.HasPrefix(strings.ToLower(n.scope.String())+"/", strings.ToLower(p.scope.String())+"/")
		if inside && matches(grant, n.action) && !matches(except, n.action) {
			if p.deny {
				return false
			}
			granted = true
		}
	}
	return granted
}

func satisfied(permits []permit, all [][]need) bool {
	for _, any := range all {
		if !slices.ContainsFunc(any, func(n need) bool { return allows(permits, n) }) {
			return false
		}
	}
	return true
}

// give gives a new caller its permits and returns its name.
func (g *guarded) give(t *testing.T, permits []permit) string {
	t.Helper()
	c := access.Caller{ObjectID: uuid.NewString(), Name: "knocker", Type: access.User}
	name := c.ObjectID
	g.callers[name] = c
	directory := g.plane.Directory
	for i, p := range permits {
		block := []access.Permission{{Actions: p.actions, NotActions: p.notActions, DataActions: p.data, NotDataActions: p.notData}}
		if len(p.actions)+len(p.data) == 0 {
			continue
		}
		if p.deny {
			if _, _, err := directory.Deny(t.Context(), access.DenyAssignment{Name: uuid.NewString(), Title: "no", Scope: p.scope, Permissions: block, Principals: []access.Denied{{ID: c.ObjectID}}}, g.callers["owner"]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		role, err := directory.Define(t.Context(), access.Role{ID: uuid.NewString(), Name: fmt.Sprintf("%s %d", name, i), AssignableScopes: []string{"/"}, Permissions: block}, g.callers["owner"])
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := directory.Assign(t.Context(), access.Assignment{Name: uuid.NewString(), Scope: p.scope, RoleID: role.ID, PrincipalID: c.ObjectID, PrincipalType: access.User}, g.callers["owner"]); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// knock makes one request and fails the test when it changed or showed what it must
// not. It returns whether something changed or was shown, and the status.
func (g *guarded) knock(t *testing.T, caller string, permits []permit, d door, place int, fresh bool, body string) (opened bool, status int) {
	t.Helper()
	path, scope, target := g.path(d, place, fresh)
	may := caller == "owner" || satisfied(permits, needs(d, scope, target))
	if may && (d.pattern == who+"rotatesigningkeys" || d.pattern == who+"signingkeys") {
		return false, 0 // there is no RSA key here: making one takes long, and package access tests that
	}
	before := g.digest()
	if d.method == "GET" || d.method == "HEAD" {
		body = ""
	}
	w := g.do(caller, d.method, (&url.URL{Path: path}).EscapedPath()+"?api-version=2026-11-01", body)
	changed := g.digest() != before
	reads := d.method == "GET" || d.method == "HEAD"
	told := func() string {
		return fmt.Sprintf("%s %s by %+v answers %d %.300s; it needs %+v", d.method, path, permits, w.Code, w.Body, needs(d, scope, target))
	}
	if changed && (reads || !may) {
		t.Errorf("state is changed: %s", told())
	}
	opened = changed
	for _, s := range g.secrets {
		if s != "" && strings.Contains(w.Body.String(), s) {
			opened = true
			if reads || !may {
				t.Errorf("a secret is shown: %s", told())
			}
		}
	}
	if strings.Contains(w.Body.String(), g.event) {
		opened = true
		if !may {
			t.Errorf("an event is shown: %s", told())
		}
	}
	return opened, w.Code
}

// TestEveryDoorNeedsItsPermission knocks at every door as nobody, and as somebody who has
// everything but what the door needs.
func TestEveryDoorNeedsItsPermission(t *testing.T) {
	g := newGuarded(t)
	everything := func(but need) []permit {
		p := permit{scope: resource.Root, actions: []string{"*"}, data: []string{"*"}}
		if but.data {
			p.notData = []string{but.action}
		} else {
			p.notActions = []string{but.action}
		}
		return []permit{p}
	}
	callers := map[string]string{}
	for _, d := range doors() {
		for place := range places {
			if d.kind != atAny && place > 0 && !(d.kind == atResource && place == 1) {
				continue
			}
			for _, fresh := range []bool{false, true} {
				body := bodiesOf(uuid.NewString(), g.names["members"])[0]
				g.knock(t, "nobody", nil, d, place, fresh, body)
				_, scope, target := g.path(d, place, fresh)
				for _, any := range needs(d, scope, target) {
					if len(any) != 1 {
						continue // somebody without all of them is the fuzzer's
					}
					permits := everything(any[0])
					key := fmt.Sprint(permits)
					if callers[key] == "" {
						callers[key] = g.give(t, permits)
					}
					opened, status := g.knock(t, callers[key], permits, d, place, fresh, body)
					if mutates := d.method != "GET" && d.method != "HEAD"; mutates && !opened && status < 400 && !strings.HasPrefix(d.pattern, "providers") {
						path, _, _ := g.path(d, place, fresh)
						t.Errorf("%s %s without %s answers %d", d.method, path, any[0].action, status)
					}
				}
			}
		}
	}
}

// TestDoorsOpen keeps the tests beside it honest: with the bodies that they knock with,
// an owner gets through most doors that are there to change or show something.
func TestDoorsOpen(t *testing.T) {
	closed := map[string]bool{}
	var mutating []door
	for _, d := range doors() {
		if d.method != "GET" && d.method != "HEAD" {
			mutating = append(mutating, d)
			closed[fmt.Sprint(d)] = true
		}
	}
	all := len(closed)
	slices.SortStableFunc(mutating, func(a, b door) int { // what removes things comes last
		return strings.Compare(strings.Replace(a.method, "DELETE", "ZAP", 1), strings.Replace(b.method, "DELETE", "ZAP", 1))
	})
	for body := range 3 {
		for _, fresh := range []bool{false, true} {
			g := newGuarded(t)
			for _, d := range mutating {
				for place := range places {
					if d.kind != atAny && place > 0 || !closed[fmt.Sprint(d)] {
						continue
					}
					if opened, _ := g.knock(t, "owner", nil, d, place, fresh, bodiesOf(g.callers["reader"].ObjectID, g.names["members"])[body]); !opened {
						continue
					}
					delete(closed, fmt.Sprint(d))
					if d.method == "DELETE" {
						g = newGuarded(t)
					}
				}
			}
		}
	}
	if 10*len(closed) > 4*all {
		t.Errorf("of %d doors %d stay closed to an owner: %v", all, len(closed), slices.Sorted(maps.Keys(closed)))
	}
}

// knocks reads what a fuzzer made up.
type knocks struct{ data []byte }

func (k *knocks) next(n int) int {
	if len(k.data) == 0 {
		return 0
	}
	b := int(k.data[0])
	k.data = k.data[1:]
	return b % n
}

// pick returns some of a list.
func (k *knocks) pick(list []string) (some []string) {
	for range k.next(3) {
		some = append(some, list[k.next(len(list))])
	}
	return some
}

// FuzzAuthorization gives somebody some roles and deny assignments at some scopes, and
// lets them knock at some doors: nothing changes and no secret is shown without what the
// door needs. Which that is, the plain rules of this file say.
func FuzzAuthorization(f *testing.F) {
	all := doors()
	actions := []string{"*", "*/read", "*/write", "*/action", "*/delete", "Microsoft.EventGrid/*", "Microsoft.EventGrid/topics/*", "Microsoft.EventGrid/*/read",
		"Microsoft.EventGrid/eventSubscriptions/*", "microsoft.eventgrid/EVENTSUBSCRIPTIONS/write", "Microsoft.EventGrid/domains/*", "Microsoft.EventGrid/systemTopics/*",
		"Microsoft.MachineLearningServices/*", "Microsoft.MachineLearningServices/workspaces/*/write", "Microsoft.MachineLearningServices/workspaces/write",
		"Microsoft.Authorization/*", "Microsoft.Authorization/*/read", "Microsoft.Authorization/roleAssignments/*", "Microsoft.Resources/*", "Carillon.Delivery/*", "x/read"}
	data := []string{"*", "Microsoft.EventGrid/events/*", access.ActionReceive, access.ActionSend}
	scopes := []string{"/", sub, local, sub + "/resourceGroups/loca", wsID, guardedTopic, grids + "/topics/order", guardedDomain, guardedTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"}
	f.Fuzz(func(t *testing.T, made []byte) {
		k := &knocks{made}
		g := newGuarded(t)
		// Roles are about one door, or its relatives, more often than not.
		theme, at := all[(k.next(256)<<8|k.next(256))%len(all)], k.next(len(places))
		_, scope, target := g.path(theme, at, false)
		about, aboutData := []string{"*"}, []string{"*"}
		for _, any := range needs(theme, scope, target) {
			for _, n := range any {
				if n.data {
					aboutData = append(aboutData, n.action)
				} else {
					about = append(about, n.action)
				}
			}
		}
		pick := func(about, others []string) []string {
			if k.next(2) == 0 {
				return k.pick(about)
			}
			return k.pick(others)
		}
		var permits []permit
		if k.next(2) == 0 {
			permits = append(permits, permit{scope: resource.Root, actions: []string{"*"}, data: []string{"*"}})
		}
		for range 1 + k.next(3) {
			permits = append(permits, permit{
				scope: resource.MustID(scopes[k.next(len(scopes))]), deny: k.next(3) == 1,
				actions: pick(about, actions), notActions: pick(about, actions), data: pick(aboutData, data), notData: pick(aboutData, data),
			})
		}
		caller := g.give(t, permits)
		bodies := bodiesOf(caller, g.names["members"])
		for range 24 {
			if len(k.data) == 0 {
				return
			}
			d, place := theme, at
			if k.next(3) == 0 {
				d, place = all[(k.next(256)<<8|k.next(256))%len(all)], k.next(len(places))
			}
			if changed, _ := g.knock(t, caller, permits, d, place, k.next(2) == 1, bodies[k.next(1+k.next(len(bodies)))]); changed {
				return // what it may do now is another question
			}
		}
	})
}
