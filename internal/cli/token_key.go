package cli

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

var tokenKeyView = view{
	plural:  "signing keys",
	columns: []column{{"Key id", "keyId"}, {"State", "state"}, {"Created", "createdAt"}, {"Verifies until", "verifiesUntil"}},
}

func (a *app) tokenKeyCommand() *cobra.Command {
	return group("signing-key", "The keys that sign the tokens of this server",
		`  carillon signing-key list
  carillon signing-key rotate`,
		a.tokenKeyList(), a.tokenKeyRotate())
}

func (a *app) tokenKeyList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the keys and what each is good for", Example: `  carillon signing-key list`}
	return a.listCommand(kind{view: tokenKeyView}, cmd, func(*cobra.Command) (string, error) { return arm.SigningKeysPath, nil })
}

func (a *app) tokenKeyRotate() *cobra.Command {
	cmd := &cobra.Command{Use: "rotate", Short: "Sign tokens with a new key from now on",
		Long: "Sign tokens with a new key from now on. What the old key signed holds until it expires. With\n--revoke every token that was signed until now ends at once, of everybody, also the one of this\ncommand: for when a signing key, or the data directory, leaked.",
		Example: `  carillon signing-key rotate
  carillon signing-key rotate --revoke --data ./data`}
	revoke := cmd.Flags().Bool("revoke", false, "End every token that was signed until now.")
	cmd.Args = noArguments
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		body := map[string]bool{}
		if *revoke {
			body["revoke"] = true
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		answer, err := s.ask(cmd.Context(), http.MethodPost, arm.RotateKeysPath, body, nil)
		if err != nil {
			return err
		}
		var keys struct {
			Value []json.RawMessage `json:"value"`
		}
		if err := json.Unmarshal(answer, &keys); err != nil {
			return fmt.Errorf("read the signing keys: %w", err)
		}
		return a.list(tokenKeyView, keys.Value)
	}
	return cmd
}
