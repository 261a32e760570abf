package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
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
		a.groupCreate(), a.groupList(), a.principalDelete("group", "ops", (*remote).group),
		group("member", "Members of a group", `  carillon group member add ops --member ci
  carillon group member list ops`,
			a.groupMembers(),
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

// group finds a group by name or object id.
func (s *remote) group(cmd *cobra.Command, name string) (json.RawMessage, error) {
	found, err := s.principal(cmd, name)
	if err != nil {
		return nil, err
	}
	if kind := text(found, "properties.principalType"); !strings.EqualFold(kind, "Group") {
		return nil, fault.New(fault.Invalid, "NoGroup", `%q is no group but a %s. "carillon group list" shows the groups.`, name, kind)
	}
	return found, nil
}

func (a *app) groupMembers() *cobra.Command {
	cmd := &cobra.Command{Use: "list GROUP", Short: "List the members of a group", Args: principalArgument, Example: `  carillon group member list ops`}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		of, err := s.group(cmd, args[0])
		if err != nil {
			return err
		}
		principals, err := s.all(cmd.Context(), arm.PrincipalsPath, pageSize())
		if err != nil {
			return err
		}
		var ids struct {
			Properties struct{ Members []string }
		}
		if err := json.Unmarshal(of, &ids); err != nil {
			return fmt.Errorf("read the group: %w", err)
		}
		members := []json.RawMessage{}
		for _, p := range principals {
			if slices.Contains(ids.Properties.Members, objectID(p)) {
				members = append(members, p)
			}
		}
		return a.list(principalView, members)
	}
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
