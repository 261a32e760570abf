package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// confirmation adds --yes to a command that destroys something. The returned function
// asks a person at a terminal whether to go on, as az does; a script is not asked.
func (a *app) confirmation(cmd *cobra.Command) func(question string) error {
	yes := cmd.Flags().BoolP("yes", "y", false, "Do not ask for confirmation at a terminal.")
	return func(question string) error {
		if *yes || !atTerminal(a.stdin, a.stderr) {
			return nil
		}
		fmt.Fprintf(a.stderr, "%s [y/N] ", question)
		answer, _ := bufio.NewReader(a.stdin).ReadString('\n') // what ends without an answer is a no
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return nil
		}
		fmt.Fprintln(a.stderr, "Nothing was deleted.")
		return errQuiet
	}
}

// atTerminal reports whether a person can be asked. Tests replace it.
var atTerminal = func(in io.Reader, out io.Writer) bool {
	f, ok := in.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd())) && terminal(out)
}
