package arm

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// methods are the operations of one path. HEAD is answered by GET's, unless it is
// there as nil.
type methods map[string]operation

// of returns the operation of a method, nil when it is not allowed.
func (m methods) of(method string) operation {
	if _, own := m[http.MethodHead]; method == http.MethodHead && !own {
		return m[http.MethodGet]
	}
	return m[method]
}

func (m methods) allow() string {
	var list []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete} {
		if m.of(method) != nil {
			list = append(list, method)
		}
	}
	return strings.Join(list, ", ")
}

// splitPath cuts a path into decoded segments. Doubled and trailing slashes count
// for nothing, and a segment is decoded once, after the cut. A scope that a client
// encoded whole, slashes and all, as the Python SDK does for extension topics, is
// one part of the path and cut again.
// Source: spec/management.md section 8.1; azure-mgmt-eventgrid 10.4.0,
// ExtensionTopicsOperations.get.
func splitPath(escaped string) ([]string, error) {
	if first, rest, _ := strings.Cut(strings.TrimLeft(escaped, "/"), "/"); len(first) > len(encodedScope) && strings.EqualFold(first[:len(encodedScope)], encodedScope) {
		escaped = encodedSlash.Replace(first) + "/" + rest
	}
	var segments []string
	for part := range strings.SplitSeq(escaped, "/") {
		if part == "" {
			continue
		}
		segment, err := url.PathUnescape(part)
		if err != nil || strings.ContainsAny(segment, "/?#\\") || strings.ContainsFunc(segment, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fault.New(fault.Invalid, "InvalidRequest", "The path segment '%.80s' holds a character that no name has.", part)
		}
		segments = append(segments, segment)
	}
	return segments, nil
}

// encodedScope begins a scope that was encoded as one segment.
const encodedScope = "%2Fsubscriptions%2F"

var encodedSlash = strings.NewReplacer("%2F", "/", "%2f", "/")

// openRoute returns the operations of the paths that need no token.
func openRoute(segments []string) methods {
	switch {
	case len(segments) == 2 && strings.EqualFold(segments[0], "metadata") && strings.EqualFold(segments[1], "endpoints"):
		return methods{http.MethodGet: metadataEndpoints}
	case len(segments) == 2 && strings.EqualFold(segments[0], strings.Trim(SchemasPath, "/")):
		return methods{http.MethodGet: getSchema}
	case len(segments) == 3 && strings.EqualFold(segments[0], "eventSubscriptions") && strings.EqualFold(segments[2], "validate"):
		return methods{http.MethodGet: validationLink, http.MethodPost: validationLink, http.MethodHead: nil}
	}
	return nil
}

// The kinds of scope that can stand before the last provider of a path.
const (
	atTenant       = "tenant"
	atSubscription = "subscription"
	atGroup        = "group"
	atResource     = "resource"
	atAny          = "any"
)

