package cli

import (
	"github.com/spf13/cobra"
)

// deadLetterFlags are the flags of an event subscription that say where its dead
// letters are written. Source: spec/management.md section 3.
func deadLetterFlags(cmd *cobra.Command) func(properties map[string]any) error {
	endpoint := cmd.Flags().String("deadletter-endpoint", "", "Where dead letters are written: {storage account id}/blobServices/default/containers/{container}.")
	directory := cmd.Flags().String("deadletter-directory", "", "Directory of the server for them instead, below its --dead-letter-root; \"\" for neither.")
	return func(properties map[string]any) error {
		given := cmd.Flag("deadletter-endpoint").Changed || cmd.Flag("deadletter-directory").Changed
		switch {
		case *endpoint != "" && *directory != "":
			return usagef(cmd, "--deadletter-endpoint and --deadletter-directory exclude each other.")
		case *directory != "":
			properties["deadLetterDestination"] = map[string]any{"endpointType": "LocalDirectory", "properties": map[string]any{"directory": *directory}}
		case *endpoint != "":
			account, container, ok := cutFold(*endpoint, "/blobservices/default/containers/")
			if !ok {
				return usagef(cmd, "--deadletter-endpoint is {storage account id}/blobServices/default/containers/{container}, not %q.", *endpoint)
			}
			properties["deadLetterDestination"] = map[string]any{"endpointType": "StorageBlob",
				"properties": map[string]any{"resourceId": account, "blobContainerName": container}}
		case given:
			properties["deadLetterDestination"] = map[string]any{}
		}
		return nil
	}
}
