package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// appCredentialView shows by what a service principal signs in. Kind is put in here.
var appCredentialView = view{
	plural:  "credentials",
	columns: []column{{"Key id", "keyId"}, {"Kind", "kind"}, {"Shows", "shown"}, {"Created", "createdAt"}, {"Ends", "endDateTime"}},
}

var federatedView = view{
	plural:  "federated credentials",
	columns: []column{{"Name", "name"}, {"Issuer", "issuer"}, {"Subject", "subject"}, {"Audiences", "audiences"}},
}

func (a *app) credentialCommand() *cobra.Command {
	return group("credential", "Client secrets and certificates of a service principal",
		`  carillon principal credential list ci
  carillon principal credential add ci --certificate ci.pem`,
		a.appCredentialList(), a.appCredentialAdd(), a.appCredentialDelete())
}

func (a *app) appCredentialList() *cobra.Command {
	cmd := &cobra.Command{Use: "list NAME", Short: "List client secrets and certificates", Example: `  carillon principal credential list ci`}
	return a.onPrincipal(cmd, func(_ *cobra.Command, _ *remote, principal json.RawMessage) error {
		var p struct {
			Properties struct {
				Secrets      []map[string]any `json:"secrets"`
				Certificates []map[string]any `json:"certificates"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(principal, &p); err != nil {
			return fmt.Errorf("read the principal: %w", err)
		}
		list := []json.RawMessage{}
		for _, of := range []struct {
			kind, shown, suffix string
			list                []map[string]any
		}{{"secret", "hint", "…", p.Properties.Secrets}, {"certificate", "subject", "", p.Properties.Certificates}} {
			for _, c := range of.list {
				c["kind"], c["shown"] = of.kind, plain(c[of.shown])+of.suffix
				raw, err := json.Marshal(c)
				if err != nil {
					return fmt.Errorf("list credentials: %w", err)
				}
				list = append(list, raw)
			}
		}
		return a.list(appCredentialView, list)
	})
}

func (a *app) appCredentialAdd() *cobra.Command {
	cmd := &cobra.Command{Use: "add NAME", Short: "Add a client secret, shown once, or a certificate",
		Long: "Add a client secret beside the one that is there, so that users of the old one can change over, and\nshow it once. Or add a certificate: its key signs the assertions that the principal signs in with.",
		Example: `  carillon principal credential add ci
  carillon principal credential add ci --end-date 2027-06-30T00:00:00Z
  carillon principal credential add ci --certificate ci.pem`}
	certificate := cmd.Flags().String("certificate", "", "PEM file with the certificate, without the key; - for standard input.")
	end := cmd.Flags().String("end-date", "", "When the client secret ends, like 2027-06-30T00:00:00Z; never by default.")
	return a.onPrincipal(cmd, func(cmd *cobra.Command, s *remote, principal json.RawMessage) error {
		path := principalPath(principal) + "/credentials"
		if *certificate != "" {
			if *end != "" {
				return usagef(cmd, "--end-date is for a client secret; a certificate says itself when it ends.")
			}
			raw, err := a.readAll(*certificate)
			if err != nil {
				return err
			}
			changed, err := s.ask(cmd.Context(), http.MethodPost, path, map[string]string{"certificate": string(raw)}, nil)
			if err != nil {
				return err
			}
			return a.show(principalView, changed)
		}
		body := map[string]string{}
		if *end != "" {
			at, err := time.Parse(time.RFC3339, *end)
			if err != nil {
				return usagef(cmd, "--end-date %q is not a time like 2027-06-30T00:00:00Z.", *end)
			}
			body["endDateTime"] = at.UTC().Format(time.RFC3339)
		}
		return a.showSecret(cmd, s, path, body)
	})
}

func (a *app) appCredentialDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a client secret or a certificate and end every token",
		Long:    "Delete a client secret or a certificate. Every token of the principal ends, for nobody can tell which\ncredential one came from; whoever has another credential gets a new one.",
		Example: `  carillon principal credential delete ci --key-id 0a1b2c3d-0000-5000-8000-000000000001`}
	id := cmd.Flags().String("key-id", "", "Id of the credential, from the list.")
	return a.credentialDelete(cmd, "credential", "key-id", id, "/credentials/")
}

// credentialDelete makes the command that deletes the credential which a flag names.
func (a *app) credentialDelete(cmd *cobra.Command, what, flag string, value *string, collection string) *cobra.Command {
	confirmed := a.confirmation(cmd)
	return a.onPrincipal(cmd, func(cmd *cobra.Command, s *remote, principal json.RawMessage) error {
		if err := required(cmd, flag); err != nil {
			return err
		}
		if err := confirmed("Delete " + what + " " + *value + "? Every token of the principal ends."); err != nil {
			return err
		}
		if _, err := s.ask(cmd.Context(), http.MethodDelete, principalPath(principal)+collection+*value, nil, nil); err != nil {
			return err
		}
		return a.deleted(what, *value)
	})
}

func (a *app) federatedCommand() *cobra.Command {
	return group("federated-credential", "Tokens of foreign issuers that stand for a client secret",
		`  carillon principal federated-credential create ci --name prod --issuer https://token.actions.githubusercontent.com --subject repo:org/app:ref:refs/heads/main`,
		a.federatedList(), a.federatedCreate(), a.federatedDelete())
}

func (a *app) federatedList() *cobra.Command {
	cmd := &cobra.Command{Use: "list NAME", Short: "List federated credentials", Example: `  carillon principal federated-credential list ci`}
	return a.onPrincipal(cmd, func(_ *cobra.Command, _ *remote, principal json.RawMessage) error {
		list, err := federatedOf(principal)
		if err != nil {
			return err
		}
		return a.list(federatedView, list)
	})
}

func federatedOf(principal json.RawMessage) ([]json.RawMessage, error) {
	var p struct {
		Properties struct {
			Federated []json.RawMessage `json:"federatedCredentials"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(principal, &p); err != nil {
		return nil, fmt.Errorf("read the principal: %w", err)
	}
	return append([]json.RawMessage{}, p.Properties.Federated...), nil
}

func (a *app) federatedCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Take the tokens of a foreign issuer for a principal",
		Long: "Take the tokens of a foreign issuer in place of a client secret. Issuer, subject and audience are\ncompared exactly. One of the same name is replaced, and every token of the principal ends.",
		Example: `  carillon principal federated-credential create ci --name prod --issuer https://token.actions.githubusercontent.com --subject repo:org/app:ref:refs/heads/main
  carillon principal federated-credential create trainer --name cluster --issuer https://oidc.example.org/cluster --subject system:serviceaccount:ml:trainer`}
	name := cmd.Flags().String("name", "", "Name of the credential.")
	issuer := cmd.Flags().String("issuer", "", "Issuer of the tokens, exactly as they have it; https.")
	subject := cmd.Flags().String("subject", "", "Subject of the tokens, exactly.")
	audiences := cmd.Flags().StringArray("audience", nil, "Audience of the tokens; api://AzureADTokenExchange by default; may be repeated.")
	return a.onPrincipal(cmd, func(cmd *cobra.Command, s *remote, principal json.RawMessage) error {
		if err := required(cmd, "name", "issuer", "subject"); err != nil {
			return err
		}
		body := map[string]any{"issuer": *issuer, "subject": *subject}
		if len(*audiences) > 0 {
			body["audiences"] = *audiences
		}
		changed, err := s.ask(cmd.Context(), http.MethodPut, principalPath(principal)+"/federatedCredentials/"+*name, body, nil)
		if err != nil {
			return err
		}
		list, err := federatedOf(changed)
		if err != nil {
			return err
		}
		return a.list(federatedView, list)
	})
}

func (a *app) federatedDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a federated credential and end every token",
		Example: `  carillon principal federated-credential delete ci --name prod`}
	name := cmd.Flags().String("name", "", "Name of the credential.")
	return a.credentialDelete(cmd, "federated credential", "name", name, "/federatedCredentials/")
}