// find parses the path and returns its operations. A path is a scope, a provider
// and what that provider has there; subscriptions and resource groups are paths
// without a provider.
func find(r *request, segments []string) (methods, error) {
	cut := -1 // of the last provider; names never stand at an even place
	for i := 0; i < len(segments); i += 2 {
		if strings.EqualFold(segments[i], "providers") {
			cut = i
		}
	}
	if cut < 0 {
		return findPlain(r, segments)
	}
	scope, kind, err := scopeOf(segments[:cut])
	if err != nil {
		return nil, err
	}
	r.scope = scope
	after := segments[cut+1:]
	if len(after) < 2 || len(after) == 2 && (strings.EqualFold(after[1], "register") || strings.EqualFold(after[1], "unregister")) {
		r.id, r.rest = scope, after
		return lookup(kind, len(after))
	}
	namespace := strings.ToLower(after[0])
	r.rest = after[1:]
	pattern, id := namespace, "/"+strings.Join(segments[:min(len(segments), cut+2)], "/")
	for i, s := range r.rest {
		if i%2 == 0 {
			pattern += "/" + strings.ToLower(s)
			continue
		}
		pattern += "/*"
		r.names = append(r.names, s)
		id += "/" + r.rest[i-1] + "/" + s
	}
	switch {
	case len(r.names) == 0:
		r.id = scope
	default:
		if r.id, err = resource.ParseID(id); err != nil {
			return nil, fault.New(fault.Invalid, "InvalidRequest", "The path is not a resource id: %v.", err)
		}
	}
	if strings.HasPrefix(pattern, "microsoft.machinelearningservices/workspaces/*/") && kind == atGroup {
		return subresourceMethods, nil
	}
	if ops := routes[kind][pattern]; ops != nil {
		return ops, nil
	}
	if ops := routes[atAny][pattern]; ops != nil {
		return ops, nil
	}
	if !slices.ContainsFunc(providers, func(p provider) bool { return strings.EqualFold(p.namespace, namespace) }) {
		return nil, fault.New(fault.NotFound, "InvalidResourceNamespace", "The resource namespace '%s' is invalid.", after[0])
	}
	return nil, fault.New(fault.NotFound, "InvalidResourceType", "The resource type '%s' could not be found in the namespace '%s' at this scope.", strings.Join(typeWords(r.rest), "/"), after[0])
}

func typeWords(rest []string) []string {
	var words []string
	for i := 0; i < len(rest); i += 2 {
		words = append(words, rest[i])
	}
	return words
}

// scopeOf parses what stands before the last provider.
func scopeOf(segments []string) (resource.ID, string, error) {
	if len(segments) == 0 {
		return resource.Root, atTenant, nil
	}
	id, err := resource.ParseID("/" + strings.Join(segments, "/"))
	if err != nil {
		return id, "", fault.New(fault.NotFound, "InvalidResourceType", "The path is not a resource id: %v.", err)
	}
	switch len(segments) {
	case 2:
		return id, atSubscription, nil
	case 4:
		if !strings.EqualFold(segments[0], "providers") {
			return id, atGroup, nil
		}
	}
	return id, atResource, nil
}

// findPlain serves paths without a provider.
func findPlain(r *request, segments []string) (methods, error) {
	pattern := make([]string, len(segments))
	for i, s := range segments {
		pattern[i] = strings.ToLower(s)
		if i%2 == 1 {
			pattern[i] = "*"
		}
	}
	r.id = resource.Root
	if even := len(segments) &^ 1; even > 0 {
		id, err := resource.ParseID("/" + strings.Join(segments[:even], "/"))
		if err != nil {
			return nil, noSuchPath(segments)
		}
		r.id = id
	}
	r.rest = segments
	if ops := plainRoutes[strings.Join(pattern, "/")]; ops != nil {
		return ops, nil
	}
	return nil, noSuchPath(segments)
}

func noSuchPath(segments []string) error {
	return fault.New(fault.NotFound, "ResourceNotFound", "The path '/%.200s' is not one that the management API has.", strings.Join(segments, "/"))
}

// lookup returns the operations of the provider registry, for a path that has n
// segments after "providers": none, a namespace, a namespace and an action.
func lookup(kind string, n int) (methods, error) {
	if ops := routes[kind]["providers"+strings.Repeat("/*", n)]; ops != nil {
		return ops, nil
	}
	return nil, fault.New(fault.NotFound, "InvalidResourceType", "Providers are listed at the tenant and at a subscription, and registered at a subscription.")
}

// plainRoutes are the paths without a provider. A "*" is a name.
var plainRoutes = map[string]methods{
	"subscriptions":                              {http.MethodGet: listSubscriptions},
	"subscriptions/*":                            {http.MethodGet: getSubscription},
	"subscriptions/*/locations":                  {http.MethodGet: listLocations},
	"subscriptions/*/resources":                  {http.MethodGet: listResources},
	"subscriptions/*/resourcegroups":             {http.MethodGet: listGroups},
	"subscriptions/*/resourcegroups/*/resources": {http.MethodGet: listResources},
	"subscriptions/*/resourcegroups/*":           {http.MethodGet: getGroup, http.MethodPut: putGroup, http.MethodPatch: patchGroup, http.MethodDelete: deleteGroup},
	"tenants":                                    {http.MethodGet: listTenants},
}

