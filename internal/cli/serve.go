package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// serveOptions is what the flags of serve say. Empty members keep the server's
// defaults.
type serveOptions struct {
	Data             string
	Listen           string
	Durability       string
	LogQuota         string
	Memory           string
	AllowDestination []string
	InsecureHTTP     bool
	WorkspaceRule    string
	LogLevel         string
}

// runServer runs a server until ctx ends and it has drained. ready is called once,
// when it takes traffic.
var runServer func(ctx context.Context, o serveOptions, ready func(url, caSHA256 string)) error

func (a *app) serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{Use: "serve", Short: "Run a server on a data directory", Args: noArguments,
		Long: "Run a server on a data directory, which is made if it is not there. When it takes\ntraffic it prints one line to standard output: ready url=… ca-sha256=…; its log goes to\nstandard error. SIGTERM and SIGINT let it finish what it has begun, and it exits 0.",
		Example: `  carillon serve --data ./data
  carillon serve --data ./data --listen 127.0.0.1:7443 --durability process
  carillon serve --data ./data --listen 0.0.0.0:7443 --allow-destination 10.0.0.0/8`}
	f := cmd.Flags()
	a.dataFlag(cmd)
	f.StringVar(&o.Listen, "listen", "", "Address to listen on, HOST:PORT; 127.0.0.1:7443 by default, port 0 takes a free one.")
	f.StringVar(&o.Durability, "durability", "", "What a publisher's 200 means: process (survives the end of the process) or disk (survives the machine; the default).")
	f.StringVar(&o.LogQuota, "log-quota", "", "Size of the event log, e.g. 10GiB.")
	f.StringVar(&o.Memory, "memory", "", "Memory for events on their way, e.g. 256MiB.")
	f.StringArrayVar(&o.AllowDestination, "allow-destination", nil, "Network that events may be sent to although it is private, CIDR; may be repeated.")
	f.BoolVar(&o.InsecureHTTP, "insecure-http", false, "Take plain http from other machines, too: tokens and keys can be read on the way.")
	f.StringVar(&o.WorkspaceRule, "workspace-rule", "", "Who may change event subscriptions of a workspace: strict (its contributors and owners; the default) or actions (whoever has the action).")
	f.StringVar(&o.LogLevel, "log-level", "", "Least level of records in the log: debug, info (the default), warn or error.")
	_ = cmd.RegisterFlagCompletionFunc("durability", cobra.FixedCompletions([]string{"process", "disk"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("workspace-rule", cobra.FixedCompletions([]string{"strict", "actions"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Data, err = a.directory(cmd); err != nil {
			return err
		}
		for _, check := range []struct {
			flag  string
			value *string
			set   []string
		}{
			{"durability", &o.Durability, []string{"process", "disk"}},
			{"workspace-rule", &o.WorkspaceRule, []string{"strict", "actions"}},
			{"log-level", &o.LogLevel, []string{"debug", "info", "warn", "error"}},
		} {
			if *check.value == "" {
				continue
			}
			if *check.value, err = oneOf(cmd, check.flag, *check.value, check.set...); err != nil {
				return err
			}
		}
		return runServer(cmd.Context(), o, func(url, caSHA256 string) {
			fmt.Fprintf(a.stdout, "ready url=%s ca-sha256=%s\n", url, caSHA256)
		})
	}
	return cmd
}
