package arm

import (
	"fmt"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// resourceBody is a resource of any type in a list of resources.
// Source: spec/management.md section 12.
type resourceBody struct {
	trackedBody
	Kind     any `json:"kind,omitempty"`
	SKU      any `json:"sku,omitempty"`
	Identity any `json:"identity,omitempty"`

	ProvisioningState string `json:"provisioningState,omitempty"` // these three where $expand asks for them
	CreatedTime       string `json:"createdTime,omitempty"`
	ChangedTime       string `json:"changedTime,omitempty"`
}

// listResources lists what lies in a subscription or a resource group, whatever its
// type, after $filter.
func listResources(a *api, r *request) (answer, error) {
	found, err := a.Plane.Resources(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	keep, err := parseResourceFilter(r.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	expand := strings.ToLower(r.query.Get("$expand"))
	var entries []entry
	add := func(m resource.Meta, key string, b resourceBody) {
		if !keep(b.trackedBody) {
			return
		}
		if strings.Contains(expand, "provisioningstate") {
			b.ProvisioningState = string(resource.Succeeded)
		}
		if strings.Contains(expand, "createdtime") {
			b.CreatedTime = armTime(m.Created.At)
		}
		if strings.Contains(expand, "changedtime") {
			b.ChangedTime = armTime(m.Modified.At)
		}
		entries = append(entries, entry{key, b.Name, func() any { return b }})
	}
	for _, t := range found.Topics {
		b := a.topicBody(t)
		add(t.Value.Meta, t.Key, resourceBody{trackedBody: b.trackedBody, Kind: b.Kind, SKU: b.SKU, Identity: b.Identity})
	}
	for _, d := range found.Domains {
		b := a.domainBody(d)
		add(d.Value.Meta, d.Key, resourceBody{trackedBody: b.trackedBody, Kind: b.Kind, SKU: b.SKU, Identity: b.Identity})
	}
	for _, t := range found.SystemTopics {
		b := a.systemTopicBody(t)
		add(t.Value.Meta, t.Key, resourceBody{trackedBody: b.trackedBody, Identity: b.Identity})
	}
	for _, w := range found.Workspaces {
		b := a.workspaceBody(w)
		add(w.Value.Meta, w.Key, resourceBody{trackedBody: b.trackedBody, Kind: b.Kind, SKU: b.SKU, Identity: b.Identity})
	}
	return a.page(r, entries)
}

// parseResourceFilter reads the $filter of lists of resources: comparisons by eq and ne
// of resourceType, resourceGroup, location and name, substringof('x',name), tagName eq
// 'x' and behind it tagValue eq 'y', all joined by and. "" keeps everything.
// Source: spec/management.md section 12.
func parseResourceFilter(text string) (func(trackedBody) bool, error) {
	var conditions []func(trackedBody) bool
	keep := func(b trackedBody) bool {
		for _, holds := range conditions {
			if !holds(b) {
				return false
			}
		}
		return true
	}
	if strings.TrimSpace(text) == "" {
		return keep, nil
	}
	p := nameFilter{rest: text}
	for {
		holds, err := p.resourceCondition()
		if err == nil && !p.word("and") && strings.TrimSpace(p.rest) != "" {
			err = fmt.Errorf("nothing but and is expected at '%.60s'", strings.TrimSpace(p.rest))
		}
		if err != nil {
			return nil, &fault.Error{
				Kind: fault.Invalid, Code: "InvalidFilterInQueryString", Target: "$filter",
				Message: fmt.Sprintf("The $filter cannot be used: %v. It may hold resourceType, resourceGroup, location and name with eq or ne, substringof('x',name), "+
					"and tagName eq 'x' and tagValue eq 'y', joined by and.", err),
			}
		}
		conditions = append(conditions, holds)
		if strings.TrimSpace(p.rest) == "" {
			return keep, nil
		}
	}
}

func (p *nameFilter) resourceCondition() (func(trackedBody) bool, error) {
	if p.word("substringof") {
		if !p.sign("(") {
			return nil, fmt.Errorf("substringof takes ('x',name)")
		}
		text, err := p.literal()
		if err == nil && (!p.sign(",") || !p.word("name") || !p.sign(")")) {
			err = fmt.Errorf("substringof takes ('x',name)")
		}
		text = strings.ToLower(text)
		return func(b trackedBody) bool { return strings.Contains(strings.ToLower(b.Name), text) }, err
	}
	if tagged, err := p.tagCondition(); tagged != nil || err != nil {
		return func(b trackedBody) bool { return tagged(b.Tags) }, err
	}
	for property, of := range resourceProperties {
		if !p.word(property) {
			continue
		}
		equal := p.word("eq")
		if !equal && !p.word("ne") {
			return nil, fmt.Errorf("after %s comes eq or ne, not '%.60s'", property, strings.TrimSpace(p.rest))
		}
		text, err := p.literal()
		return func(b trackedBody) bool { return strings.EqualFold(of(b), text) == equal }, err
	}
	return nil, fmt.Errorf("a condition is expected at '%.60s'", strings.TrimSpace(p.rest))
}

// resourceProperties are what the $filter of resources compares.
var resourceProperties = map[string]func(trackedBody) string{
	"name":         func(b trackedBody) string { return b.Name },
	"resourceType": func(b trackedBody) string { return b.Type },
	"location":     func(b trackedBody) string { return b.Location },
	"resourceGroup": func(b trackedBody) string {
		id, _ := resource.ParseID(b.ID) // it is one that was parsed before
		return id.ResourceGroup()
	},
}
