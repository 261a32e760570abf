package cli

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

var groupView = view{
	plural:  "groups",
	columns: []column{{"Name", "properties.displayName"}, {"Object id", "properties.objectId"}, {"Members", "properties.members"}},
}

func (a *app) groupCommand() *cobra.Command {
	return group("group", "Groups of principals: a role of a group is one of its members",
		`  carillon group create ops
  carillon group member add ops --member ci
  carillon role assignment create --assignee ops --role Reader`,
		a.groupCreate(), a.groupList(), a.groupDelete(),
		group("member", "Members of a group", `  carillon group member add ops --member ci`,
			a.groupMember("add", "Put a principal, or a group, into a group", http.MethodPut),
			a.groupMember("remove", "Take a principal out of a group", http.MethodDelete)))
}

func (a *app) groupCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Create a group without members", Args: principalArgument, Example: `  carillon group create ops`}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		made, err := s.ask(cmd.Context(), http.MethodPost, arm.PrincipalsPath, map[string]string{"name": args[0], "principalType": "Group"}, nil)
		if err != nil {
			return err
		}
		return a.show(groupView, made)
	}
	return cmd
}

func (a *app) groupList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List groups", Args: noArguments, Example: `  carillon group list -o json`}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		principals, err := s.all(cmd.Context(), arm.PrincipalsPath, pageSize())
		if err != nil {
			return err
		}
		groups := []json.RawMessage{}
		for _, p := range principals {
			if strings.EqualFold(text(p, "properties.principalType"), "Group") {
				groups = append(groups, p)
			}
		}
		return a.list(groupView, groups)
	}
	return cmd
}

func (a *app) groupDelete() *cobra.Command {
	cmd := a.principalDelete()
	cmd.Short, cmd.Example = "Delete a group and its role assignments", `  carillon group delete ops`
	return cmd
}

func (a *app) groupMember(use, short, method string) *cobra.Command {
	cmd := &cobra.Command{Use: use + " GROUP", Short: short, Args: principalArgument, Example: `  carillon group member ` + use + ` ops --member ci`}
	name := cmd.Flags().String("member", "", "Name or object id of the principal.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := required(cmd, "member"); err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		in, err := s.principal(cmd, args[0])
		if err != nil {
			return err
		}
		member := *name
		if uuid.Validate(member) != nil {
			p, err := s.principal(cmd, member)
			if err != nil {
				return err
			}
			member = objectID(p)
		}
		changed, err := s.ask(cmd.Context(), method, arm.PrincipalsPath+"/"+objectID(in)+"/members/"+member, nil, nil)
		if err != nil {
			return err
		}
		return a.show(groupView, changed)
	}
	return cmd
}
