package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

const (
	roleAssignments = "/providers/Microsoft.Authorization/roleAssignments"
	roleDefinitions = "/providers/Microsoft.Authorization/roleDefinitions"
)

var roleAssignmentView = view{
	plural: "role assignments",
	columns: []column{{"Role", "properties.roleDefinitionName|properties.roleDefinitionId"}, {"Principal", "properties.principalId"},
		{"Kind", "properties.principalType"}, {"Scope", "properties.scope"}},
	detail: []column{{"Id", "id"}},
}

var roleDefinitionView = view{
	plural:  "role definitions",
	columns: []column{{"Role", "properties.roleName"}, {"Kind", "properties.type"}, {"Description", "properties.description"}},
	detail:  []column{{"Actions", "?properties.permissions"}, {"Assignable at", "properties.assignableScopes"}, {"Id", "id"}},
}

func (a *app) roleCommand() *cobra.Command {
	return group("role", "Who may do what: roles and their assignments",
		`  carillon role definition list
  carillon role assignment create --assignee ci --role Contributor`,
		group("assignment", "Role assignments: a principal has a role at a scope and below",
			`  carillon role assignment list`,
			a.roleAssignmentCreate(), a.roleAssignmentList(), a.roleAssignmentDelete()),
		group("definition", "Role definitions: the actions that a role has", `  carillon role definition list
  carillon role definition create --name "Topic Reader" --actions Microsoft.EventGrid/topics/read`,
			a.roleDefinitionCreate(), a.roleDefinitionShow(), a.roleDefinitionUpdate(), a.roleDefinitionList(), a.roleDefinitionDelete()),
		a.denyAssignmentCommand(),
	)
}

// assigneeFlags name a principal, by az's old flag and its new one.
func assigneeFlags(cmd *cobra.Command) func() string {
	assignee := cmd.Flags().String("assignee", "", "Name or object id of the principal.")
	objectID := cmd.Flags().String("assignee-object-id", "", "The same as --assignee.")
	return func() string { return firstOf(*assignee, *objectID) }
}

// scopeFlag names the scope of an assignment; the workspace is where roles matter
// most here.
func (a *app) scopeFlag(cmd *cobra.Command) func() (string, error) {
	scope := cmd.Flags().String("scope", "", "Full id of the scope, / for everything; the current workspace by default.")
	return func() (string, error) {
		s := firstOf(*scope, a.workspaceID())
		if !strings.HasPrefix(s, "/") {
			return "", usagef(cmd, "--scope %q is not a full id: it begins with /.", s)
		}
		return strings.TrimRight(s, "/"), nil
	}
}

func (a *app) roleAssignmentCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Assign a role to a principal", Args: noArguments,
		Example: `  carillon role assignment create --assignee ci --role Contributor
  carillon role assignment create --assignee ci --role Reader --scope /subscriptions/00000000-0000-0000-0000-000000000001`}
	assignee := assigneeFlags(cmd)
	scope := a.scopeFlag(cmd)
	role := roleFlag(cmd)
	kind := cmd.Flags().String("assignee-principal-type", "", "ServicePrincipal, User or Group.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if assignee() == "" {
			return usagef(cmd, "--assignee is needed: the principal's name or object id, as \"carillon principal list\" shows them.")
		}
		if err := required(cmd, "role"); err != nil {
			return err
		}
		at, err := scope()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		principal, err := s.principalID(cmd, assignee())
		if err != nil {
			return err
		}
		definition, err := s.roleNamed(cmd.Context(), at, *role)
		if err != nil {
			return err
		}
		properties := map[string]any{"roleDefinitionId": definition, "principalId": principal}
		if *kind != "" {
			properties["principalType"] = *kind
		}
		name := assignmentName(at, principal, definition)
		assignment, err := s.ask(cmd.Context(), http.MethodPut, at+roleAssignments+"/"+name, enveloped(properties), nil)
		if err != nil {
			return err
		}
		if a.output != "json" {
			named := []json.RawMessage{assignment}
			if s.nameRoles(cmd.Context(), at, named) == nil { // without its name the role is shown by its id
				assignment = named[0]
			}
		}
		return a.show(roleAssignmentView, assignment)
	}
	return cmd
}

func roleFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("role", "", "Name or id of the role; e.g. Owner, Contributor, Reader.")
}

// assignmentName derives an assignment's name from what it says, so that the same
// assignment made twice is one.
func assignmentName(scope, principal, definition string) string {
	guid := definition[strings.LastIndexByte(definition, '/')+1:]
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.ToLower(scope+"|"+principal+"|"+guid))).String()
}

// roleNamed returns the id of a role definition, given by name, GUID or id.
func (s *remote) roleNamed(ctx context.Context, scope, role string) (string, error) {
	if strings.HasPrefix(role, "/") {
		return role, nil
	}
	if uuid.Validate(role) == nil {
		return roleDefinitions + "/" + role, nil
	}
	quoted := strings.ReplaceAll(role, "'", "''")
	found, err := s.all(ctx, scope+roleDefinitions, url.Values{"$filter": {"roleName eq '" + quoted + "'"}})
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fault.New(fault.NotFound, "RoleDefinitionDoesNotExist", `There is no role named %q. "carillon role definition list" shows them.`, role)
	}
	return text(found[0], "id"), nil
}

