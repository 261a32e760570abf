package cli

import (
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/access"
)

const denyAssignments = "/providers/Microsoft.Authorization/denyAssignments"

var denyAssignmentView = view{
	plural:  "deny assignments",
	columns: []column{{"Name", "properties.denyAssignmentName"}, {"Scope", "properties.scope"}},
	detail: []column{
		{"Takes away", "properties.permissions"}, {"From", "properties.principals"}, {"Not from", "?properties.excludePrincipals"},
		{"Not below the scope", "properties.doNotApplyToChildScopes"}, {"Description", "?properties.description"}, {"Id", "id"},
	},
}

func (a *app) denyAssignmentCommand() *cobra.Command {
	return group("deny-assignment", "Deny assignments: actions that principals may not do, whatever roles they have",
		`  carillon role deny-assignment create --name "No deleting" --actions "*/delete" --exclude-principal-ids ops
  carillon role deny-assignment list`,
		a.denyAssignmentCreate(), a.denyAssignmentList(), a.denyAssignmentShow(), a.denyAssignmentDelete())
}

// denyAssignmentName derives the GUID of a deny assignment from where it is and what
// people call it, so that one name at one scope is one deny assignment.
func denyAssignmentName(scope, name string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.ToLower("deny|"+scope+"|"+name))).String()
}

func (a *app) denyAssignmentCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Take actions away from principals at a scope", Args: noArguments,
		Long: "Take actions away from principals at a scope and below, whatever roles they have: from\neveryone, unless --principal-object-id says from whom. The same name at the same scope\nreplaces the deny assignment.",
		Example: `  carillon role deny-assignment create --name "No deleting" --actions "*/delete" --exclude-principal-ids ops
  carillon role deny-assignment create --name Quiet --data-actions Microsoft.EventGrid/events/send/action --principal-object-id ci --scope TOPICID`}
	name := cmd.Flags().StringP("name", "n", "", "Name of the deny assignment.")
	description := cmd.Flags().String("description", "", "What it is for.")
	scope := a.scopeFlag(cmd)
	principals := cmd.Flags().StringArray("principal-object-id", nil, "Object id or name of a principal or group that it is about, everyone by default; may be repeated.")
	kind := cmd.Flags().String("principal-type", "", "What they are, if the server does not know them: User, ServicePrincipal or Group.")
	excluded := wordsFlag(cmd, "exclude-principal-ids", "OBJECTID...", "Principals and groups that it is not about, by object id or name.")
	only := cmd.Flags().Bool("do-not-apply-to-child-scopes", false, "It holds at the scope itself and not below.")
	lists := make([]*words, len(roleLists))
	for i, l := range roleLists {
		usage := "Actions that are taken away, such as Microsoft.EventGrid/topics/delete; * stands for any run of characters."
		switch l.member {
		case "notActions", "notDataActions":
			usage = "Actions that are left out of those."
		case "dataActions":
			usage = "Data actions that are taken away, such as Microsoft.EventGrid/events/send/action."
		}
		lists[i] = wordsFlag(cmd, l.flag, "ACTION...", usage)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "name"); err != nil {
			return err
		}
		at, err := scope()
		if err != nil {
			return err
		}
		permission := map[string]any{}
		for i, l := range roleLists {
			if lists[i].given() {
				permission[l.member] = lists[i].list()
			}
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		from, err := s.identified(cmd, *principals, *kind)
		if err != nil {
			return err
		}
		if len(from) == 0 {
			from = []any{map[string]any{"id": access.Everyone}}
		}
		except, err := s.identified(cmd, excluded.list(), "")
		if err != nil {
			return err
		}
		properties := map[string]any{
			"denyAssignmentName": *name, "description": *description, "permissions": []any{permission},
			"principals": from, "excludePrincipals": except, "doNotApplyToChildScopes": *only,
		}
		made, err := s.ask(cmd.Context(), http.MethodPut, at+denyAssignments+"/"+denyAssignmentName(at, *name), enveloped(properties), nil)
		if err != nil {
			return err
		}
		return a.show(denyAssignmentView, made)
	}
	return cmd
}

// identified are principals, given by name or object id, as a deny assignment has them.
func (s *remote) identified(cmd *cobra.Command, who []string, kind string) ([]any, error) {
	list := []any{}
	for _, name := range who {
		id, err := s.principalID(cmd, name)
		if err != nil {
			return nil, err
		}
		principal := map[string]any{"id": id}
		if kind != "" {
			principal["type"] = kind
		}
		list = append(list, principal)
	}
	return list, nil
}

func (a *app) denyAssignmentList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the deny assignments at, above and below a scope", Args: noArguments, Example: `  carillon role deny-assignment list --scope /`}
	scope := a.scopeFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		at, err := scope()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		found, err := s.all(cmd.Context(), at+denyAssignments, pageSize())
		if err != nil {
			return err
		}
		return a.list(denyAssignmentView, found)
	}
	return cmd
}

// denyAssignmentKind finds a deny assignment by its scope and what people call it, its
// GUID, or its full id.
func (a *app) denyAssignmentKind() kind {
	return kind{what: "deny assignment", view: denyAssignmentView, locate: func(cmd *cobra.Command) func(args []string) (string, error) {
		scope := a.scopeFlag(cmd)
		name := nameOrIDFlag(cmd, "deny assignment", "Name, GUID or id of the deny assignment")
		return func(args []string) (string, error) {
			at, err := scope()
			if err != nil {
				return "", err
			}
			chosen, err := name(args)
			switch {
			case err != nil:
				return "", err
			case strings.HasPrefix(chosen, "/"):
				return chosen, nil
			case uuid.Validate(chosen) == nil:
				return at + denyAssignments + "/" + chosen, nil
			}
			return at + denyAssignments + "/" + denyAssignmentName(at, chosen), nil
		}
	}}
}

func (a *app) denyAssignmentShow() *cobra.Command {
	return a.showCommand(a.denyAssignmentKind(), `  carillon role deny-assignment show --name "No deleting"`)
}

func (a *app) denyAssignmentDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete", Short: "Delete a deny assignment", Example: `  carillon role deny-assignment delete --name "No deleting"`}
	return a.onResource(a.denyAssignmentKind(), cmd, func(cmd *cobra.Command, s *remote, path string) error {
		found, err := s.get(cmd.Context(), path)
		if err != nil { // what never existed is not said to be deleted
			return err
		}
		if err := s.Delete(cmd.Context(), path); err != nil {
			return err
		}
		return a.deleted("deny assignment", text(found, "properties.denyAssignmentName"))
	})
}
