package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes of [Run].
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// app is one run of the program.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string

	// flags of client commands
	data         string
	url          string
	subscription string
	group        string
	workspace    string
	output       string
}

// Run executes one command line, without the program's name, and returns the
// exit code. SIGINT, SIGTERM and a terminal that closes (SIGHUP, unless the program was
// started with nohup) end ctx for the command; a second one ends the process.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, ends...)
	defer stop()
	context.AfterFunc(ctx, stop)

	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv}
	root := a.root()
	root.SetArgs(joinValues(args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.report(root.ExecuteContext(ctx))
}

// usageError is a wrong command line; it ends the program with exit code 2.
type usageError struct {
	message string
	command string // whose help says more
}

func (e *usageError) Error() string { return e.message }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...), command: cmd.CommandPath()}
}

// errQuiet fails a command that has already said everything.
var errQuiet = errors.New("failed")

func (a *app) root() *cobra.Command {
	root := group("carillon", "Machine learning lifecycle events, from what happened to every handler that asked",
		`  carillon demo                                   # the whole story in one command
  carillon serve --data ./data &                  # a server
  eval "$(carillon env --data ./data)"            # tell this shell about it
  carillon listen --subscribe to-my-terminal &    # a handler
  carillon run create --experiment churn --status Failed`,
		a.serveCommand(), a.tokenCommand(), a.envCommand(), a.versionCommand(), a.demoCommand(),
		a.client(a.listenCommand()),
		a.client(a.workspaceCommand()), a.client(a.runCommand()), a.client(a.modelCommand()),
		a.client(a.endpointCommand()), a.client(a.driftCommand()), a.client(a.mlflowCommand()), a.client(a.openlineageCommand()), a.client(a.kubernetesCommand()),
		a.client(a.topicCommand()), a.client(a.domainCommand()), a.client(a.topicTypeCommand()), a.client(a.systemTopicCommand()), a.client(a.eventSubscriptionCommand()), a.client(a.destinationCommand()), a.client(a.connectionCommand()),
		a.client(a.applyCommand()), a.client(a.diffCommand()), a.client(a.exportCommand()),
		a.client(a.roleCommand()), a.client(a.principalCommand()), a.client(a.tokenKeyCommand()), a.client(a.groupCommand()), a.client(a.accessCommand()), a.client(a.auditCommand()), a.client(a.masterKeyCommand()),
		a.client(a.eventCommand()), a.client(a.deadLetterCommand()),
		a.azCommand(),
	)
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		text, _, _ := strings.Cut(err.Error(), ": strconv.") // where it was found out helps nobody
		if flag := cmd.Flag("advanced-filter"); flag != nil && flag.Changed && strings.HasPrefix(text, "unknown") {
			text += `. A value of --advanced-filter that begins with - stands in two kinds of quotes: "'-x'"`
		}
		return usagef(cmd, "%s", sentence(text))
	})
	return root
}

// group makes a command that only holds others.
func group(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ArbitraryArgs, DisableFlagsInUseLine: true}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && !cmd.HasParent() {
			return cmd.Help()
		}
		if len(args) == 0 {
			cmd.SetOut(cmd.ErrOrStderr())
			_ = cmd.Help()
			return usagef(cmd, "%q needs one of its commands.", cmd.CommandPath())
		}
		hint := ""
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(" Did you mean %q?", near[0])
		}
		return usagef(cmd, "%q has no command %q.%s", cmd.CommandPath(), args[0], hint)
	}
	cmd.AddCommand(commands...)
	return cmd
}

// nameFlag adds --name/-n to a command and lets the name be its one argument,
// too. The returned function gives the name.
func nameFlag(cmd *cobra.Command, what string) func(args []string) (string, error) {
	name := nameOrIDFlag(cmd, what, "Name of the "+what)
	return func(args []string) (string, error) {
		chosen, err := name(args)
		if err != nil {
			return "", err
		}
		return chosen, segment(cmd, what, chosen)
	}
}

// nameOrIDFlag is nameFlag for what may be named by its full id, too.
func nameOrIDFlag(cmd *cobra.Command, what, usage string) func(args []string) (string, error) {
	var name string
	cmd.Flags().StringVarP(&name, "name", "n", "", usage+"; may also be given as the argument.")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef(cmd, "%q is one argument too many: %q takes one name.", args[1], cmd.CommandPath())
		}
		return nil
	}
	return func(args []string) (string, error) {
		chosen := name
		if chosen == "" && len(args) == 1 {
			chosen = args[0]
		} else if len(args) == 1 && args[0] != chosen {
			return "", usagef(cmd, "--name says %q and the argument says %q; give one of them.", chosen, args[0])
		}
		if chosen == "" {
			return "", usagef(cmd, "The %s has no name. Give --name NAME.", what)
		}
		return chosen, nil
	}
}

// segment refuses a name that cannot be one segment of a path.
func segment(cmd *cobra.Command, what, name string) error {
	if strings.ContainsAny(name, "/?#") || name == "." || name == ".." {
		return usagef(cmd, "%q cannot be the name of the %s: it may not hold '/', '?' or '#'.", name, what)
	}
	return nil
}

// noArguments refuses arguments.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef(cmd, "%q takes no arguments, found %q.", cmd.CommandPath(), args[0])
	}
	return nil
}

// required refuses a command line without the named flags.
func required(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if f := cmd.Flag(name); f != nil && f.Value.String() == "" {
			return usagef(cmd, "--%s is needed: %s", name, f.Usage)
		}
	}
	return nil
}

// oneOf refuses a flag value outside the set, ignoring case, and returns the
// set's spelling.
func oneOf(cmd *cobra.Command, flag, value string, set ...string) (string, error) {
	for _, s := range set {
		if strings.EqualFold(s, value) {
			return s, nil
		}
	}
	return "", usagef(cmd, "--%s %q is not known. Use %s.", flag, value, strings.Join(set, ", "))
}
