package cli

import (
	"errors"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
)

var masterKeyView = view{
	columns: []column{
		{"Key id", "properties.keyId"}, {"Kept in", "properties.source"}, {"Rotated", "?properties.rotatedOn"},
		{"Secrets", "properties.secretCount"}, {"To follow", "properties.secretsToFollow"}, {"Old keys kept", "?properties.retiredKeyIds"},
	},
}

func (a *app) masterKeyCommand() *cobra.Command {
	return group("master-key", "The key that secrets are sealed with on the server's disk",
		`  carillon master-key show
  carillon master-key rotate`,
		a.masterKeyShow(), a.masterKeyRotate())
}

func (a *app) masterKeyShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Tell where the master key is, and what is sealed with it", Args: noArguments, Example: `  carillon master-key show -o json`}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		key, err := s.get(cmd.Context(), arm.MasterKeyPath)
		if err != nil {
			return err
		}
		return a.show(masterKeyView, key)
	}
	return cmd
}

func (a *app) masterKeyRotate() *cobra.Command {
	cmd := &cobra.Command{Use: "rotate", Short: "Seal every secret with a new master key", Args: noArguments,
		Long: "Seal every secret with a new master key. A server that keeps its key in the data\ndirectory makes a new one; where it was given one by --master-key-file or\n--master-key-command, put a new one before it there first. The old key is kept until\nnothing needs it; the command waits for that.",
		Example: `  carillon master-key rotate
  carillon master-key rotate --no-wait && carillon master-key show`}
	noWait := cmd.Flags().Bool("no-wait", false, "Do not wait until every secret has followed.")
	every := time.Second / 5
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		key, err := s.ask(cmd.Context(), http.MethodPost, arm.MasterKeyPath+"/rotate", nil, nil)
		if err != nil {
			return err
		}
		made := text(key, "properties.keyId")
		for !*noWait && text(key, "properties.rotating") == "true" {
			select {
			case <-cmd.Context().Done():
				return errors.New("interrupted; the server goes on, carillon master-key show tells how far it is")
			case <-time.After(every):
			}
			if key, err = s.get(cmd.Context(), arm.MasterKeyPath); err != nil {
				return err
			}
			if now := text(key, "properties.keyId"); now != made {
				return errors.New("the master key was changed once more, to " + now)
			}
		}
		return a.show(masterKeyView, key)
	}
	return cmd
}
