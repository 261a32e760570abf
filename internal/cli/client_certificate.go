package cli

import (
	"encoding/pem"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// clientCertificateFlags are the flags for the certificate that an endpoint is shown;
// the returned function gives what the API takes, nil when none was given.
func (a *app) clientCertificateFlags(cmd *cobra.Command) func() (map[string]any, error) {
	file := cmd.Flags().String("client-certificate", "", "PEM file with the certificate that the endpoint is shown in TLS, and those that it is signed by; it may hold the key, too.")
	key := cmd.Flags().String("client-key", "", "PEM file with its private key, not encrypted; - for standard input.")
	return sync.OnceValues(func() (map[string]any, error) { // a change may be made again: standard input is read once
		if *file == "" {
			if *key != "" {
				return nil, usagef(cmd, "--client-key needs --client-certificate.")
			}
			return nil, nil
		}
		raw, err := a.readAll(*file)
		if err != nil {
			return nil, err
		}
		chain, private := splitPEM(string(raw))
		if *key != "" {
			raw, err := a.readAll(*key)
			if err != nil {
				return nil, err
			}
			private = string(raw)
		}
		certificate := map[string]any{"certificate": chain}
		if private != "" {
			certificate["key"] = private
		}
		return certificate, nil
	})
}

// splitPEM parts certificates from all else that a PEM file holds. A text that is no
// PEM is taken for a certificate: the server says what is wrong with it.
func splitPEM(text string) (certificates, others string) {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if encoded := string(pem.EncodeToMemory(block)); block.Type == "CERTIFICATE" {
			certificates += encoded
		} else {
			others += encoded
		}
	}
	if certificates == "" && others == "" {
		return text, ""
	}
	return certificates, others
}

// soon is before the end of a certificate when a table points it out, as the server's
// log does.
const soon = 30 * 24 * time.Hour

// clientCertificateText writes the clientCertificate member of a webhook the way a
// table shows it.
func clientCertificateText(certificate map[string]any) string {
	expires := plain(certificate["expires"])
	shown := firstOf(plain(certificate["subject"]), plain(certificate["thumbprint"])) + ", until " + expires
	at, err := time.Parse(time.RFC3339Nano, expires)
	switch left := time.Until(at); {
	case err != nil:
	case left < 0:
		shown += " (expired)"
	case left < soon:
		shown += " (soon)"
	}
	return shown
}

func (a *app) clientCertificateCommand(k kind) *cobra.Command {
	return group("client-certificate", "The certificate that a webhook is shown in TLS",
		`  carillon event-subscription client-certificate set --name failed-runs --client-certificate carillon.pem --client-key carillon.key`,
		a.clientCertificateSet(k), a.clientCertificateRemove(k))
}

func (a *app) clientCertificateSet(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "set", Short: "Show a client certificate, or another one",
		Long: "Show a client certificate in TLS handshakes with the endpoint, or another one. The endpoint is\nasked for consent with it; then all new connections show it. The key can be left out when the\ncertificate was made anew for the present one. The key is shown by no command.",
		Example: `  carillon event-subscription client-certificate set --name failed-runs --client-certificate carillon.pem --client-key carillon.key
  carillon event-subscription client-certificate set --name failed-runs --client-certificate renewed.pem`}
	certificate := a.clientCertificateFlags(cmd)
	return a.changeWebhook(k, cmd, func(cmd *cobra.Command) (map[string]any, error) {
		if err := required(cmd, "client-certificate"); err != nil {
			return nil, err
		}
		changes, err := certificate()
		return map[string]any{"clientCertificate": changes}, err
	})
}

func (a *app) clientCertificateRemove(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "remove", Short: "Forget the client certificate and its key",
		Example: `  carillon event-subscription client-certificate remove --name failed-runs`}
	return a.changeWebhook(k, cmd, func(*cobra.Command) (map[string]any, error) {
		return map[string]any{"clientCertificate": map[string]any{}}, nil
	})
}

// isClientCertificate tells a client certificate from other objects of a resource.
func isClientCertificate(v map[string]any) bool {
	text, _ := v["certificate"].(string)
	return strings.HasPrefix(text, "-----BEGIN CERTIFICATE-----") && v["expires"] != nil
}
