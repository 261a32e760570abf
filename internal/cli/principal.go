package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

var principalView = view{
	plural:  "principals",
	columns: []column{{"Name", "properties.displayName"}, {"Object id", "properties.objectId"}, {"App id", "properties.appId"}, {"Kind", "properties.principalType"}},
}

// secretView shows what is shown once: how to sign in as a principal.
var secretView = view{
	plural:  "principals",
	columns: []column{{"App id", "appId"}, {"Password", "password"}, {"Tenant", "tenant"}, {"Object id", "objectId"}},
}

func (a *app) principalCommand() *cobra.Command {
	return group("principal", "Service principals: who may sign in with a client id and a secret",
		`  carillon principal create ci -o json
  carillon principal list`,
		a.principalCreate(), a.principalList(), a.principalReset(), a.principalDelete())
}

// principalArgument takes the one argument of a command: a principal's name or
// object id.
func principalArgument(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(cmd, "%q takes one argument: the principal's name.", cmd.CommandPath())
	}
	return nil
}

func (a *app) principalCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Create a principal and show its secret, once", Args: principalArgument,
		Example: `  carillon principal create ci
  carillon principal create ci -o json`}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		return a.showSecret(cmd, s, arm.PrincipalsPath, map[string]string{"name": args[0]})
	}
	return cmd
}

func (a *app) principalReset() *cobra.Command {
	cmd := &cobra.Command{Use: "reset NAME", Short: "Give a principal a new secret and end every token it has", Args: principalArgument,
		Example: `  carillon principal reset ci -o json`}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		principal, err := s.principal(cmd, args[0])
		if err != nil {
			return err
		}
		return a.showSecret(cmd, s, arm.PrincipalsPath+"/"+objectID(principal)+"/resetSecret", nil)
	}
	return cmd
}

// showSecret calls an action that answers with a secret and shows it.
func (a *app) showSecret(cmd *cobra.Command, s *remote, path string, body any) error {
	answer, err := s.ask(cmd.Context(), http.MethodPost, path, body, nil)
	if err != nil {
		return err
	}
	if err := a.show(secretView, answer); err != nil {
		return err
	}
	if a.output != "json" {
		fmt.Fprintln(a.stderr, "The password is not shown again.")
	}
	return nil
}

func objectID(principal json.RawMessage) string {
	return text(principal, "properties.objectId")
}

// principal finds a principal by name or object id.
func (s *remote) principal(cmd *cobra.Command, name string) (json.RawMessage, error) {
	principals, err := s.all(cmd.Context(), arm.PrincipalsPath, nil)
	if err != nil {
		return nil, err
	}
	for _, p := range principals {
		if strings.EqualFold(objectID(p), name) || strings.EqualFold(text(p, "properties.displayName"), name) {
			return p, nil
		}
	}
	return nil, fault.New(fault.NotFound, "PrincipalNotFound", `There is no principal named %q. "carillon principal list" shows them.`, name)
}

func (a *app) principalList() *cobra.Command {
	return a.listCommand(kind{view: principalView}, &cobra.Command{Example: `  carillon principal list -o json`},
		func(*cobra.Command) (string, error) { return arm.PrincipalsPath, nil })
}

func (a *app) principalDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a principal and its role assignments", Args: principalArgument,
		Example: `  carillon principal delete ci`}
	confirmed := a.confirmation(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		principal, err := s.principal(cmd, args[0])
		if err != nil {
			return err
		}
		if err := confirmed("Delete principal " + args[0] + ", with its role assignments?"); err != nil {
			return err
		}
		if err := s.Delete(cmd.Context(), arm.PrincipalsPath+"/"+objectID(principal)); err != nil {
			return err
		}
		return a.deleted("principal", args[0])
	}
	return cmd
}