func (a *app) roleAssignmentList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List role assignments at a scope, above it and below it", Args: noArguments,
		Example: `  carillon role assignment list
  carillon role assignment list --assignee ci --scope / -o json`}
	assignee := assigneeFlags(cmd)
	scope := a.scopeFlag(cmd)
	role := roleFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		at, err := scope()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		principal, err := s.principalID(cmd, assignee())
		if err != nil {
			return err
		}
		found, err := s.assignments(cmd.Context(), at, principal, *role)
		if err != nil {
			return err
		}
		if a.output != "json" {
			if err := s.nameRoles(cmd.Context(), at, found); err != nil {
				return err
			}
		}
		return a.list(roleAssignmentView, found)
	}
	return cmd
}

// assignments reads the role assignments of a scope, of one principal and one
// role if they are given.
func (s *remote) assignments(ctx context.Context, scope, assignee, role string) ([]json.RawMessage, error) {
	query := url.Values{}
	if assignee != "" {
		query.Set("$filter", "principalId eq '"+strings.ReplaceAll(assignee, "'", "''")+"'")
	}
	found, err := s.all(ctx, scope+roleAssignments, query)
	if err != nil || role == "" {
		return found, err
	}
	definition, err := s.roleNamed(ctx, scope, role)
	if err != nil {
		return nil, err
	}
	want := definition[strings.LastIndexByte(definition, '/')+1:]
	kept := []json.RawMessage{}
	for _, assignment := range found {
		id := text(assignment, "properties.roleDefinitionId")
		if strings.EqualFold(id[strings.LastIndexByte(id, '/')+1:], want) {
			kept = append(kept, assignment)
		}
	}
	return kept, nil
}

// nameRoles puts the names of roles beside their ids, for tables.
func (s *remote) nameRoles(ctx context.Context, scope string, assignments []json.RawMessage) error {
	definitions, err := s.all(ctx, scope+roleDefinitions, nil)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, d := range definitions {
		names[strings.ToLower(text(d, "name"))] = text(d, "properties.roleName")
	}
	for i, assignment := range assignments {
		whole := decoded(assignment, "")
		properties, ok := whole["properties"].(map[string]any)
		id, _ := properties["roleDefinitionId"].(string)
		name := names[strings.ToLower(id[strings.LastIndexByte(id, '/')+1:])]
		if !ok || name == "" {
			continue
		}
		properties["roleDefinitionName"] = name
		if assignments[i], err = json.Marshal(whole); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) roleAssignmentDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete", Short: "Take a role from a principal", Args: noArguments,
		Example: `  carillon role assignment delete --assignee ci --role Contributor
  carillon role assignment delete --ids /subscriptions/…/roleAssignments/GUID`}
	assignee := assigneeFlags(cmd)
	scope := a.scopeFlag(cmd)
	role := roleFlag(cmd)
	ids := wordsFlag(cmd, "ids", "ID...", "Full ids of role assignments.")
	confirmed := a.confirmation(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !ids.given() && assignee() == "" {
			return usagef(cmd, "Which one? Give --ids, or --assignee with --role and --scope.")
		}
		at, err := scope()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		doomed := ids.list()
		if len(doomed) == 0 {
			principal, err := s.principalID(cmd, assignee())
			if err != nil {
				return err
			}
			found, err := s.assignments(cmd.Context(), at, principal, *role)
			if err != nil {
				return err
			}
			for _, assignment := range found {
				if strings.EqualFold(strings.TrimRight(text(assignment, "properties.scope"), "/"), at) {
					doomed = append(doomed, text(assignment, "id"))
				}
			}
		}
		if len(doomed) == 0 {
			return fault.New(fault.NotFound, "RoleAssignmentNotFound", "There is no such role assignment at scope %s.", firstOf(at, "/"))
		}
		if err := confirmed("Delete " + count(len(doomed), "role assignment") + "?"); err != nil {
			return err
		}
		for _, id := range doomed {
			if err := s.Delete(cmd.Context(), id); err != nil {
				return err
			}
			if err := a.deleted("role assignment", id); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (a *app) roleDefinitionList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List role definitions", Args: noArguments, Example: `  carillon role definition list
  carillon role definition list --name Owner -o json`}
	name := cmd.Flags().StringP("name", "n", "", "Name of the role.")
	custom := cmd.Flags().Bool("custom-role-only", false, "Only those that were made here.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		var terms []string
		if *name != "" {
			terms = append(terms, "roleName eq '"+strings.ReplaceAll(*name, "'", "''")+"'")
		}
		if *custom {
			terms = append(terms, "type eq 'CustomRole'")
		}
		query := url.Values{}
		if len(terms) > 0 {
			query.Set("$filter", strings.Join(terms, " and "))
		}
		found, err := s.all(cmd.Context(), a.subscriptionID()+roleDefinitions, query)
		if err != nil {
			return err
		}
		return a.list(roleDefinitionView, found)
	}
	return cmd
}
