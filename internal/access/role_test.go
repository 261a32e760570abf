package access

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	tests := []struct {
		pattern, action string
		want            bool
	}{
		{"*", "Microsoft.EventGrid/topics/write", true},
		{"*", "", true},
		{"*/read", "Microsoft.EventGrid/topics/read", true},
		{"*/read", "Microsoft.EventGrid/topics/readers", false},
		{"*/read", "read", false},
		{"*/read", "/read", true},
		{"Microsoft.EventGrid/*", "microsoft.eventgrid/topics/eventsubscriptions/write", true},
		{"Microsoft.EventGrid/*", "Microsoft.EventGridX/topics/write", false},
		{"MICROSOFT.EVENTGRID/TOPICS/READ", "Microsoft.EventGrid/topics/read", true},
		{"Microsoft.EventGrid/topics/read", "Microsoft.EventGrid/topics/read/x", false},
		{"Microsoft.Authorization/*/Write", "Microsoft.Authorization/roleAssignments/write", true},
		{"Microsoft.Authorization/*/Write", "Microsoft.Authorization/write", false},
		{"Microsoft.MachineLearningServices/workspaces/*/write", "Microsoft.MachineLearningServices/workspaces/write", false},
		{"Microsoft.MachineLearningServices/workspaces/*/write", "Microsoft.MachineLearningServices/workspaces/a/b/write", true},
		{"a*b*c", "abc", true},
		{"a*b*c", "axbxbc", true},
		{"a*b*c", "acb", false},
		{"a*a", "a", false},
		{"a**b", "ab", true},
		{"", "", true},
		{"", "x", false},
		{"Microsoft.EventGrid/topics/read", "MicrosoftXEventGrid/topics/read", false},
	}
	for _, tt := range tests {
		t.Run(tt.pattern+" "+tt.action, func(t *testing.T) {
			if got := patterns([]string{tt.pattern})[0].match(strings.ToLower(tt.action)); got != tt.want {
				t.Errorf("match = %v, want %v", got, tt.want)
			}
		})
	}
}

// The matcher and a regular expression made of the same pattern agree.
func FuzzPattern(f *testing.F) {
	f.Add("a*b*c", "axbxc")
	f.Add("*/read", "x/y/read")
	f.Add("Microsoft.*/topics/*", "microsoft.eventgrid/topics/read")
	f.Fuzz(func(t *testing.T, text, action string) {
		text, action = strings.ToLower(text), strings.ToLower(action)
		parts := strings.Split(text, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re, err := regexp.Compile("(?s)^(?:" + strings.Join(parts, ".*") + ")$")
		if err != nil || strings.ToValidUTF8(text+action, "") != text+action {
			t.Skip()
		}
		if got, want := patterns([]string{text})[0].match(action), re.MatchString(action); got != want {
			t.Errorf("pattern %q, action %q: match = %v, want %v", text, action, got, want)
		}
	})
}

func TestBuiltInRoles(t *testing.T) {
	// Source: spec/access.md section 8.
	want := map[string]string{
		"Owner":                     "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
		"Contributor":               "b24988ac-6180-42a0-ab88-20f7382dd24c",
		"Reader":                    "acdd72a7-3385-48ef-bd42-f606fba81ae7",
		"User Access Administrator": "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
		"Role Based Access Control Administrator": "f58310d9-a9f6-439a-9e8d-f62e7b41a168",
		"EventGrid Contributor":                   "1e241071-0855-49ea-94dc-649edcd759de",
		"EventGrid EventSubscription Contributor": "428e0ff0-5e57-4d9c-a221-2c70d0e0a443",
		"EventGrid EventSubscription Reader":      "2414bbcf-6497-4faf-8c65-045460748405",
		"EventGrid Data Sender":                   "d5a91429-5739-47e2-a06b-3470a27159e7",
		"EventGrid Data Receiver":                 "78cbd9e7-9798-4e2e-9b5a-547d9ebb31fb",
		"EventGrid Data Contributor":              "1d8c3fe3-8864-474b-8749-01e3783e8157",
		"AzureML Data Scientist":                  "f6c7c914-8db3-469d-8ca1-694a8f32e121",
		"AzureML Compute Operator":                "e503ece1-11d0-4e8e-8e2c-7a6c3bf38815",
	}
	roles, err := NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	if len(roles.List()) != len(want) {
		t.Errorf("%d roles, want %d", len(roles.List()), len(want))
	}
	for _, r := range roles.List() {
		if r.ID != want[r.Name] {
			t.Errorf("%s has id %s, want %s", r.Name, r.ID, want[r.Name])
		}
		if r.Type != BuiltInRole || r.Description == "" || !slices.Equal(r.AssignableScopes, []string{"/"}) || len(r.Permissions) != 1 {
			t.Errorf("%s is not described like a built-in role: %+v", r.Name, r)
		}
		if raw, err := json.Marshal(r); err != nil || strings.Contains(string(raw), "null") {
			t.Errorf("%s is written as %s, %v", r.Name, raw, err)
		}
	}
}

func TestRoleIsFoundByAnySpelling(t *testing.T) {
	roles, err := NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, id string
		found    bool
	}{
		{"GUID", RoleOwner, true},
		{"upper case", strings.ToUpper(RoleOwner), true},
		{"tenant level", "/providers/Microsoft.Authorization/roleDefinitions/" + RoleOwner, true},
		{"with a subscription", "/subscriptions/5f/providers/Microsoft.Authorization/roleDefinitions/" + RoleOwner, true},
		{"other case", "/SUBSCRIPTIONS/5f/providers/microsoft.authorization/ROLEDEFINITIONS/" + RoleOwner, true},
		{"doubled slash", "//providers/Microsoft.Authorization/roleDefinitions/" + RoleOwner, true},
		{"of another type", "/providers/Microsoft.Authorization/roleAssignments/" + RoleOwner, false},
		{"a name", "Owner", false},
		{"unknown GUID", "00000000-0000-0000-0000-000000000001", false},
		{"braces", "{" + RoleOwner + "}", false},
		{"empty", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r, ok := roles.Role(tt.id); ok != tt.found || ok && r.Name != "Owner" {
				t.Errorf("Role = %q, %v; want found %v", r.Name, ok, tt.found)
			}
		})
	}
	if _, ok := roles.Named("owner"); !ok {
		t.Error("a name in another case is not found")
	}
}

func TestNewRolesRefuses(t *testing.T) {
	tests := []struct {
		name string
		role Role
	}{
		{"no GUID", Role{ID: "x", Name: "Mine"}},
		{"id of a built-in role", Role{ID: strings.ToUpper(RoleReader), Name: "Mine"}},
		{"name of a built-in role", Role{ID: "00000000-0000-0000-0000-000000000001", Name: "owner"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewRoles(tt.role); err == nil {
				t.Error("no error")
			}
		})
	}
}
