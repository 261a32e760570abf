package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

// decision is whether somebody may do something, as the server says it.
type decision struct {
	Allowed      bool   `json:"allowed"`
	Action       string `json:"action"`
	IsDataAction bool   `json:"isDataAction"`
	Scope        string `json:"scope"`
	Reasons      []struct {
		RoleName string `json:"roleName"`
		Scope    string `json:"scope"`
		GroupID  string `json:"groupId"`
		Grants   bool   `json:"grants"`
		Why      string `json:"why"`
	} `json:"reasons"`
	RolesThatGrant []string  `json:"rolesThatGrant"`
	AlsoNeeded     *decision `json:"alsoNeeded"`
	DeniedBy       *struct {
		Name  string `json:"denyAssignmentName"`
		Scope string `json:"scope"`
	} `json:"deniedBy"`
}

func (a *app) accessCommand() *cobra.Command {
	return group("access", "Who may do what, and why",
		`  carillon access check --assignee ci --action Microsoft.EventGrid/topics/write`,
		a.accessCheck(), a.accessWhoAmI())
}

var whoAmIView = view{
	plural:  "principals",
	columns: []column{{"Name", "displayName"}, {"Object id", "objectId"}, {"Kind", "principalType"}, {"App id", "appId"}, {"Issuer", "issuer"}, {"Groups", "groups"}},
}

func (a *app) accessWhoAmI() *cobra.Command {
	cmd := &cobra.Command{Use: "whoami", Short: "Show who the server takes you for", Args: noArguments,
		Long:    "Show who the server takes you for: the object id is what roles are assigned to. With a token of a\nforeign issuer this is how to learn it.",
		Example: `  CARILLON_TOKEN=$(az account get-access-token --query accessToken -o tsv) carillon access whoami`}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		me, err := s.get(cmd.Context(), arm.WhoAmIPath)
		if err != nil {
			return err
		}
		return a.show(whoAmIView, me)
	}
	return cmd
}

func (a *app) accessCheck() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Tell whether a principal may do something, and why", Args: noArguments,
		Long: "Tell whether a principal may do something at a scope, and what each of its role\nassignments, and any deny assignment, has to do with it. Exit code 1 if it may not.",
		Example: `  carillon access check --action Microsoft.EventGrid/topics/write
  carillon access check --assignee ci --data-action Microsoft.EventGrid/events/send/action --scope /subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.EventGrid/topics/orders`}
	assignee := cmd.Flags().String("assignee", "", "Name or object id of the principal; you by default.")
	action := cmd.Flags().String("action", "", "The action, such as Microsoft.EventGrid/topics/write.")
	data := cmd.Flags().String("data-action", "", "A data action instead, such as Microsoft.EventGrid/events/send/action.")
	scope := a.scopeFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (*action == "") == (*data == "") {
			return usagef(cmd, "Give one of --action and --data-action.")
		}
		at, err := scope()
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		body := map[string]any{"action": firstOf(*action, *data), "isDataAction": *data != ""}
		switch principal, err := s.principalID(cmd, *assignee); {
		case err != nil:
			return err
		case principal != "":
			body["principalId"] = principal
		}
		answer, err := s.ask(cmd.Context(), http.MethodPost, at+arm.CheckAccessPath, body, nil)
		if err != nil {
			return err
		}
		var d decision
		if err := json.Unmarshal(answer, &d); err != nil {
			return fmt.Errorf("read the decision: %w", err)
		}
		if a.output == "json" {
			if err := writeJSON(a.stdout, answer); err != nil {
				return err
			}
		} else {
			a.printDecision(&d)
		}
		if !d.Allowed {
			return errQuiet
		}
		return nil
	}
	return cmd
}

// printDecision says yes or no, and under it what each role assignment does.
func (a *app) printDecision(d *decision) {
	p := a.painter()
	answer := p.green("yes")
	if !d.Allowed {
		answer = p.red("no")
	}
	fmt.Fprintf(a.stdout, "%s: %s at %s\n", answer, d.Action, d.Scope)
	a.printReasons(d)
	if also := d.AlsoNeeded; also != nil {
		fmt.Fprintf(a.stdout, "The strict workspace rule also asks for %s at %s:\n", also.Action, also.Scope)
		a.printReasons(also)
	}
}

func (a *app) printReasons(d *decision) {
	granted := d.DeniedBy != nil // and no further role would help
	if by := d.DeniedBy; by != nil {
		fmt.Fprintf(a.stdout, "  ✗ denied by %q at %s, whatever roles there are\n", oneLine(by.Name), by.Scope)
	}
	for _, r := range d.Reasons {
		mark := "✗"
		if r.Grants {
			mark, granted = "✓", true
		}
		whose := ""
		if r.GroupID != "" {
			whose = " of group " + r.GroupID
		}
		fmt.Fprintf(a.stdout, "  %s %s%s at %s: %s\n", mark, oneLine(r.RoleName), whose, r.Scope, oneLine(r.Why))
	}
	if len(d.Reasons) == 0 {
		fmt.Fprintln(a.stdout, "  No role is assigned to it.")
	}
	if !granted && len(d.RolesThatGrant) > 0 {
		fmt.Fprintf(a.stdout, "  Roles that grant it: %s\n", oneLine(strings.Join(d.RolesThatGrant, ", ")))
	}
}
