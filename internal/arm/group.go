package arm

import (
	"slices"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// groupBody is a resource group on the wire. Source: spec/management.md section 12.
type groupBody struct {
	trackedBody
	ManagedBy  any             `json:"managedBy"`
	Properties provisionedBody `json:"properties"`
}

type provisionedBody struct {
	ProvisioningState string `json:"provisioningState"`
}

func groupOf(g resource.Item[resource.ResourceGroup]) groupBody {
	b := groupBody{trackedBody: trackedOf(g.Value.Meta, resource.TypeResourceGroup, g.ETag()), Properties: provisionedBody{string(resource.Succeeded)}}
	if b.Tags == nil {
		b.Tags = map[string]string{}
	}
	return b
}

func (r *request) groupChange() manage.Tracked {
	f, t := r.tracked()
	t.Problems = *f.problems
	return t
}

func getGroup(a *api, r *request) (answer, error) {
	g, err := a.Plane.Group(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: g.ETag(), body: groupOf(g)}, nil
}

func putGroup(a *api, r *request) (answer, error) {
	g, created, err := a.Plane.PutGroup(r.ctx, r.caller, r.id, r.groupChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	status := 200
	if created {
		status = 201
	}
	return answer{status: status, etag: g.ETag(), body: groupOf(g)}, nil
}

func patchGroup(a *api, r *request) (answer, error) {
	g, err := a.Plane.PatchGroup(r.ctx, r.caller, r.id, r.groupChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: 200, etag: g.ETag(), body: groupOf(g)}, nil
}

// deleteGroup answers 200, or 404 for a group that is not there: the Go SDK takes
// 200 and 202 only. Source: spec/management.md section 12.
func deleteGroup(a *api, r *request) (answer, error) {
	existed, err := a.Plane.DeleteGroup(r.ctx, r.caller, r.id, r.precondition())
	if err == nil && !existed {
		err = fault.New(fault.NotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", r.id.Name())
	}
	return answer{status: 200}, err
}

func listGroups(a *api, r *request) (answer, error) {
	groups, err := a.Plane.Groups(r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	keep, err := parseTagFilter(r.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	groups = slices.DeleteFunc(groups, func(g resource.Item[resource.ResourceGroup]) bool { return !keep(g.Value.Tags) })
	return a.page(r, entriesOf(groups, func(g *resource.Item[resource.ResourceGroup]) entry {
		return entry{g.Key, g.Value.ID.Name(), func() any { return groupOf(*g) }}
	}))
}

// subscriptionBody is the billing kind of subscription.
// Source: spec/management.md section 12.
type subscriptionBody struct {
	ID                   string             `json:"id"`
	SubscriptionID       string             `json:"subscriptionId"`
	DisplayName          string             `json:"displayName"`
	State                string             `json:"state"`
	TenantID             string             `json:"tenantId"`
	AuthorizationSource  string             `json:"authorizationSource"`
	ManagedByTenants     []any              `json:"managedByTenants"`
	Tags                 any                `json:"tags"`
	SubscriptionPolicies subscriptionPolicy `json:"subscriptionPolicies"`
}

type subscriptionPolicy struct {
	LocationPlacementID string `json:"locationPlacementId"`
	QuotaID             string `json:"quotaId"`
	SpendingLimit       string `json:"spendingLimit"`
}

func (a *api) subscriptionBody(id resource.ID) subscriptionBody {
	return subscriptionBody{
		ID: id.String(), SubscriptionID: id.Name(), DisplayName: "Local", State: "Enabled", TenantID: a.TenantID,
		AuthorizationSource: "RoleBased", ManagedByTenants: []any{},
		SubscriptionPolicies: subscriptionPolicy{"Public_2014-09-01", "PayAsYouGo_2014-09-01", "Off"},
	}
}

func listSubscriptions(a *api, r *request) (answer, error) {
	list := []subscriptionBody{}
	if id, visible := a.Plane.Subscription(r.caller); visible {
		list = append(list, a.subscriptionBody(id))
	}
	return ok(struct {
		Value []subscriptionBody `json:"value"`
		Count any                `json:"count"`
	}{list, map[string]any{"type": "Total", "value": len(list)}}), nil
}

func getSubscription(a *api, r *request) (answer, error) {
	id, err := a.Plane.GetSubscription(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return ok(a.subscriptionBody(id)), nil
}

// tenantBody is the one tenant. Source: spec/management.md section 12.
type tenantBody struct {
	ID             string   `json:"id"`
	TenantID       string   `json:"tenantId"`
	DisplayName    string   `json:"displayName"`
	DefaultDomain  string   `json:"defaultDomain"`
	Domains        []string `json:"domains"`
	TenantType     string   `json:"tenantType"`
	TenantCategory string   `json:"tenantCategory"`
	CountryCode    string   `json:"countryCode"`
}

func listTenants(a *api, _ *request) (answer, error) {
	return whole([]tenantBody{{
		ID: "/tenants/" + a.TenantID, TenantID: a.TenantID, DisplayName: "Local", DefaultDomain: "local", Domains: []string{"local"},
		TenantType: "AAD", TenantCategory: "Home", CountryCode: "US",
	}}), nil
}

// locationBody is a region. Source: spec/management.md section 12.
type locationBody struct {
	ID                  string            `json:"id"`
	Name                string            `json:"name"`
	Type                string            `json:"type"`
	DisplayName         string            `json:"displayName"`
	RegionalDisplayName string            `json:"regionalDisplayName"`
	Metadata            map[string]string `json:"metadata"`
}

func listLocations(a *api, r *request) (answer, error) {
	id, err := a.Plane.GetSubscription(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	var list []locationBody
	for _, name := range a.Plane.Locations() {
		list = append(list, locationBody{
			ID: id.String() + "/locations/" + name, Name: name, Type: "Region", DisplayName: name, RegionalDisplayName: name,
			Metadata: map[string]string{"regionType": "Physical", "regionCategory": "Recommended"},
		})
	}
	return whole(list), nil
}
