package interop

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/eventgrid/armeventgrid/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning/v4"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armsubscriptions"
)

const (
	subscription  = "00000000-0000-0000-0000-000000000001"
	topicType     = "Microsoft.MachineLearningServices.Workspaces"
	wholeHour     = 60
	newestOfGrid  = "2025-02-15" // what armeventgrid v2.3.0 sends
	beforeThatOne = "2022-06-15" // what v2.2.0 sends
)

// ownerToken is a credential that is the token of `carillon token`.
type ownerToken struct{}

func (ownerToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: os.Getenv("CARILLON_TOKEN"), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// resourceManager makes the options of management clients.
func (s *server) resourceManager(version string) *arm.ClientOptions {
	o := s.options
	o.APIVersion = version
	o.Cloud.Services = map[cloud.ServiceName]cloud.ServiceConfiguration{
		cloud.ResourceManager: {Endpoint: s.url, Audience: "https://management.azure.com"},
	}
	return &arm.ClientOptions{ClientOptions: o}
}

func (s *server) grid(t *testing.T, version string) *armeventgrid.ClientFactory {
	t.Helper()
	f, err := armeventgrid.NewClientFactory(subscription, ownerToken{}, s.resourceManager(version))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// must returns a value that came without an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// done waits for what was begun. One that is done at once costs no pause: the client's
// own is half a minute.
func done[T any](t *testing.T) func(*runtime.Poller[T], error) T {
	return func(p *runtime.Poller[T], err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		v, err := p.PollUntilDone(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("the client waited %v", took)
		}
		return v
	}
}

// names reads every page of a list.
func names[T any](t *testing.T, pager *runtime.Pager[T], of func(T) []*string) []string {
	t.Helper()
	var list []string
	for pager.More() {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range of(page) {
			list = append(list, *name)
		}
	}
	return list
}

// code fails unless an error is the answer with a status and a code.
func code(t *testing.T, err error, status int, code string) {
	t.Helper()
	if answer := new(azcore.ResponseError); !errors.As(err, &answer) || answer.StatusCode != status || answer.ErrorCode != code {
		t.Errorf("%v, want %d %s", err, status, code)
	}
}

func unique(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()[:8]) }

// hook is a webhook that consents, refuses or says nothing.
type hook struct {
	url  string
	mu   sync.Mutex
	link string // of the last handshake
}

func newHook(t *testing.T, behaviour string) *hook {
	h := &hook{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var events []struct {
			Data struct{ ValidationCode, ValidationURL string }
		}
		if r.Header.Get("aeg-event-type") != "SubscriptionValidation" || json.Unmarshal(body, &events) != nil || len(events) != 1 {
			return
		}
		h.mu.Lock()
		h.link = events[0].Data.ValidationURL
		h.mu.Unlock()
		switch behaviour {
		case "consent":
			_, _ = fmt.Fprintf(w, `{"validationResponse":%q}`, events[0].Data.ValidationCode)
		case "refuse":
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(s.Close)
	h.url = s.URL + "/hook?code=s3cret"
	return h
}

func (h *hook) destination() *armeventgrid.WebHookEventSubscriptionDestination {
	return &armeventgrid.WebHookEventSubscriptionDestination{
		EndpointType: to.Ptr(armeventgrid.EndpointTypeWebHook), Properties: &armeventgrid.WebHookEventSubscriptionDestinationProperties{EndpointURL: &h.url},
	}
}

func (h *hook) eventSubscription() armeventgrid.EventSubscription {
	return armeventgrid.EventSubscription{Properties: &armeventgrid.EventSubscriptionProperties{Destination: h.destination()}}
}

func TestTopics(t *testing.T) {
	for _, version := range []string{newestOfGrid, beforeThatOne} {
		t.Run(version, func(t *testing.T) {
			topics, name := newServer(t).grid(t, version).NewTopicsClient(), unique("go")
			_, err := topics.Get(t.Context(), "local", name, nil)
			code(t, err, 404, "ResourceNotFound")
			made := done[armeventgrid.TopicsClientCreateOrUpdateResponse](t)(topics.BeginCreateOrUpdate(t.Context(), "local", name, armeventgrid.Topic{Location: to.Ptr("local")}, nil))
			again := done[armeventgrid.TopicsClientCreateOrUpdateResponse](t)(topics.BeginCreateOrUpdate(t.Context(), "local", name,
				armeventgrid.Topic{Location: to.Ptr("local"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil))
			if *again.ID != *made.ID || *again.Tags["a"] != "b" || *again.Properties.ProvisioningState != armeventgrid.TopicProvisioningStateSucceeded {
				t.Errorf("replaced: %+v", again)
			}
			done[armeventgrid.TopicsClientUpdateResponse](t)(topics.BeginUpdate(t.Context(), "local", name, armeventgrid.TopicUpdateParameters{Tags: map[string]*string{"c": to.Ptr("d")}}, nil))
			got := must[armeventgrid.TopicsClientGetResponse](t)(topics.Get(t.Context(), "local", strings.ToUpper(name), nil))
			if *got.Name != name || len(got.Tags) != 1 || *got.Tags["c"] != "d" || *got.Properties.Endpoint != *made.Properties.Endpoint {
				t.Errorf("updated: %+v", got)
			}
			keys := must[armeventgrid.TopicsClientListSharedAccessKeysResponse](t)(topics.ListSharedAccessKeys(t.Context(), "local", name, nil))
			after := done[armeventgrid.TopicsClientRegenerateKeyResponse](t)(topics.BeginRegenerateKey(t.Context(), "local", name, armeventgrid.TopicRegenerateKeyRequest{KeyName: to.Ptr("key1")}, nil))
			if *after.Key1 == *keys.Key1 || *after.Key2 != *keys.Key2 {
				t.Error("regenerateKey made another key than it was asked for")
			}
			for range 2 { // a missing one is no error
				done[armeventgrid.TopicsClientDeleteResponse](t)(topics.BeginDelete(t.Context(), "local", name, nil))
			}
		})
	}
}

func TestTopicPages(t *testing.T) {
	s := newServer(t)
	topics, group := s.grid(t, newestOfGrid).NewTopicsClient(), unique("rg")
	groups := must[*armresources.ResourceGroupsClient](t)(armresources.NewResourceGroupsClient(subscription, ownerToken{}, s.resourceManager("")))
	must[armresources.ResourceGroupsClientCreateOrUpdateResponse](t)(groups.CreateOrUpdate(t.Context(), group, armresources.ResourceGroup{Location: to.Ptr("local")}, nil))
	var want []string
	for i := range 45 {
		want = append(want, fmt.Sprintf("topic-%02d", i))
		done[armeventgrid.TopicsClientCreateOrUpdateResponse](t)(topics.BeginCreateOrUpdate(t.Context(), group, want[i], armeventgrid.Topic{Location: to.Ptr("local")}, nil))
	}
	pages := 0
	inGroup := names(t, topics.NewListByResourceGroupPager(group, nil), func(p armeventgrid.TopicsClientListByResourceGroupResponse) (list []*string) {
		pages++
		for _, topic := range p.Value {
			list = append(list, topic.Name)
		}
		return list
	})
	if !slices.Equal(inGroup, want) || pages != 3 {
		t.Errorf("%d pages with %v", pages, inGroup)
	}
	bySubscription := names(t, topics.NewListBySubscriptionPager(&armeventgrid.TopicsClientListBySubscriptionOptions{Filter: to.Ptr("contains(name,'topic-4')"), Top: to.Ptr[int32](2)}),
		func(p armeventgrid.TopicsClientListBySubscriptionResponse) (list []*string) {
			for _, topic := range p.Value {
				list = append(list, topic.Name)
			}
			return list
		})
	if !slices.Equal(bySubscription, want[40:]) {
		t.Errorf("by subscription: %v", bySubscription)
	}
	_, err := topics.NewListByResourceGroupPager(group, &armeventgrid.TopicsClientListByResourceGroupOptions{Top: to.Ptr[int32](101)}).NextPage(t.Context())
	code(t, err, 400, "InvalidRequest")
	_, err = topics.NewListByResourceGroupPager(group, &armeventgrid.TopicsClientListByResourceGroupOptions{Filter: to.Ptr("location eq 'local'")}).NextPage(t.Context())
	code(t, err, 400, "InvalidFilterInQueryString")

	deleted := done[armresources.ResourceGroupsClientDeleteResponse](t)
	deleted(groups.BeginDelete(t.Context(), group, nil))
	_, err = topics.Get(t.Context(), group, want[0], nil)
	code(t, err, 404, "ResourceGroupNotFound")
}

// The scope form, the nested form, and both kinds of sources, in one walk each.
func TestEventSubscriptions(t *testing.T) {
	s := newServer(t)
	grid, h := s.grid(t, newestOfGrid), newHook(t, "consent")
	scoped := grid.NewEventSubscriptionsClient()
	for _, source := range []string{s.topic(t, "EventGridSchema").id, group + "/providers/Microsoft.MachineLearningServices/workspaces/default"} {
		name := unique("es")
		body := h.eventSubscription()
		body.Properties.Labels = []*string{to.Ptr("a")}
		body.Properties.RetryPolicy = &armeventgrid.RetryPolicy{MaxDeliveryAttempts: to.Ptr[int32](5), EventTimeToLiveInMinutes: to.Ptr[int32](wholeHour)}
		body.Properties.Filter = &armeventgrid.EventSubscriptionFilter{SubjectBeginsWith: to.Ptr("models/"), AdvancedFilters: []armeventgrid.AdvancedFilterClassification{
			&armeventgrid.NumberInRangeAdvancedFilter{OperatorType: to.Ptr(armeventgrid.AdvancedFilterOperatorTypeNumberInRange), Key: to.Ptr("data.n"), Values: [][]*float64{{to.Ptr(1.0), to.Ptr(2.5)}}},
			&armeventgrid.IsNotNullAdvancedFilter{OperatorType: to.Ptr(armeventgrid.AdvancedFilterOperatorTypeIsNotNull), Key: to.Ptr("data.n")},
		}}
		for range 2 {
			made := done[armeventgrid.EventSubscriptionsClientCreateOrUpdateResponse](t)(scoped.BeginCreateOrUpdate(t.Context(), source, name, body, nil))
			if *made.Properties.ProvisioningState != armeventgrid.EventSubscriptionProvisioningStateSucceeded || *made.Name != name {
				t.Errorf("made %+v", made)
			}
		}
		got := must[armeventgrid.EventSubscriptionsClientGetResponse](t)(scoped.Get(t.Context(), source, name, nil))
		shown, _ := got.Properties.Destination.(*armeventgrid.WebHookEventSubscriptionDestination)
		if shown == nil || shown.Properties.EndpointURL != nil || *shown.Properties.EndpointBaseURL != strings.TrimSuffix(h.url, "?code=s3cret") {
			t.Errorf("destination %+v", got.Properties.Destination)
		}
		if between, ok := got.Properties.Filter.AdvancedFilters[0].(*armeventgrid.NumberInRangeAdvancedFilter); !ok || *between.Values[0][1] != 2.5 {
			t.Errorf("filter %+v", got.Properties.Filter.AdvancedFilters[0])
		}
		updated := done[armeventgrid.EventSubscriptionsClientUpdateResponse](t)(scoped.BeginUpdate(t.Context(), source, name,
			armeventgrid.EventSubscriptionUpdateParameters{Destination: shown, Labels: []*string{to.Ptr("b")}}, nil))
		if *updated.Properties.Labels[0] != "b" || *updated.Properties.RetryPolicy.MaxDeliveryAttempts != 5 {
			t.Errorf("updated %+v", updated.Properties)
		}
		full := must[armeventgrid.EventSubscriptionsClientGetFullURLResponse](t)(scoped.GetFullURL(t.Context(), source, name, nil))
		if *full.EndpointURL != h.url {
			t.Errorf("after an update with what was shown the URL is %s", *full.EndpointURL)
		}
		must[armeventgrid.EventSubscriptionsClientGetDeliveryAttributesResponse](t)(scoped.GetDeliveryAttributes(t.Context(), source, name, nil))
		for range 2 {
			done[armeventgrid.EventSubscriptionsClientDeleteResponse](t)(scoped.BeginDelete(t.Context(), source, name, nil))
		}
	}
	_, err := scoped.BeginCreateOrUpdate(t.Context(), group, "on-a-group", h.eventSubscription(), nil)
	code(t, err, 400, "InvalidRequest") // no resource group raises events here

	at := s.topic(t, "EventGridSchema")
	topic := at.id[strings.LastIndexByte(at.id, '/')+1:]
	nested := grid.NewTopicEventSubscriptionsClient()
	for range 2 {
		done[armeventgrid.TopicEventSubscriptionsClientCreateOrUpdateResponse](t)(nested.BeginCreateOrUpdate(t.Context(), "local", topic, "es-nested", h.eventSubscription(), nil))
	}
	done[armeventgrid.TopicEventSubscriptionsClientUpdateResponse](t)(nested.BeginUpdate(t.Context(), "local", topic, "es-nested", armeventgrid.EventSubscriptionUpdateParameters{Labels: []*string{to.Ptr("n")}}, nil))
	one := must[armeventgrid.EventSubscriptionsClientGetResponse](t)(scoped.Get(t.Context(), at.id, "es-nested", nil))
	if *one.Properties.Labels[0] != "n" {
		t.Error("the nested form and the scope form are two objects")
	}
	listed := names(t, nested.NewListPager("local", topic, nil), func(p armeventgrid.TopicEventSubscriptionsClientListResponse) (list []*string) {
		for _, es := range p.Value {
			list = append(list, es.Name)
		}
		return list
	})
	if !slices.Equal(listed, []string{"es-nested"}) {
		t.Errorf("nested list %v", listed)
	}
	done[armeventgrid.TopicEventSubscriptionsClientDeleteResponse](t)(nested.BeginDelete(t.Context(), "local", topic, "es-nested", nil))
}

// All list calls, and in which of them an event subscription stands.
func TestEventSubscriptionLists(t *testing.T) {
	s := newServer(t)
	c, at := s.grid(t, newestOfGrid).NewEventSubscriptionsClient(), s.topic(t, "EventGridSchema")
	name := unique("es")
	done[armeventgrid.EventSubscriptionsClientCreateOrUpdateResponse](t)(c.BeginCreateOrUpdate(t.Context(), at.id, name, newHook(t, "consent").eventSubscription(), nil))
	type list = armeventgrid.EventSubscriptionsListResult
	of := func(p list) (names []*string) {
		for _, es := range p.Value {
			names = append(names, es.Name)
		}
		return names
	}
	topic, custom := at.id[strings.LastIndexByte(at.id, '/')+1:], "Microsoft.EventGrid.Topics"
	for what, got := range map[string]struct {
		in   bool
		list []string
	}{
		"one resource": {true, names(t, c.NewListByResourcePager("local", "Microsoft.EventGrid", "topics", topic, nil), func(p armeventgrid.EventSubscriptionsClientListByResourceResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"regional, subscription": {true, names(t, c.NewListRegionalBySubscriptionPager("Local", nil), func(p armeventgrid.EventSubscriptionsClientListRegionalBySubscriptionResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"regional, group": {true, names(t, c.NewListRegionalByResourceGroupPager("local", "local", nil), func(p armeventgrid.EventSubscriptionsClientListRegionalByResourceGroupResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"regional, subscription, its type": {true, names(t, c.NewListRegionalBySubscriptionForTopicTypePager("local", custom, nil), func(p armeventgrid.EventSubscriptionsClientListRegionalBySubscriptionForTopicTypeResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"regional, group, its type": {true, names(t, c.NewListRegionalByResourceGroupForTopicTypePager("local", "local", custom, nil), func(p armeventgrid.EventSubscriptionsClientListRegionalByResourceGroupForTopicTypeResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"regional, group, another type": {false, names(t, c.NewListRegionalByResourceGroupForTopicTypePager("local", "local", topicType, nil), func(p armeventgrid.EventSubscriptionsClientListRegionalByResourceGroupForTopicTypeResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"another region": {false, names(t, c.NewListRegionalBySubscriptionPager("westeurope", nil), func(p armeventgrid.EventSubscriptionsClientListRegionalBySubscriptionResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"global, subscription": {false, names(t, c.NewListGlobalBySubscriptionPager(nil), func(p armeventgrid.EventSubscriptionsClientListGlobalBySubscriptionResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"global, group": {false, names(t, c.NewListGlobalByResourceGroupPager("local", nil), func(p armeventgrid.EventSubscriptionsClientListGlobalByResourceGroupResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"global, subscription, a type": {false, names(t, c.NewListGlobalBySubscriptionForTopicTypePager(custom, nil), func(p armeventgrid.EventSubscriptionsClientListGlobalBySubscriptionForTopicTypeResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
		"global, group, a type": {false, names(t, c.NewListGlobalByResourceGroupForTopicTypePager("local", custom, nil), func(p armeventgrid.EventSubscriptionsClientListGlobalByResourceGroupForTopicTypeResponse) []*string {
			return of(p.EventSubscriptionsListResult)
		})},
	} {
		if slices.Contains(got.list, name) != got.in {
			t.Errorf("%s: %v, want it there: %v", what, got.list, got.in)
		}
	}
}

// A poller waits while somebody has to open the link, and ends with the reason.
func TestHandshakes(t *testing.T) {
	s := newServer(t)
	c, at := s.grid(t, newestOfGrid).NewEventSubscriptionsClient(), s.topic(t, "EventGridSchema")
	_, err := c.BeginCreateOrUpdate(t.Context(), at.id, "es-refused", newHook(t, "refuse").eventSubscription(), nil)
	code(t, err, 400, "Url validation")

	silent := newHook(t, "silent")
	begun, err := c.BeginCreateOrUpdate(t.Context(), at.id, "es-by-hand", silent.eventSubscription(), nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := begun.ResumeToken()
	if err != nil || begun.Done() {
		t.Fatalf("the poller is done before the link was opened, %v", err)
	}
	if _, err := begun.Poll(t.Context()); err != nil || begun.Done() {
		t.Fatalf("after one more look: done %v, %v", begun.Done(), err)
	}
	silent.mu.Lock()
	link := silent.link
	silent.mu.Unlock()
	opened, err := s.client.Get(link)
	if err != nil || opened.StatusCode != 200 {
		t.Fatalf("%v %v", opened, err)
	}
	resumed := done[armeventgrid.EventSubscriptionsClientCreateOrUpdateResponse](t)(c.BeginCreateOrUpdate(t.Context(), at.id, "es-by-hand", armeventgrid.EventSubscription{},
		&armeventgrid.EventSubscriptionsClientBeginCreateOrUpdateOptions{ResumeToken: token}))
	if *resumed.Properties.ProvisioningState != armeventgrid.EventSubscriptionProvisioningStateSucceeded {
		t.Errorf("resumed: %v", *resumed.Properties.ProvisioningState)
	}
}

func TestSystemTopicsAndWorkspaces(t *testing.T) {
	s := newServer(t)
	grid, h := s.grid(t, newestOfGrid), newHook(t, "consent")
	workspaces := must[*armmachinelearning.WorkspacesClient](t)(armmachinelearning.NewWorkspacesClient(subscription, ownerToken{}, s.resourceManager("")))
	workspace, name := unique("ws"), unique("st")
	for range 2 {
		made := done[armmachinelearning.WorkspacesClientCreateOrUpdateResponse](t)(workspaces.BeginCreateOrUpdate(t.Context(), "local", workspace,
			armmachinelearning.Workspace{Location: to.Ptr("local"), Properties: &armmachinelearning.WorkspaceProperties{FriendlyName: to.Ptr("churn")}}, nil))
		if *made.Properties.ProvisioningState != armmachinelearning.ProvisioningStateSucceeded || *made.Properties.FriendlyName != "churn" {
			t.Errorf("workspace %+v", made.Properties)
		}
	}
	done[armmachinelearning.WorkspacesClientUpdateResponse](t)(workspaces.BeginUpdate(t.Context(), "local", workspace, armmachinelearning.WorkspaceUpdateParameters{Tags: map[string]*string{"a": to.Ptr("b")}}, nil))
	got := must[armmachinelearning.WorkspacesClientGetResponse](t)(workspaces.Get(t.Context(), "local", workspace, nil))
	if *got.Tags["a"] != "b" {
		t.Errorf("tags %v", got.Tags)
	}

	topics := grid.NewSystemTopicsClient()
	for range 2 {
		made := done[armeventgrid.SystemTopicsClientCreateOrUpdateResponse](t)(topics.BeginCreateOrUpdate(t.Context(), "local", name, armeventgrid.SystemTopic{
			Location: to.Ptr("local"), Properties: &armeventgrid.SystemTopicProperties{Source: got.ID, TopicType: to.Ptr(strings.ToLower(topicType))},
		}, nil))
		if *made.Properties.TopicType != topicType {
			t.Errorf("topic type %s", *made.Properties.TopicType)
		}
	}
	done[armeventgrid.SystemTopicsClientUpdateResponse](t)(topics.BeginUpdate(t.Context(), "local", name, armeventgrid.SystemTopicUpdateParameters{Tags: map[string]*string{"c": to.Ptr("d")}}, nil))
	extension := must[armeventgrid.ExtensionTopicsClientGetResponse](t)(grid.NewExtensionTopicsClient().Get(t.Context(), *got.ID, nil))
	if !strings.HasSuffix(*extension.Properties.SystemTopic, "/systemTopics/"+name) {
		t.Errorf("extension topic %s", *extension.Properties.SystemTopic)
	}
	nested := grid.NewSystemTopicEventSubscriptionsClient()
	for range 2 {
		done[armeventgrid.SystemTopicEventSubscriptionsClientCreateOrUpdateResponse](t)(nested.BeginCreateOrUpdate(t.Context(), "local", name, "es-runs", h.eventSubscription(), nil))
	}
	done[armeventgrid.SystemTopicEventSubscriptionsClientUpdateResponse](t)(nested.BeginUpdate(t.Context(), "local", name, "es-runs", armeventgrid.EventSubscriptionUpdateParameters{Labels: []*string{to.Ptr("x")}}, nil))
	full := must[armeventgrid.SystemTopicEventSubscriptionsClientGetFullURLResponse](t)(nested.GetFullURL(t.Context(), "local", name, "es-runs", nil))
	if *full.EndpointURL != h.url {
		t.Errorf("URL %s", *full.EndpointURL)
	}
	for range 2 {
		done[armeventgrid.SystemTopicEventSubscriptionsClientDeleteResponse](t)(nested.BeginDelete(t.Context(), "local", name, "es-runs", nil))
		done[armeventgrid.SystemTopicsClientDeleteResponse](t)(topics.BeginDelete(t.Context(), "local", name, nil))
		done[armmachinelearning.WorkspacesClientDeleteResponse](t)(workspaces.BeginDelete(t.Context(), "local", workspace, nil))
	}
}

func TestDomains(t *testing.T) {
	s := newServer(t)
	grid, h, name := s.grid(t, newestOfGrid), newHook(t, "consent"), unique("shops")
	domains, topics := grid.NewDomainsClient(), grid.NewDomainTopicsClient()
	for range 2 {
		made := done[armeventgrid.DomainsClientCreateOrUpdateResponse](t)(domains.BeginCreateOrUpdate(t.Context(), "local", name, armeventgrid.Domain{Location: to.Ptr("local")}, nil))
		if *made.Properties.ProvisioningState != armeventgrid.DomainProvisioningStateSucceeded || !*made.Properties.AutoCreateTopicWithFirstSubscription {
			t.Errorf("domain %+v", made.Properties)
		}
		done[armeventgrid.DomainTopicsClientCreateOrUpdateResponse](t)(topics.BeginCreateOrUpdate(t.Context(), "local", name, "berlin", nil))
	}
	done[armeventgrid.DomainsClientUpdateResponse](t)(domains.BeginUpdate(t.Context(), "local", name, armeventgrid.DomainUpdateParameters{Tags: map[string]*string{"a": to.Ptr("b")}}, nil))
	got := must[armeventgrid.DomainsClientGetResponse](t)(domains.Get(t.Context(), "local", name, nil))
	keys := must[armeventgrid.DomainsClientListSharedAccessKeysResponse](t)(domains.ListSharedAccessKeys(t.Context(), "local", name, nil))
	after := must[armeventgrid.DomainsClientRegenerateKeyResponse](t)(domains.RegenerateKey(t.Context(), "local", name, armeventgrid.DomainRegenerateKeyRequest{KeyName: to.Ptr("key1")}, nil))
	if *got.Tags["a"] != "b" || *after.Key1 == *keys.Key1 || *after.Key2 != *keys.Key2 {
		t.Errorf("domain %+v", got)
	}
	listed := names(t, topics.NewListByDomainPager("local", name, nil), func(p armeventgrid.DomainTopicsClientListByDomainResponse) (list []*string) {
		for _, topic := range p.Value {
			list = append(list, topic.Name)
		}
		return list
	})
	if !slices.Equal(listed, []string{"berlin"}) {
		t.Errorf("domain topics %v", listed)
	}

	ofDomain, ofTopic := grid.NewDomainEventSubscriptionsClient(), grid.NewDomainTopicEventSubscriptionsClient()
	for range 2 {
		done[armeventgrid.DomainEventSubscriptionsClientCreateOrUpdateResponse](t)(ofDomain.BeginCreateOrUpdate(t.Context(), "local", name, "es-all", h.eventSubscription(), nil))
		done[armeventgrid.DomainTopicEventSubscriptionsClientCreateOrUpdateResponse](t)(ofTopic.BeginCreateOrUpdate(t.Context(), "local", name, "berlin", "es-one", h.eventSubscription(), nil))
	}
	labels := armeventgrid.EventSubscriptionUpdateParameters{Labels: []*string{to.Ptr("x")}}
	done[armeventgrid.DomainEventSubscriptionsClientUpdateResponse](t)(ofDomain.BeginUpdate(t.Context(), "local", name, "es-all", labels, nil))
	done[armeventgrid.DomainTopicEventSubscriptionsClientUpdateResponse](t)(ofTopic.BeginUpdate(t.Context(), "local", name, "berlin", "es-one", labels, nil))
	full := must[armeventgrid.DomainTopicEventSubscriptionsClientGetFullURLResponse](t)(ofTopic.GetFullURL(t.Context(), "local", name, "berlin", "es-one", nil))
	if *full.EndpointURL != h.url {
		t.Errorf("URL %s", *full.EndpointURL)
	}
	byTopic := names(t, grid.NewEventSubscriptionsClient().NewListByDomainTopicPager("local", name, "berlin", nil), func(p armeventgrid.EventSubscriptionsClientListByDomainTopicResponse) (list []*string) {
		for _, es := range p.Value {
			list = append(list, es.Name)
		}
		return list
	})
	if !slices.Equal(byTopic, []string{"es-one"}) {
		t.Errorf("by domain topic %v", byTopic)
	}
	for range 2 {
		done[armeventgrid.DomainTopicEventSubscriptionsClientDeleteResponse](t)(ofTopic.BeginDelete(t.Context(), "local", name, "berlin", "es-one", nil))
		done[armeventgrid.DomainEventSubscriptionsClientDeleteResponse](t)(ofDomain.BeginDelete(t.Context(), "local", name, "es-all", nil))
		done[armeventgrid.DomainTopicsClientDeleteResponse](t)(topics.BeginDelete(t.Context(), "local", name, "berlin", nil))
		done[armeventgrid.DomainsClientDeleteResponse](t)(domains.BeginDelete(t.Context(), "local", name, nil))
	}
}

func TestCatalogueAndTheRestOfARM(t *testing.T) {
	s := newServer(t)
	grid := s.grid(t, newestOfGrid)
	types := names(t, grid.NewTopicTypesClient().NewListPager(nil), func(p armeventgrid.TopicTypesClientListResponse) (list []*string) {
		for _, one := range p.Value {
			list = append(list, one.Name)
		}
		return list
	})
	events := names(t, grid.NewTopicTypesClient().NewListEventTypesPager(topicType, nil), func(p armeventgrid.TopicTypesClientListEventTypesResponse) (list []*string) {
		for _, one := range p.Value {
			if *one.Properties.IsInDefaultSet {
				list = append(list, one.Name)
			}
		}
		return list
	})
	if !slices.Contains(types, topicType) || len(events) != 5 {
		t.Errorf("topic types %v, event types %v", types, events)
	}
	operations := names(t, grid.NewOperationsClient().NewListPager(nil), func(p armeventgrid.OperationsClientListResponse) (list []*string) {
		for _, one := range p.Value {
			list = append(list, one.Name)
		}
		return list
	})
	if !slices.Contains(operations, "Microsoft.EventGrid/topics/write") {
		t.Errorf("operations %v", operations)
	}
	at := s.topic(t, "EventGridSchema")
	links := names(t, grid.NewPrivateLinkResourcesClient().NewListByResourcePager("local", "topics", at.id[strings.LastIndexByte(at.id, '/')+1:], nil),
		func(p armeventgrid.PrivateLinkResourcesClientListByResourceResponse) []*string {
			return make([]*string, len(p.Value))
		})
	if len(links) != 0 {
		t.Errorf("%d private links", len(links))
	}

	subscriptions := must[*armsubscriptions.Client](t)(armsubscriptions.NewClient(ownerToken{}, s.resourceManager("")))
	if got := must[armsubscriptions.ClientGetResponse](t)(subscriptions.Get(t.Context(), subscription, nil)); *got.State != armsubscriptions.SubscriptionStateEnabled {
		t.Errorf("subscription %+v", got)
	}
	places := names(t, subscriptions.NewListLocationsPager(subscription, nil), func(p armsubscriptions.ClientListLocationsResponse) (list []*string) {
		for _, one := range p.Value {
			list = append(list, one.Name)
		}
		return list
	})
	tenants := names(t, must[*armsubscriptions.TenantsClient](t)(armsubscriptions.NewTenantsClient(ownerToken{}, s.resourceManager(""))).NewListPager(nil),
		func(p armsubscriptions.TenantsClientListResponse) (list []*string) {
			for _, one := range p.Value {
				list = append(list, one.TenantID)
			}
			return list
		})
	if !slices.Contains(places, "local") || len(tenants) != 1 {
		t.Errorf("locations %v, tenants %v", places, tenants)
	}
	resources := must[*armresources.Client](t)(armresources.NewClient(subscription, ownerToken{}, s.resourceManager("")))
	listed := names(t, resources.NewListByResourceGroupPager("local", &armresources.ClientListByResourceGroupOptions{Filter: to.Ptr("resourceType eq 'Microsoft.EventGrid/topics'")}),
		func(p armresources.ClientListByResourceGroupResponse) (list []*string) {
			for _, one := range p.Value {
				list = append(list, one.ID)
			}
			return list
		})
	if !slices.Contains(listed, at.id) {
		t.Errorf("resources %v", listed)
	}
	if there := must[armresources.ClientCheckExistenceByIDResponse](t)(resources.CheckExistenceByID(t.Context(), at.id, newestOfGrid, nil)); !there.Success {
		t.Error("HEAD says that the topic is not there")
	}
	providers := must[*armresources.ProvidersClient](t)(armresources.NewProvidersClient(subscription, ownerToken{}, s.resourceManager("")))
	if got := must[armresources.ProvidersClientRegisterResponse](t)(providers.Register(t.Context(), "Microsoft.EventGrid", nil)); *got.RegistrationState != "Registered" {
		t.Errorf("provider %s", *got.RegistrationState)
	}
}

func TestSignInToTheManagementAPI(t *testing.T) {
	s := newServer(t)
	var who struct{ AppID, Password, Tenant, ObjectID string }
	s.manage(t, "POST", "/providers/Carillon.Identity/principals", "2026-11-01", map[string]any{"name": unique("go")}, &who)
	read := func(secret string) error {
		credential, err := azidentity.NewClientSecretCredential(who.Tenant, who.AppID, secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: s.options, DisableInstanceDiscovery: true})
		if err != nil {
			t.Fatal(err)
		}
		topics, err := armeventgrid.NewTopicsClient(subscription, credential, s.resourceManager(""))
		if err != nil {
			t.Fatal(err)
		}
		_, err = topics.NewListByResourceGroupPager("local", nil).NextPage(t.Context())
		return err
	}
	code(t, read(who.Password), 403, "AuthorizationFailed")
	s.manage(t, "PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+newGUID(), "2022-04-01", map[string]any{"properties": map[string]any{
		"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7", "principalId": who.ObjectID,
	}}, nil)
	if err := read(who.Password); err != nil {
		t.Errorf("as a reader: %v", err)
	}
	err := read("wrong")
	failed := new(azidentity.AuthenticationFailedError)
	if !errors.As(err, &failed) || !regexp.MustCompile(`invalid_client[\s\S]*AADSTS7000215`).MatchString(err.Error()) {
		t.Errorf("with a wrong secret: %v", err)
	}
}