// Providers, as the keys of routes begin.
const (
	grid    = "microsoft.eventgrid/"
	learn   = "microsoft.machinelearningservices/"
	auth    = "microsoft.authorization/"
	who     = "carillon.identity/"
	deliver = "carillon.delivery/"
	watch   = "carillon.audit/"
	seal    = "carillon.secrets/"
	flow    = "carillon.mlflow/"
	lineage = "carillon.openlineage/"
	kube    = "carillon.kubernetes/"
)

var singleEventSubscription = methods{
	http.MethodGet: getEventSubscription, http.MethodPut: putEventSubscription,
	http.MethodPatch: patchEventSubscription, http.MethodDelete: deleteEventSubscription,
}

// subresourceMethods hand everything below a workspace over; what is allowed is
// decided there.
var subresourceMethods = methods{
	http.MethodGet: serveSubresource, http.MethodHead: serveSubresource, http.MethodPut: serveSubresource,
	http.MethodPatch: serveSubresource, http.MethodPost: serveSubresource, http.MethodDelete: serveSubresource,
}

// eventSubscriptionRoutes are the paths of one event subscription, behind its own.
var eventSubscriptionRoutes = map[string]methods{
	"":                       singleEventSubscription,
	"/getfullurl":            {http.MethodPost: getFullURL},
	"/explain":               {http.MethodPost: explainEvent},
	"/rotatesigningkey":      {http.MethodPost: rotateSigningKey},
	"/pause":                 {http.MethodPost: pauseEventSubscription},
	"/resume":                {http.MethodPost: resumeEventSubscription},
	"/sendtestevent":         {http.MethodPost: sendTestEvent},
	"/renderevent":           {http.MethodPost: renderEvent},
	"/testfilter":            {http.MethodPost: testFilter},
	"/getdeliveryattributes": {http.MethodPost: getDeliveryAttributes},
}

// withEventSubscriptions adds the paths of event subscriptions: in the form of an extension
// of anything, and nested under their parents.
// Source: spec/management.md sections 2.2 and 2.3.
func withEventSubscriptions(routes map[string]map[string]methods) map[string]map[string]methods {
	add := func(kind, path string) {
		for action, ops := range eventSubscriptionRoutes {
			routes[kind][path+"/*"+action] = ops
		}
	}
	add(atAny, grid+"eventsubscriptions")
	for _, parent := range []string{"topics/*", "systemtopics/*", "domains/*", "domains/*/topics/*"} {
		nested := grid + parent + "/eventsubscriptions"
		routes[atGroup][nested] = methods{http.MethodGet: listNestedEventSubscriptions}
		add(atGroup, nested)
	}
	return routes
}

