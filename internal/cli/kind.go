package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

// kind is one kind of resource: how its commands call it, find it and show it.
type kind struct {
	what string // "topic", "event subscription"
	view view
	// locate adds the flags that name one resource to a command; the returned
	// function gives the resource's path once the flags are read.
	locate func(cmd *cobra.Command) func(args []string) (string, error)
	// names is the path of the list that the shell completes names from; nil for none, and
	// where locate adds that itself.
	names func() string
	takes string // what else goes with one that is deleted, "" for nothing
}

// onResource makes a command that does something with one resource: do gets the
// server and the resource's path.
func (a *app) onResource(k kind, cmd *cobra.Command, do func(cmd *cobra.Command, s *remote, path string) error) *cobra.Command {
	locate := a.locator(cmd, k)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := locate(args)
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		return elsewhere(cmd, do(cmd, s, path))
	}
	return cmd
}

// showCommand reads one resource.
func (a *app) showCommand(k kind, example string) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show one " + k.what, Example: example}
	return a.showWith(k, cmd, func(ctx context.Context, s *remote, path string) (json.RawMessage, error) { return s.get(ctx, path) })
}

// showWith is showCommand with a reader of its own.
func (a *app) showWith(k kind, cmd *cobra.Command, read func(ctx context.Context, s *remote, path string) (json.RawMessage, error)) *cobra.Command {
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		resource, err := read(cmd.Context(), s, p)
		if err != nil {
			return err
		}
		return a.show(k.view, resource)
	})
}

// deleteCommand removes one resource; that there was none is said and no error. A person
// is asked first.
func (a *app) deleteCommand(k kind, example string) *cobra.Command {
	cmd := &cobra.Command{Use: "delete", Short: "Delete one " + k.what, Example: example}
	etag := cmd.Flags().String("if-match", "", "Delete only while the resource has this etag.")
	confirmed := a.confirmation(cmd)
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		name := p[strings.LastIndexByte(p, '/')+1:]
		if _, err := s.get(cmd.Context(), p); fault.Is(err, fault.NotFound) && *etag == "" {
			fmt.Fprintf(a.stderr, "There is no %s %s: nothing was deleted.%s\n", k.what, name, byDefault(cmd))
			return nil
		} // what may not be read may still be deleted
		question := "Delete " + k.what + " " + name
		if k.takes != "" {
			question += ", with " + k.takes
		}
		if err := confirmed(question + "?"); err != nil {
			return err
		}
		if _, err := s.ask(cmd.Context(), http.MethodDelete, p, nil, ifMatch(*etag)); err != nil {
			return err
		}
		return a.deleted(k.what, name)
	})
}

// changeCommand sends the body that its flags make of a resource and shows the
// answer. body gets the server so that it can look at what is there.
func (a *app) changeCommand(k kind, cmd *cobra.Command, method string,
	body func(cmd *cobra.Command, s *remote, path string) (any, http.Header, error),
) *cobra.Command {
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		b, header, err := body(cmd, s, p)
		if err != nil {
			return err
		}
		resource, err := s.ask(cmd.Context(), method, p, b, header)
		if err != nil {
			return err
		}
		return a.show(k.view, resource)
	})
}

// listCommand reads all pages of a list.
func (a *app) listCommand(k kind, cmd *cobra.Command, path func(cmd *cobra.Command) (string, error)) *cobra.Command {
	cmd.Use = "list"
	cmd.Short = "List " + k.view.plural
	cmd.Args = noArguments
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := path(cmd)
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		resources, err := s.all(cmd.Context(), p, pageSize())
		if err != nil {
			return err
		}
		return a.list(k.view, resources)
	}
	return cmd
}

func (a *app) locator(cmd *cobra.Command, k kind) func(args []string) (string, error) {
	path := k.locate(cmd)
	if k.names != nil {
		a.complete(cmd, k.names)
	}
	return path
}

// inScope is the path of a list of a provider's resources: of the resource
// group when -g is given, of the subscription otherwise, as az does it.
func (a *app) inScope(cmd *cobra.Command, provider string) string {
	if f := cmd.Flag("resource-group"); f != nil && f.Changed {
		return a.groupID() + provider
	}
	return a.subscriptionID() + provider
}

// groupLocation asks where a resource group is, for resources that are made
// without a location, as az does.
func (s *remote) groupLocation(cmd *cobra.Command, groupID string) (string, error) {
	group, err := s.get(cmd.Context(), groupID)
	if err != nil {
		return "", err
	}
	return text(group, "location"), nil
}

// enveloped puts properties into a body.
func enveloped(properties map[string]any) map[string]any {
	return map[string]any{"properties": properties}
}

// decoded returns the object at a path as values that can be changed and sent
// back; the path "" is the whole resource.
func decoded(resource json.RawMessage, path string) map[string]any {
	object, _ := member(resource, path).(map[string]any)
	return object
}
