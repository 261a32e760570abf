package cli

import (
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

// roleLists are the lists of actions that flags give a role, and their members.
var roleLists = []struct{ flag, member, usage string }{
	{"actions", "actions", "Actions that the role grants, such as Microsoft.EventGrid/topics/read; * stands for any run of characters."},
	{"not-actions", "notActions", "Actions that are taken from those."},
	{"data-actions", "dataActions", "Data actions that the role grants, such as Microsoft.EventGrid/events/send/action."},
	{"not-data-actions", "notDataActions", "Data actions that are taken from those."},
}

// roleFlags are the flags that describe a role; the returned function puts what they
// say into the properties of a role definition.
func (a *app) roleFlags(cmd *cobra.Command) func(properties map[string]any) {
	description := cmd.Flags().String("description", "", "What the role is for.")
	scopes := wordsFlag(cmd, "assignable-scopes", "SCOPE...", "Where the role can be assigned, and below; the subscription by default.")
	lists := make([]*words, len(roleLists))
	for i, l := range roleLists {
		lists[i] = wordsFlag(cmd, l.flag, "ACTION...", l.usage)
	}
	return func(properties map[string]any) {
		if cmd.Flag("description").Changed {
			properties["description"] = *description
		}
		if scopes.given() {
			properties["assignableScopes"] = scopes.list()
		} else if properties["assignableScopes"] == nil {
			properties["assignableScopes"] = []string{a.subscriptionID()}
		}
		permission := map[string]any{}
		if old, ok := properties["permissions"].([]any); ok && len(old) > 0 {
			permission, _ = old[0].(map[string]any)
		}
		for i, l := range roleLists {
			if lists[i].given() {
				permission[l.member] = lists[i].list()
			}
		}
		properties["permissions"] = []any{permission}
	}
}

func (a *app) roleDefinitionCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a custom role", Args: noArguments,
		Example: `  carillon role definition create --name "Topic Reader" --actions Microsoft.EventGrid/topics/read
  carillon role definition create --name Publisher --data-actions Microsoft.EventGrid/events/send/action --assignable-scopes /`}
	name := cmd.Flags().StringP("name", "n", "", "Name of the role.")
	set := a.roleFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "name"); err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		switch id, err := s.roleNamed(cmd.Context(), a.subscriptionID(), *name); {
		case err == nil:
			return fault.New(fault.Conflict, "RoleDefinitionWithSameNameExists", `There is a role named %q, %s. Choose another name, or change that one, if it is a custom role: carillon role definition update.`, *name, id)
		case !fault.Is(err, fault.NotFound):
			return err
		}
		properties := map[string]any{"roleName": *name}
		set(properties)
		guid := uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.ToLower("role|"+*name))).String()
		role, err := s.ask(cmd.Context(), http.MethodPut, a.subscriptionID()+roleDefinitions+"/"+guid, enveloped(properties), nil)
		if err != nil {
			return err
		}
		return a.show(roleDefinitionView, role)
	}
	return cmd
}

// roleArgument names a role by name, GUID or id, as --name or as the argument.
func roleArgument(cmd *cobra.Command) func(args []string) (string, error) {
	name := cmd.Flags().StringP("name", "n", "", "Name, GUID or id of the role; may also be given as the argument.")
	cmd.Args = cobra.ArbitraryArgs
	return func(args []string) (string, error) {
		given := args
		if *name != "" {
			given = append(given, *name)
		}
		if len(given) != 1 {
			return "", usagef(cmd, "%q takes one role: give its name.", cmd.CommandPath())
		}
		return given[0], nil
	}
}

// onRole makes a command that does something with one role definition.
func (a *app) onRole(cmd *cobra.Command, do func(cmd *cobra.Command, s *remote, path, name string) error) *cobra.Command {
	role := roleArgument(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := role(args)
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		id, err := s.roleNamed(cmd.Context(), a.subscriptionID(), name)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(strings.ToLower(id), "/subscriptions/") {
			id = a.subscriptionID() + id
		}
		return do(cmd, s, id, name)
	}
	return cmd
}

func (a *app) roleDefinitionShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show one role definition", Example: `  carillon role definition show "Topic Reader" -o json`}
	return a.onRole(cmd, func(cmd *cobra.Command, s *remote, path, _ string) error {
		role, err := s.get(cmd.Context(), path)
		if err != nil {
			return err
		}
		return a.show(roleDefinitionView, role)
	})
}

func (a *app) roleDefinitionUpdate() *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Change a custom role",
		Long:    "Change a custom role. What no flag names stays; a list that a flag names is replaced. It\nholds for the next request of everybody who has the role.",
		Example: `  carillon role definition update "Topic Reader" --actions Microsoft.EventGrid/topics/read Microsoft.EventGrid/domains/read`}
	rename := cmd.Flags().String("new-name", "", "Another name for the role.")
	set := a.roleFlags(cmd)
	return a.onRole(cmd, func(cmd *cobra.Command, s *remote, path, _ string) error {
		role, err := s.get(cmd.Context(), path)
		if err != nil {
			return err
		}
		properties := decoded(role, "properties")
		kept := map[string]any{}
		for _, member := range []string{"roleName", "description", "assignableScopes", "permissions"} {
			kept[member] = properties[member]
		}
		if *rename != "" {
			kept["roleName"] = *rename
		}
		set(kept)
		role, err = s.ask(cmd.Context(), http.MethodPut, path, enveloped(kept), nil)
		if err != nil {
			return err
		}
		return a.show(roleDefinitionView, role)
	})
}

func (a *app) roleDefinitionDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete", Short: "Delete a custom role that nobody has", Example: `  carillon role definition delete "Topic Reader"`}
	confirmed := a.confirmation(cmd)
	return a.onRole(cmd, func(cmd *cobra.Command, s *remote, path, name string) error {
		if err := confirmed("Delete role " + name + "?"); err != nil {
			return err
		}
		if err := s.Delete(cmd.Context(), path); err != nil {
			return err
		}
		return a.deleted("role", name)
	})
}

// permissionText writes one block of a role's permissions.
func permissionText(v map[string]any) string {
	var parts []string
	for _, l := range roleLists {
		if list, _ := v[l.member].([]any); len(list) > 0 {
			label := map[string]string{"notActions": "but not ", "dataActions": "data ", "notDataActions": "but not data "}[l.member]
			parts = append(parts, label+plain(v[l.member]))
		}
	}
	return strings.Join(parts, "; ")
}

// isPermission reports whether a value is one block of a role's permissions.
func isPermission(v map[string]any) bool {
	_, actions := v["actions"]
	_, not := v["notActions"]
	return actions && not
}