// routes are the paths below a provider, by what stands before it.
var routes = withEventSubscriptions(map[string]map[string]methods{
	atTenant: {
		"providers":                                 {http.MethodGet: listProviders},
		"providers/*":                               {http.MethodGet: getProvider},
		grid + "topictypes":                         {http.MethodGet: listTopicTypes},
		grid + "topictypes/*":                       {http.MethodGet: getTopicType},
		grid + "topictypes/*/eventtypes":            {http.MethodGet: listEventTypes},
		grid + "verifiedpartners":                   {http.MethodGet: listNone},
		grid + "operations":                         {http.MethodGet: listOperations},
		who + "principals":                          {http.MethodGet: listPrincipals, http.MethodPost: createPrincipal},
		who + "principals/*":                        {http.MethodGet: getPrincipal, http.MethodDelete: deletePrincipal},
		who + "principals/*/resetsecret":            {http.MethodPost: resetPrincipal},
		who + "principals/*/members/*":              {http.MethodPut: addMember, http.MethodDelete: removeMember},
		who + "principals/*/enable":                 {http.MethodPost: enablePrincipal},
		who + "principals/*/disable":                {http.MethodPost: disablePrincipal},
		who + "principals/*/revoketokens":           {http.MethodPost: revokeTokens},
		who + "principals/*/credentials":            {http.MethodPost: addCredential},
		who + "principals/*/credentials/*":          {http.MethodDelete: removeCredential},
		who + "principals/*/federatedcredentials/*": {http.MethodPut: putFederated, http.MethodDelete: removeFederated},
		seal + "masterkeys/*":                       {http.MethodGet: getMasterKey},
		seal + "masterkeys/*/rotate":                {http.MethodPost: rotateMasterKey},
		who + "signingkeys":                         {http.MethodGet: listSigningKeys},
		who + "rotatesigningkeys":                   {http.MethodPost: rotateSigningKeys},
		who + "whoami":                              {http.MethodGet: whoAmI},
	},
	atSubscription: {
		"providers":                              {http.MethodGet: listProviders},
		"providers/*":                            {http.MethodGet: getProvider},
		"providers/*/*":                          {http.MethodPost: registerProvider},
		grid + "topics":                          {http.MethodGet: listTopics},
		grid + "domains":                         {http.MethodGet: listDomains},
		grid + "systemtopics":                    {http.MethodGet: listSystemTopics},
		grid + "eventsubscriptions":              {http.MethodGet: listEventSubscriptions},
		grid + "topictypes/*/eventsubscriptions": {http.MethodGet: listEventSubscriptions},
		grid + "locations/*/eventsubscriptions":  {http.MethodGet: listEventSubscriptions},
		grid + "locations/*/topictypes/*/eventsubscriptions": {http.MethodGet: listEventSubscriptions},
		grid + "locations/*/operationsstatus/*":              {http.MethodGet: getOperationStatus},
		grid + "locations/*/operationresults/*":              {http.MethodGet: getOperationResult},
		learn + "workspaces":                                 {http.MethodGet: listWorkspaces},
		seal + "connections":                                 {http.MethodGet: listConnections},
	},
	atGroup: {
		grid + "topics":                                      {http.MethodGet: listTopics},
		grid + "topics/*":                                    {http.MethodGet: getTopic, http.MethodPut: putTopic, http.MethodPatch: patchTopic, http.MethodDelete: deleteTopic},
		grid + "topics/*/listkeys":                           {http.MethodPost: listKeys},
		grid + "topics/*/regeneratekey":                      {http.MethodPost: regenerateKey},
		grid + "topics/*/privateendpointconnections":         {http.MethodGet: listNoneOfTopic},
		grid + "topics/*/privatelinkresources":               {http.MethodGet: listNoneOfTopic},
		grid + "domains":                                     {http.MethodGet: listDomains},
		grid + "domains/*":                                   {http.MethodGet: getDomain, http.MethodPut: putDomain, http.MethodPatch: patchDomain, http.MethodDelete: deleteDomain},
		grid + "domains/*/listkeys":                          {http.MethodPost: listDomainKeys},
		grid + "domains/*/regeneratekey":                     {http.MethodPost: regenerateDomainKey},
		grid + "domains/*/privateendpointconnections":        {http.MethodGet: listNoneOfDomain},
		grid + "domains/*/privatelinkresources":              {http.MethodGet: listNoneOfDomain},
		grid + "domains/*/topics":                            {http.MethodGet: listDomainTopics},
		grid + "domains/*/topics/*":                          {http.MethodGet: getDomainTopic, http.MethodPut: putDomainTopic, http.MethodDelete: deleteDomainTopic},
		grid + "systemtopics":                                {http.MethodGet: listSystemTopics},
		grid + "systemtopics/*":                              {http.MethodGet: getSystemTopic, http.MethodPut: putSystemTopic, http.MethodPatch: patchSystemTopic, http.MethodDelete: deleteSystemTopic},
		grid + "eventsubscriptions":                          {http.MethodGet: listEventSubscriptions},
		grid + "topictypes/*/eventsubscriptions":             {http.MethodGet: listEventSubscriptions},
		grid + "locations/*/eventsubscriptions":              {http.MethodGet: listEventSubscriptions},
		grid + "locations/*/topictypes/*/eventsubscriptions": {http.MethodGet: listEventSubscriptions},
		learn + "workspaces":                                 {http.MethodGet: listWorkspaces},
		learn + "workspaces/*":                               {http.MethodGet: getWorkspace, http.MethodPut: putWorkspace, http.MethodPatch: patchWorkspace, http.MethodDelete: deleteWorkspace},
		seal + "connections":                                 {http.MethodGet: listConnections},
		seal + "connections/*":                               {http.MethodGet: getConnection, http.MethodPut: putConnection, http.MethodPatch: patchConnection, http.MethodDelete: deleteConnection},
	},
	atResource: {
		grid + "eventsubscriptions":           {http.MethodGet: listEventSubscriptionsOfSource},
		grid + "eventtypes":                   {http.MethodGet: listEventTypesOfSource},
		flow + "servers":                      {http.MethodGet: listMLflow},
		flow + "servers/*":                    {http.MethodGet: getMLflow, http.MethodPut: putMLflow, http.MethodDelete: deleteMLflow},
		kube + "clusters":                     {http.MethodGet: listClusters},
		kube + "clusters/*":                   {http.MethodGet: getCluster, http.MethodPut: putCluster, http.MethodDelete: deleteCluster},
		lineage + "receivers":                 {http.MethodGet: listLineageReceivers},
		lineage + "receivers/*":               {http.MethodGet: getLineageReceiver},
		lineage + "receivers/*/listkeys":      {http.MethodPost: listLineageKeys},
		lineage + "receivers/*/regeneratekey": {http.MethodPost: regenerateLineageKey},
	},
	atAny: {
		grid + "extensiontopics/*":      {http.MethodGet: getExtensionTopic},
		auth + "roleassignments":        {http.MethodGet: listRoleAssignments},
		auth + "roleassignments/*":      {http.MethodGet: getRoleAssignment, http.MethodPut: putRoleAssignment, http.MethodDelete: deleteRoleAssignment},
		auth + "permissions":            {http.MethodGet: listPermissions},
		auth + "denyassignments":        {http.MethodGet: listDenyAssignments},
		auth + "denyassignments/*":      {http.MethodGet: getDenyAssignment, http.MethodPut: putDenyAssignment, http.MethodDelete: deleteDenyAssignment},
		auth + "roledefinitions":        {http.MethodGet: listRoles},
		auth + "roledefinitions/*":      {http.MethodGet: getRole, http.MethodPut: putRole, http.MethodDelete: deleteRole},
		who + "checkaccess":             {http.MethodPost: checkAccess},
		watch + "records":               {http.MethodGet: listAuditRecords},
		deliver + "deadletters":         {http.MethodGet: listDeadLetters},
		deliver + "deadletters/*":       {http.MethodGet: getDeadLetter, http.MethodPost: replayDeadLetters, http.MethodDelete: deleteDeadLetter},
		deliver + "replays":             {http.MethodGet: listReplays, http.MethodPost: createReplay},
		deliver + "replays/*":           {http.MethodGet: getReplay, http.MethodDelete: cancelReplay},
		deliver + "attempts":            {http.MethodGet: listAttempts},
		deliver + "events":              {http.MethodGet: tailEvents},
		deliver + "events/*":            {http.MethodGet: getEvent},
		deliver + "events/*/deliveries": {http.MethodGet: listEventDeliveries},
		deliver + "deliverystatus":      {http.MethodGet: listDeliveryStatus},
		deliver + "deliverystatus/*":    {http.MethodGet: getDeliveryStatus},
	},
})
