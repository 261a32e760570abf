package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

// exitDiffFailed is the exit code of a diff that could not be made, as of kubectl's: 1
// says that there are differences.
const exitDiffFailed = 3

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e *exitError) Unwrap() error { return e.error }

// step is what has to be done for one manifest.
type step struct {
	manifest
	Action      string // create, update, unchanged
	Differences []difference
	there       map[string]any
	etag        string
}

// monitorFile is a file with a drift monitor, as help shows it.
const monitorFile = `
    id: /subscriptions/` + defaultSubscription + `/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default/driftMonitors/orders
    properties:
      baseline: {uri: "https://lake.example/orders/train.parquet"}
      target: {uri: "https://lake.example/orders/{yyyy}/{MM}/{dd}.parquet"}
      features: [amount, country]
      schedule: {frequency: Week, latencyHours: 24}
      threshold: 0.3`

const declarativeFile = `The file is YAML or JSON: resources as the management API takes them, each with its full
id. It may hold several documents, a list, or an object with the list as "resources". What
a resource does not say stays as it is; nothing is deleted. ${env:NAME} stands for an
environment variable, for secrets: its value is sent and not shown.`

func (a *app) fileFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().StringP("filename", "f", "", "File with the resources, - for standard input.")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return file
}

func (a *app) applyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "apply", Short: "Make resources what a file says", Args: noArguments,
		Long: "Create and change resources until they are what a file says: connections, topics, domains and\ntheir topics, system topics, event subscriptions, role definitions, role assignments, deny assignments,\nworkspaces, their drift monitors, the MLflow servers and Kubernetes clusters that they follow, and resource groups,\nin an order in which they can be made. Applied again, it changes nothing.\n\n" + declarativeFile,
		Example: `  carillon apply -f topics.yaml
  carillon apply -f topics.yaml --dry-run
  carillon apply -f -                             # from standard input
  carillon apply -f drift.yaml                    # a drift monitor of your own data, such as
` + monitorFile}
	file := a.fileFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "Show what would change and change nothing.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		steps, s, err := a.plan(cmd, *file)
		if err != nil {
			return err
		}
		for _, step := range steps {
			if !*dry {
				if err := a.take(cmd.Context(), s, step); err != nil {
					return about(step.manifest, err)
				}
			}
			if a.output != "json" {
				a.printStep(step, *dry)
			}
		}
		if a.output == "json" {
			return a.writeSteps(steps)
		}
		return nil
	}
	return cmd
}

func (a *app) diffCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "diff", Short: "Show what apply would change", Args: noArguments,
		Long:    "Show what apply would change. The exit code is 0 if nothing would, 1 if something would,\nand more if that cannot be told.\n\n" + declarativeFile,
		Example: `  carillon diff -f topics.yaml`}
	file := a.fileFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		steps, _, err := a.plan(cmd, *file)
		if err != nil {
			if _, usage := errors.AsType[*usageError](err); usage {
				return err
			}
			return &exitError{err, exitDiffFailed}
		}
		if a.output == "json" {
			if err := a.writeSteps(steps); err != nil {
				return &exitError{err, exitDiffFailed}
			}
		}
		differs := false
		for _, step := range steps {
			if step.Action == "unchanged" {
				continue
			}
			differs = true
			if a.output != "json" {
				a.printStep(step, true)
			}
		}
		if differs {
			return errQuiet
		}
		return nil
	}
	return cmd
}

// plan reads a file and compares it with what is there.
func (a *app) plan(cmd *cobra.Command, file string) ([]step, *remote, error) {
	if file == "" {
		return nil, nil, usagef(cmd, "--filename is needed: the file with the resources, - for standard input.")
	}
	manifests, err := a.readManifests(file)
	if err != nil {
		return nil, nil, err
	}
	s, err := a.connect()
	if err != nil {
		return nil, nil, err
	}
	var steps []step
	for _, m := range manifests {
		step, err := s.compare(cmd.Context(), m)
		if err != nil {
			return nil, nil, about(m, err)
		}
		steps = append(steps, step)
	}
	return steps, s, nil
}

// about says which resource an error is about.
func about(m manifest, err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		told := *f
		told.Message = m.id.String() + ": " + f.Message
		return &told
	}
	return fmt.Errorf("%s: %w", m.id, err)
}

// compare tells what has to be done for a manifest.
func (s *remote) compare(ctx context.Context, m manifest) (step, error) {
	var present json.RawMessage
	header, err := s.Do(ctx, http.MethodGet, m.id.String(), nil, nil, &present, nil)
	if fault.Is(err, fault.NotFound) {
		return step{manifest: m, Action: "create", Differences: differences("", nil, m.body)}, nil
	}
	if err != nil {
		return step{}, err
	}
	full := present
	if m.kind.name == "Microsoft.EventGrid/eventSubscriptions" {
		if full, err = s.withSaidSecrets(ctx, m, present); err != nil {
			return step{}, err
		}
	}
	found := step{manifest: m, Action: "unchanged", there: decoded(present, ""), etag: header.Get("ETag")}
	if found.Differences = differences("", decoded(full, ""), m.body); len(found.Differences) > 0 {
		found.Action = "update"
	}
	return found, nil
}

