package cli

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) modelKind() kind {
	return kind{
		what: "model version",
		view: view{
			plural: "model versions",
			columns: []column{{"Model", "properties.modelName"}, {"Version", "name"}, {"Run", "properties.runId"},
				{"Tags", "properties.tags"}, {"Created", "systemData.createdAt"}},
			detail: []column{{"Uri", "properties.modelUri"}, {"Properties", "properties.properties"}, {"Etag", "etag"}, {"Id", "id"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			named := versionFlags(cmd, "Version of the model.")
			return func(args []string) (string, error) {
				model, version, err := named(args)
				if err == nil && version == "" {
					err = usagef(cmd, "Which version of the model %s? Give %[1]s:VERSION, or --version.", model)
				}
				return a.versionsPath(model) + "/" + version, err
			}
		},
		names: a.modelsPath,
	}
}

// versionFlags are the name flag of models and --version. A version may be given behind
// the name, too, as output has it.
func versionFlags(cmd *cobra.Command, usage string) func(args []string) (model, version string, err error) {
	name := nameOrIDFlag(cmd, "model", "Name of the model, or NAME:VERSION")
	flag := cmd.Flags().StringP("version", "v", "", usage)
	return func(args []string) (model, version string, err error) {
		chosen, err := name(args)
		if err != nil {
			return "", "", err
		}
		model, version, both := strings.Cut(chosen, ":")
		if both && *flag != "" && *flag != version {
			return "", "", usagef(cmd, "--version says %q and the name says %q; give one of them.", *flag, version)
		}
		if !both {
			version = *flag
		}
		if err := segment(cmd, "model", model); err != nil {
			return "", "", err
		}
		return model, version, segment(cmd, "version", version)
	}
}

func (a *app) modelsPath() string { return a.workspaceID() + "/models" }

func (a *app) versionsPath(model string) string { return a.modelsPath() + "/" + model + "/versions" }

func (a *app) modelCommand() *cobra.Command {
	k := a.modelKind()
	return group("model", "Model versions; a new one raises ModelRegistered",
		`  carillon model register churn --tags stage=production
  carillon model list --name churn`,
		a.modelRegister(k),
		a.showCommand(k, `  carillon model show churn:3`),
		a.modelList(k),
		a.modelUpdate(k),
		a.deleteCommand(k, `  carillon model delete churn:3`),
	)
}

func modelFlags(cmd *cobra.Command) func(properties map[string]any) {
	tags, properties := tagsFlag(cmd), propertiesFlag(cmd)
	cmd.Flags().String("model-uri", "", "Where the model's files are.")
	cmd.Flags().String("run-id", "", "Run that made the model.")
	return func(body map[string]any) {
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		if properties.given() {
			body["properties"] = properties.pairs()
		}
		setText(cmd, body, map[string]string{"model-uri": "modelUri", "run-id": "runId"})
	}
}

func (a *app) modelRegister(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "register", Aliases: []string{"create"}, Short: "Register a model as its next version, or as the version given",
		Example: `  carillon model register churn --tags stage=production ncd=true
  carillon model register churn:7 --model-uri s3://models/churn/7 --run-id nightly-7`}
	named := versionFlags(cmd, "Version; the next number by default.")
	fill := modelFlags(cmd)
	a.complete(cmd, k.names)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		model, version, err := named(args)
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		properties := map[string]any{}
		fill(properties)
		var registered json.RawMessage
		if version == "" {
			registered, err = s.ask(cmd.Context(), http.MethodPost, a.versionsPath(model), enveloped(properties), nil)
		} else {
			registered, err = s.ask(cmd.Context(), http.MethodPut, a.versionsPath(model)+"/"+version, enveloped(properties), create())
		}
		if err != nil {
			return err
		}
		return a.show(k.view, registered)
	}
	return cmd
}

func (a *app) modelList(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List versions of one model, or of all", Args: noArguments,
		Example: `  carillon model list --name churn
  carillon model list -o json`}
	name := cmd.Flags().StringP("name", "n", "", "Name of the model.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		models := []string{*name}
		if *name == "" {
			if models, err = s.names(cmd, a.modelsPath()); err != nil {
				return err
			}
		}
		versions := []json.RawMessage{}
		for _, m := range models {
			if err := segment(cmd, "model", m); err != nil {
				return err
			}
			of, err := s.all(cmd.Context(), a.versionsPath(m), pageSize())
			if err != nil {
				return err
			}
			versions = append(versions, of...)
		}
		return a.list(k.view, versions)
	}
	_ = cmd.RegisterFlagCompletionFunc("name", a.completeNames(a.modelsPath))
	return cmd
}

func (a *app) modelUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Change tags, properties, run or files of a model version", Example: `  carillon model update churn:3 --tags stage=production --remove-tags candidate`}
	fill := modelFlags(cmd)
	remove := removeTagsFlag(cmd)
	etag := cmd.Flags().String("if-match", "", "Change only while the model version has this etag.")
	return a.changeCommand(k, cmd, http.MethodPatch, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		properties := map[string]any{}
		fill(properties)
		remove(properties)
		return enveloped(properties), ifMatch(*etag), nil
	})
}
