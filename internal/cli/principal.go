package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
)

var principalView = view{
	plural:  "principals",
	columns: []column{{"Name", "properties.displayName"}, {"Object id", "properties.objectId"}, {"App id", "properties.appId"}, {"Kind", "properties.principalType"}, {"Enabled", "properties.enabled"}},
}

// secretView shows what is shown once: how to sign in as a principal.
var secretView = view{
	plural:  "principals",
	columns: []column{{"App id", "appId"}, {"Password", "password"}, {"Tenant", "tenant"}, {"Object id", "objectId"}},
}

// userView shows what is shown once of a user.
var userView = view{
	plural:  "principals",
	columns: []column{{"Name", "displayName"}, {"Sign-in link", "signInLink"}, {"Tenant", "tenant"}, {"Object id", "objectId"}},
}

func (a *app) principalCommand() *cobra.Command {
	return group("principal", "Service principals and users: who may sign in, and by what",
		`  carillon principal create ci -o json
  carillon principal create anna@example.org --type user
  carillon principal list`,
		a.principalCreate(), a.principalList(), a.principalShow(), a.principalReset(),
		a.principalAction("enable", "Let a principal in that was kept out", "", "enable"),
		a.principalAction("disable", "Keep a principal out; its tokens end at once", "", "disable"),
		a.principalAction("revoke-tokens", "End every token and refresh token of a principal",
			"End every token and refresh token of a principal, from the next request on. It can sign in again: if a\ncredential leaked, replace or delete that first.", "revokeTokens"),
		a.principalDelete("principal", "ci", (*remote).principal), a.credentialCommand(), a.federatedCommand())
}

// principalArgument takes the one argument of a command: a principal's name or
// object id.
func principalArgument(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(cmd, "%q takes one argument: the principal's name.", cmd.CommandPath())
	}
	return nil
}

// principalTypes are those that a principal is made of, as they are written in flags.
var principalTypes = map[string]string{"service-principal": "ServicePrincipal", "user": "User"}

func (a *app) principalCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Create a principal and show its secret, once", Args: principalArgument,
		Long: "Create a service principal and show its secret, once; or a user, who signs in at a page. A user\nwithout a password is given a link, good for a day, to set one.",
		Example: `  carillon principal create ci
  carillon principal create ci -o json
  carillon principal create anna@example.org --type user
  pass show anna | carillon principal create anna@example.org --type user --password-file -`}
	kind := cmd.Flags().String("type", "service-principal", "What it is: service-principal or user.")
	password := cmd.Flags().String("password-file", "", "File with the password of a user; - for standard input.")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"service-principal", "user"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		word, err := oneOf(cmd, "type", *kind, "service-principal", "user")
		if err != nil {
			return err
		}
		body := map[string]string{"name": args[0]}
		if word == "user" {
			body["principalType"] = principalTypes[word]
		}
		if *password != "" {
			if word != "user" {
				return usagef(cmd, "--password-file is for --type user; the secret of a service principal is made by the server.")
			}
			raw, err := a.readAll(*password)
			if err != nil {
				return err
			}
			body["password"] = strings.TrimRight(string(raw), "\r\n")
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		return a.showSecret(cmd, s, arm.PrincipalsPath, body)
	}
	return cmd
}

// onPrincipal makes a command that does something with one principal.
func (a *app) onPrincipal(cmd *cobra.Command, do func(cmd *cobra.Command, s *remote, principal json.RawMessage) error) *cobra.Command {
	cmd.Args = principalArgument
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		principal, err := s.principal(cmd, args[0])
		if err != nil {
			return err
		}
		return do(cmd, s, principal)
	}
	return cmd
}

func principalPath(principal json.RawMessage) string {
	return arm.PrincipalsPath + "/" + objectID(principal)
}

func (a *app) principalShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show one principal, without its secrets", Example: `  carillon principal show ci -o json`}
	return a.onPrincipal(cmd, func(_ *cobra.Command, _ *remote, principal json.RawMessage) error {
		return a.show(principalView, principal)
	})
}

// principalAction makes a command that calls one action of a principal.
func (a *app) principalAction(use, short, long, action string) *cobra.Command {
	cmd := &cobra.Command{Use: use + " NAME", Short: short, Long: long, Example: `  carillon principal ` + use + ` ci`}
	return a.onPrincipal(cmd, func(cmd *cobra.Command, s *remote, principal json.RawMessage) error {
		changed, err := s.ask(cmd.Context(), http.MethodPost, principalPath(principal)+"/"+action, nil, nil)
		if err != nil {
			return err
		}
		return a.show(principalView, changed)
	})
}

func (a *app) principalReset() *cobra.Command {
	cmd := &cobra.Command{Use: "reset NAME", Short: "Give a principal a new secret and end every token it has",
		Long:    "Give a service principal a new secret in place of all that it has, or a user a link to set a new\npassword, and end every token and refresh token.",
		Example: `  carillon principal reset ci -o json`}
	return a.onPrincipal(cmd, func(cmd *cobra.Command, s *remote, principal json.RawMessage) error {
		return a.showSecret(cmd, s, arm.PrincipalsPath+"/"+objectID(principal)+"/resetSecret", nil)
	})
}

// showSecret calls an action that answers with a secret and shows it.
func (a *app) showSecret(cmd *cobra.Command, s *remote, path string, body any) error {
	answer, err := s.ask(cmd.Context(), http.MethodPost, path, body, nil)
	if err != nil {
		return err
	}
	shown, once := secretView, "The password is not shown again."
	switch {
	case text(answer, "signInLink") != "":
		shown, once = userView, "The link is not shown again. It works once, for a day: whoever opens it sets the password."
	case text(answer, "password") == "":
		shown, once = userView, ""
	}
	if err := a.show(shown, answer); err != nil {
		return err
	}
	if a.output != "json" && once != "" {
		fmt.Fprintln(a.stderr, once)
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

// principalID returns the object id of a principal, given by name or object id.
func (s *remote) principalID(cmd *cobra.Command, who string) (string, error) {
	if who == "" || uuid.Validate(who) == nil { // also one that the server does not know, of another provider
		return who, nil
	}
	principal, err := s.principal(cmd, who)
	if err != nil {
		return "", err
	}
	return objectID(principal), nil
}

func (a *app) principalList() *cobra.Command {
	return a.listCommand(kind{view: principalView}, &cobra.Command{Example: `  carillon principal list -o json`},
		func(*cobra.Command) (string, error) { return arm.PrincipalsPath, nil })
}

// principalDelete deletes what find finds: any principal, or a group.
func (a *app) principalDelete(what, example string, find func(s *remote, cmd *cobra.Command, name string) (json.RawMessage, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a " + what + " and its role assignments", Args: principalArgument,
		Example: "  carillon " + what + " delete " + example}
	confirmed := a.confirmation(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		principal, err := find(s, cmd, args[0])
		if err != nil {
			return err
		}
		if err := confirmed("Delete " + what + " " + args[0] + ", with its role assignments?"); err != nil {
			return err
		}
		if err := s.Delete(cmd.Context(), arm.PrincipalsPath+"/"+objectID(principal)); err != nil {
			return err
		}
		return a.deleted(what, args[0])
	}
	return cmd
}
