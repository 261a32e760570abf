package cli

import (
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// applicationFlags are az's flags for the application that the bearer token of a
// webhook is for; the returned function gives the members of the webhook that change.
// Source: spec/management.md section 3.
func applicationFlags(cmd *cobra.Command) func() map[string]any {
	members := map[string]string{
		"azure-active-directory-tenant-id":             "azureActiveDirectoryTenantId",
		"azure-active-directory-application-id-or-uri": "azureActiveDirectoryApplicationIdOrUri",
	}
	cmd.Flags().String("azure-active-directory-tenant-id", "", `Tenant of the bearer token that messages carry: the server's own, or with a token issuer another; "" for no token.`)
	cmd.Flags().String("azure-active-directory-application-id-or-uri", "", `Application that the token is for: its id or URI; "" for no token.`)
	return func() map[string]any {
		changes := map[string]any{}
		for flag, member := range members {
			if f := cmd.Flag(flag); f.Changed {
				changes[member] = nil
				if text := f.Value.String(); text != "" {
					changes[member] = text
				}
			}
		}
		return changes
	}
}

// tokenIssuerFlags are the flags that say who makes the bearer tokens of a webhook;
// the returned function gives what the API takes, nil when none was given. The secret
// comes from a file, for everybody on the machine can read command lines.
func (a *app) tokenIssuerFlags(cmd *cobra.Command) func() (map[string]any, error) {
	members := map[string]string{
		"token-url": "tokenUrl", "token-client-id": "clientId", "token-scope": "scope", "token-audience": "audience",
	}
	f := cmd.Flags()
	f.String("token-url", "", "Token endpoint of the OAuth 2 server that makes the bearer tokens; by default Microsoft Entra's, for the tenant.")
	f.String("token-client-id", "", "Client id to ask that server with.")
	secret := f.String("token-client-secret-file", "", "File with the client secret; - for standard input.")
	f.String("token-scope", "", "Scope to ask for; by default that of the application, if there is one.")
	f.String("token-audience", "", "Audience to ask for, for servers that take one.")
	return sync.OnceValues(func() (map[string]any, error) { // a change may be made again: standard input is read once
		issuer := map[string]any{}
		setText(cmd, issuer, members)
		if *secret != "" {
			raw, err := a.readAll(*secret)
			if err != nil {
				return nil, err
			}
			issuer["clientSecret"] = strings.TrimRight(string(raw), "\r\n")
		}
		if len(issuer) == 0 {
			return nil, nil
		}
		return issuer, nil
	})
}

// tokenIssuerText writes the tokenIssuer member of a webhook the way a table shows it.
func tokenIssuerText(issuer map[string]any) string {
	shown := plain(issuer["clientId"]) + " at " + firstOf(plain(issuer["tokenUrl"]), "Microsoft Entra")
	for _, member := range []string{"scope", "audience"} {
		if text := plain(issuer[member]); text != "" {
			shown += ", " + member + " " + text
		}
	}
	return shown
}

func (a *app) tokenIssuerCommand(k kind) *cobra.Command {
	return group("token-issuer", "Who makes the bearer tokens that messages to a webhook carry",
		`  carillon event-subscription token-issuer set --name failed-runs --token-url https://id.example/oauth2/token --token-client-id carillon \
      --token-client-secret-file secret.txt --token-scope events.write`, a.tokenIssuerSet(k), a.tokenIssuerRemove(k))
}

func (a *app) tokenIssuerSet(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "set", Short: "Name an OAuth 2 server, or change what it is asked",
		Long: "Name the OAuth 2 server that makes the bearer tokens of messages to a webhook, by the grant of\nclient credentials, or change what it is asked. What is not given stays; the secret has to be\ngiven again with another server or client. The endpoint is asked for consent, with a new token.",
		Example: `  carillon event-subscription token-issuer set --name failed-runs --token-url https://id.example/oauth2/token --token-client-id carillon \
      --token-client-secret-file secret.txt --token-scope events.write
  pass show carillon | carillon event-subscription token-issuer set --name failed-runs --token-client-secret-file -`}
	issuer := a.tokenIssuerFlags(cmd)
	return a.changeWebhook(k, cmd, func(cmd *cobra.Command) (map[string]any, error) {
		changes, err := issuer()
		if err == nil && changes == nil {
			err = usagef(cmd, "Nothing to change. Give at least one of the flags that --help lists.")
		}
		return map[string]any{"tokenIssuer": changes}, err
	})
}

func (a *app) tokenIssuerRemove(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "remove", Short: "Forget the OAuth 2 server and its secret",
		Long:    "Forget the OAuth 2 server and its secret. Where the event subscription names an application,\nCarillon makes the tokens itself from then on; otherwise messages carry none.",
		Example: `  carillon event-subscription token-issuer remove --name failed-runs`}
	return a.changeWebhook(k, cmd, func(*cobra.Command) (map[string]any, error) {
		return map[string]any{"tokenIssuer": map[string]any{}}, nil
	})
}
