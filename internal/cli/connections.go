package cli

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// connectionList is where connections are in the API.
const connectionList = "/providers/Carillon.Secrets/connections"

func (a *app) connectionKind() kind {
	return kind{
		what: "connection",
		view: view{
			plural: "connections",
			columns: []column{
				{"Name", "name"}, {"Bucket", "properties.bucket"}, {"Host", "properties.host"}, {"Key", "properties.keyName"}, {"Resource", "properties.resourceId"},
			},
			detail: []column{
				{"Endpoint", "?properties.endpoint"}, {"Region", "?properties.region"}, {"Path style", "?properties.pathStyle"}, {"Access key id", "?properties.accessKeyId"},
				{"Created", "systemData.createdAt"}, {"Modified", "systemData.lastModifiedAt"}, {"Etag", "etag"}, {"Id", "id"},
			},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "connection")
			return func(args []string) (string, error) {
				n, err := name(args)
				return a.groupID() + connectionList + "/" + n, err
			}
		},
		names: func() string { return a.groupID() + connectionList },
	}
}

func (a *app) connectionCommand() *cobra.Command {
	k := a.connectionKind()
	return group("connection", "Connections: the keys of Azure resources and of buckets",
		`  carillon connection create bus --resource-id $NAMESPACE --connection-string @bus.txt
  carillon connection list`,
		a.connectionCreate(k), a.connectionUpdate(k),
		a.listCommand(k, &cobra.Command{Example: `  carillon connection list
  carillon connection list -g local -o json`}, func(cmd *cobra.Command) (string, error) { return a.inScope(cmd, connectionList), nil }),
		a.showCommand(k, `  carillon connection show bus
  carillon connection show --name bus -g local -o json`),
		a.deleteCommand(k, `  carillon connection delete bus
  carillon connection delete bus --yes`))
}

// connectionFlags are the flags for what may be changed of a connection; the returned
// function gives the properties. Secrets come from files or standard input, for everybody
// on the machine can read command lines.
func (a *app) connectionFlags(cmd *cobra.Command) func() (map[string]any, error) {
	f := cmd.Flags()
	secrets := map[string]string{"connection-string": "connectionString", "secret-access-key": "secretAccessKey", "session-token": "sessionToken"}
	f.String("connection-string", "", "Connection string of the resource: @FILE, or - for standard input.")
	f.String("endpoint", "", "Address of the store that the bucket is in, such as https://minio.example.org:9000; Amazon's by default.")
	f.String("region", "", "Region of the bucket; the store is asked by default.")
	style := toggleFlag(cmd, "path-style", "Write the bucket as first part of the path, as stores without names of their own for each bucket want it.")
	f.String("access-key-id", "", "Access key id for the bucket; without one requests are not signed.")
	f.String("secret-access-key", "", "Its secret: @FILE, or - for standard input.")
	f.String("session-token", "", `Session token that goes with them: @FILE, or - for standard input; "" takes one away.`)
	for flag := range secrets {
		_ = cmd.MarkFlagFilename(flag)
	}
	return sync.OnceValues(func() (map[string]any, error) { // a change may be made again: standard input is read once
		properties := map[string]any{}
		setText(cmd, properties, map[string]string{"endpoint": "endpoint", "region": "region", "access-key-id": "accessKeyId"})
		if cmd.Flag("path-style").Changed {
			properties["pathStyle"] = bool(*style)
		}
		for _, flag := range []string{"connection-string", "secret-access-key", "session-token"} {
			given := cmd.Flag(flag)
			if !given.Changed {
				continue
			}
			text, err := a.secretArgument(cmd, flag, given.Value.String())
			if err != nil {
				return nil, err
			}
			properties[secrets[flag]] = text
		}
		return properties, nil
	})
}

// secretArgument reads what a flag of the form @FILE or - stands for.
func (a *app) secretArgument(cmd *cobra.Command, flag, value string) (string, error) {
	file, is := strings.CutPrefix(value, "@")
	switch {
	case value == "":
		return "", nil
	case value == "-":
		file = value
	case !is:
		return "", usagef(cmd, "--%s takes @FILE, or - for standard input: everybody on the machine can read command lines.", flag)
	}
	raw, err := a.readAll(file)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

func (a *app) connectionCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a connection, or replace its settings",
		Long: `Give the keys of an Azure resource that event subscriptions deliver to, that dead letters are written to or
that datasets lie in; or those of a bucket of an S3-compatible store that datasets lie in. A connection
string is what Azure shows with the resource's keys, and one of a namespace serves everything in it. The
server seals the secrets and shows them to nobody. There is one connection for each resource and bucket;
it takes the permission to write the resource, and for a bucket the permission to make connections in the
whole subscription.`,
		Example: `  carillon connection create bus --connection-string @bus.txt \
    --resource-id /subscriptions/S/resourceGroups/G/providers/Microsoft.ServiceBus/namespaces/NS
  az storage account show-connection-string -n acct -o tsv | carillon connection create acct --connection-string - \
    --resource-id /subscriptions/S/resourceGroups/G/providers/Microsoft.Storage/storageAccounts/acct
  carillon connection create data --bucket training-data --endpoint https://minio.example.org:9000 --path-style \
    --access-key-id carillon --secret-access-key @key.txt`}
	target := cmd.Flags().String("resource-id", "", "Id of the Azure resource that the connection is for.")
	bucket := cmd.Flags().String("bucket", "", "Bucket that it is for; * for all that have no connection of their own.")
	given := a.connectionFlags(cmd)
	return a.changeCommand(k, cmd, http.MethodPut, func(cmd *cobra.Command, _ *remote, _ string) (any, http.Header, error) {
		if (*target == "") == (*bucket == "") {
			return nil, nil, usagef(cmd, "Give --resource-id with --connection-string, or --bucket with its keys.")
		}
		if *target != "" {
			if err := required(cmd, "connection-string"); err != nil {
				return nil, nil, err
			}
		}
		properties, err := given()
		if err != nil {
			return nil, nil, err
		}
		if *target != "" {
			properties["resourceId"] = *target
		} else {
			properties["bucket"] = *bucket
		}
		return enveloped(properties), nil, nil
	})
}

func (a *app) connectionUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Give a connection other keys, or change its settings",
		Long: "Give a connection other keys, or change its settings. What no flag names stays. The next attempt of every\nevent subscription that uses it is made with the new keys; nothing is started again.",
		Example: `  carillon connection update bus --connection-string @rotated.txt
  carillon connection update data --access-key-id carillon-2 --secret-access-key @key.txt --if-match $ETAG`}
	given := a.connectionFlags(cmd)
	etag := cmd.Flags().String("if-match", "", "Change only while the connection has this etag.")
	return a.changeCommand(k, cmd, http.MethodPatch, func(cmd *cobra.Command, _ *remote, _ string) (any, http.Header, error) {
		properties, err := given()
		if err == nil && len(properties) == 0 {
			err = usagef(cmd, "Nothing to change. Give at least one of the flags that --help lists.")
		}
		return enveloped(properties), ifMatch(*etag), err
	})
}
