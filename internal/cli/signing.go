package cli

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/secret"
)

// signingFlags are the flags that say how deliveries to a webhook are signed; the
// returned function gives what the API takes, nil when none was given.
func (a *app) signingFlags(cmd *cobra.Command) func() (map[string]any, error) {
	version := cmd.Flags().String("signing", "", "Sign deliveries the way of Standard Webhooks: v1 (HMAC-SHA256), v1a (ed25519) or none. The key that is made is shown once.")
	key := cmd.Flags().String("signing-key", "", "With --signing: the key to begin with, whsec_… or whsk_…, @FILE, or - for standard input; one is made by default.")
	_ = cmd.RegisterFlagCompletionFunc("signing", cobra.FixedCompletions([]string{"v1", "v1a", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return func() (map[string]any, error) {
		if *version == "" {
			if *key != "" {
				return nil, usagef(cmd, "--signing-key needs --signing. To replace a key use signing-key rotate.")
			}
			return nil, nil
		}
		word, err := oneOf(cmd, "signing", *version, "v1", "v1a", "none")
		if err != nil {
			return nil, err
		}
		signing := map[string]any{"version": word}
		if *key != "" {
			if signing["key"], err = a.signingKeyText(*key); err != nil {
				return nil, err
			}
		}
		return signing, nil
	}
}

// signingKeyText is a key as it is given: the key, @FILE, or - for standard input.
func (a *app) signingKeyText(given string) (string, error) {
	file, is := strings.CutPrefix(given, "@")
	if !is && given != "-" {
		return given, nil
	}
	raw, err := a.readAll(file)
	if err != nil {
		return "", fmt.Errorf("--signing-key: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// forwardSigningFlags are the flags of signingFlags where this command signs itself.
func (a *app) forwardSigningFlags(cmd *cobra.Command) func(f *forwarder) error {
	version := cmd.Flags().String("signing", "", "With --forward: sign what is posted the way of Standard Webhooks, as a server does: v1 (HMAC-SHA256) or v1a (ed25519). A key is made, and shown.")
	key := cmd.Flags().String("signing-key", "", "With --forward: the key to sign with, whsec_… or whsk_…, @FILE, or - for standard input.")
	_ = cmd.RegisterFlagCompletionFunc("signing", cobra.FixedCompletions([]string{secret.SignatureV1, secret.SignatureV1a}, cobra.ShellCompDirectiveNoFileComp))
	return func(f *forwarder) error {
		if *version == "" && *key == "" {
			return nil
		}
		word := ""
		if *version != "" {
			var err error
			if word, err = oneOf(cmd, "signing", *version, secret.SignatureV1, secret.SignatureV1a); err != nil {
				return err
			}
		}
		var with secret.SigningKey
		if *key == "" {
			var err error
			if with, err = secret.NewSigningKey(word); err != nil {
				return err
			}
			f.told = with.Reveal()
		} else {
			given, err := a.signingKeyText(*key)
			if err != nil {
				return err
			}
			if with, err = secret.ParseSigningKey(given); err != nil {
				return usagef(cmd, "--signing-key: %v.", err)
			}
			if word != "" && word != with.Version() {
				return usagef(cmd, "--signing %s does not fit the key, which is one of %s.", word, with.Version())
			}
		}
		if public := with.Public(); public != "" {
			f.told = public
		}
		f.keys = []secret.SigningKey{with}
		return nil
	}
}

// signingText writes the signing member of a webhook the way a table shows it.
func signingText(signing map[string]any) string {
	shown := plain(signing["version"])
	if key := plain(signing["key"]); key != "" {
		shown += ", key " + key
	}
	keys, _ := signing["keys"].([]any)
	for _, k := range keys {
		k, _ := k.(map[string]any)
		if public := plain(k["publicKey"]); public != "" {
			shown += ", public key " + public
		}
		if expires := plain(k["expires"]); expires != "" {
			shown += ", the former key until " + expires
		}
	}
	return shown
}

func (a *app) signingKeyCommand(k kind) *cobra.Command {
	return group("signing-key", "Keys that sign deliveries to a webhook", `  carillon event-subscription signing-key rotate --name failed-runs`, a.signingKeyRotate(k))
}

func (a *app) signingKeyRotate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "rotate", Short: "Make a new signing key, beside the present one for a while", Example: `  carillon event-subscription signing-key rotate --name failed-runs
  carillon event-subscription signing-key rotate --name failed-runs --overlap-hours 0   # the present key is known to others`}
	hours := cmd.Flags().Int("overlap-hours", 24, "How long deliveries carry a signature of the present key, too; 0 to 720.")
	key := cmd.Flags().String("signing-key", "", "The new key, whsec_… or whsk_…, @FILE, or - for standard input; one is made by default, and shown once.")
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		body := map[string]any{"overlapInHours": *hours}
		if *key != "" {
			given, err := a.signingKeyText(*key)
			if err != nil {
				return err
			}
			body["key"] = given
		}
		rotated, err := s.ask(cmd.Context(), http.MethodPost, p+"/rotateSigningKey", body, nil)
		if err != nil {
			return err
		}
		return a.show(view{columns: []column{{"Version", "version"}, {"Key", "key"}, {"Public key", "publicKey"}, {"Former key until", "previousKeyExpires"}}}, rotated)
	})
}