// withSaidSecrets reads those secrets of an event subscription that a file says and the
// server shows when it is asked for them.
func (s *remote) withSaidSecrets(ctx context.Context, m manifest, present json.RawMessage) (json.RawMessage, error) {
	properties, _ := m.body["properties"].(map[string]any)
	destination, _ := properties["destination"].(map[string]any)
	said, _ := destination["properties"].(map[string]any)
	if said["endpointUrl"] != nil && text(present, "properties.destination.endpointType") == "WebHook" {
		answer, err := s.ask(ctx, http.MethodPost, m.id.String()+"/getFullUrl", nil, nil)
		if err != nil {
			return nil, err
		}
		whole := decoded(present, "")
		whole["properties"] = laidOver(whole["properties"], map[string]any{"destination": map[string]any{"properties": map[string]any{"endpointUrl": text(answer, "endpointUrl")}}})
		if present, err = encodeJSON(whole); err != nil {
			return nil, err
		}
	}
	if said["deliveryAttributeMappings"] != nil {
		return s.withAttributeSecrets(ctx, m.id.String(), present)
	}
	return present, nil
}

// take does a step. What was compared is what is changed: a resource that was made or
// changed since is left alone.
func (a *app) take(ctx context.Context, s *remote, x step) error {
	var answer json.RawMessage
	var err error
	switch {
	case x.Action == "unchanged":
		return nil
	case x.kind.whole:
		body := map[string]any{"properties": laidOver(pruned("properties", x.there["properties"]), x.body["properties"])}
		answer, err = s.ask(ctx, http.MethodPut, x.id.String(), body, nil)
	case x.Action == "create":
		answer, err = s.ask(ctx, http.MethodPut, x.id.String(), x.body, create())
	default:
		answer, err = s.ask(ctx, http.MethodPatch, x.id.String(), x.patch(), ifMatch(strings.Trim(x.etag, `"`)))
	}
	if err != nil {
		return err
	}
	if key := text(answer, "properties.destination.properties.signing.key"); key != "" {
		fmt.Fprintf(a.stderr, "The signing key of %s is %s. It is not shown again.\n", x.id, key)
	}
	if text(answer, "properties.provisioningState") == "AwaitingManualAction" {
		fmt.Fprintf(a.stderr, "%s waits for its endpoint: open the link that it was sent.\n", x.id)
	}
	return x.unheeded(answer)
}

// unheeded is an error about the members of a file that are not in what the server made
// of it: the management API leaves out what it does not know, and a setting that is
// misspelt would be thought to hold.
func (x step) unheeded(answer json.RawMessage) error {
	fields := leftOut("", decoded(answer, ""), x.body)
	if len(fields) == 0 {
		return nil
	}
	return fault.New(fault.Invalid, "UnknownMember", "The server does not know %s and left it out; all else is as the file says. Correct the spelling, or take it out.", strings.Join(fields, ", "))
}

// leftOut are the members that a file says and that are not there at all, but for those
// that the server never shows.
func leftOut(path string, there, said any) (fields []string) {
	switch v := said.(type) {
	case map[string]any:
		present, _ := there.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if hidden := slices.Contains(unshown, name) || name == "endpointUrl" || name == "value" && v["isSecret"] == true; !hidden {
				fields = append(fields, leftOut(strings.TrimPrefix(path+"."+name, "."), present[name], v[name])...)
			}
		}
	case []any:
		list, _ := there.([]any)
		for i := range min(len(list), len(v)) {
			fields = append(fields, leftOut(fmt.Sprintf("%s[%d]", path, i), list[i], v[i])...)
		}
		if there == nil && len(v) > 0 {
			fields = append(fields, path)
		}
	default:
		if there == nil && said != nil && said != false && said != "" && said != secretText("") {
			fields = append(fields, path)
		}
	}
	return fields
}

// patch is the body of a change: the top members, and those of properties, that differ,
// each whole, for a PATCH takes them so.
func (x step) patch() map[string]any {
	body, properties := map[string]any{}, map[string]any{}
	there, _ := x.there["properties"].(map[string]any)
	said, _ := x.body["properties"].(map[string]any)
	for _, d := range x.Differences {
		first, rest, _ := strings.Cut(d.Field, ".")
		if first != "properties" {
			body[first] = laidOver(x.there[first], x.body[first])
			continue
		}
		name, _, _ := strings.Cut(rest, ".")
		properties[name] = laidOver(there[name], said[name])
	}
	if len(properties) > 0 {
		body["properties"] = properties
	}
	return body
}

func (a *app) printStep(x step, would bool) {
	p := a.painter()
	mark, verb := map[string]string{"create": p.green("+"), "update": p.cyan("~"), "unchanged": " "}[x.Action],
		map[string]string{"create": "created", "update": "changed", "unchanged": "unchanged"}[x.Action]
	if would && x.Action != "unchanged" {
		verb = "would be " + verb
	}
	fmt.Fprintf(a.stdout, "%s %s %s\n", mark, x.id, verb)
	if x.Action == "unchanged" {
		return
	}
	for _, d := range x.Differences {
		if x.Action == "create" {
			fmt.Fprintf(a.stdout, "    %s: %s\n", d.Field, compactText(d.After))
			continue
		}
		fmt.Fprintf(a.stdout, "    %s: %s → %s\n", d.Field, compactText(d.Before), compactText(d.After))
	}
}

// compactText writes a value on one line.
func compactText(value any) string {
	if value == nil {
		return "(nothing)"
	}
	raw, err := encodeJSON(value)
	if err != nil {
		return plain(value)
	}
	return oneLine(string(raw))
}

func (a *app) writeSteps(steps []step) error {
	entries := []json.RawMessage{}
	for _, x := range steps {
		raw, err := encodeJSON(struct {
			ID      string       `json:"id"`
			Action  string       `json:"action"`
			Changes []difference `json:"changes,omitempty"`
		}{x.id.String(), x.Action, x.Differences})
		if err != nil {
			return err
		}
		entries = append(entries, raw)
	}
	return writeJSON(a.stdout, joinArray(entries))
}
