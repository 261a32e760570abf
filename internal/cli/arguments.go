package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// wordSeparator joins the words of one flag on the way through pflag, which
// knows flags of one value only. It is the ASCII unit separator: nobody types it.
const wordSeparator = "\x1f"

// Flags that take several words, as az has them, and flags that may be followed
// by true or false.
var (
	wordFlags = []string{"--advanced-filter", "--included-event-types", "--labels", "--tags", "--properties",
		"--remove-tags", "--features", "--status-events", "--ids"}
	switchFlags = []string{"--subject-case-sensitive", "--enable-advanced-filtering-on-arrays", "--include-full-endpoint-url"}
)

// joinValues rewrites the arguments so that a flag of several words is one
// argument: the words after it, up to the next flag. A word that begins with a
// minus and a digit is a number, not a flag. Source: spec/filtering.md section 7.
func joinValues(args []string) []string {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return args // the shell asks for completions of an unfinished line
	}
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return append(out, args[i:]...)
		case slices.Contains(wordFlags, arg):
			n := i + 1
			for n < len(args) && !isFlag(args[n]) {
				n++
			}
			out = append(out, arg+"="+strings.Join(args[i+1:n], wordSeparator))
			i = n - 1
		case slices.Contains(switchFlags, arg) && i+1 < len(args) && isBool(args[i+1]):
			out = append(out, arg+"="+strings.ToLower(args[i+1]))
			i++
		default:
			out = append(out, arg)
		}
	}
	return out
}

func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && !strings.ContainsRune("0123456789.", rune(arg[1]))
}

func isBool(arg string) bool {
	return strings.EqualFold(arg, "true") || strings.EqualFold(arg, "false")
}

// words is the value of a flag of several words; each use of the flag adds one
// group.
type words struct {
	groups [][]string
	kind   string
}

// Set adds one use of the flag; no words at all make an empty group, which
// clears what the flag names.
func (w *words) Set(text string) error {
	if text == "" {
		w.groups = append(w.groups, nil)
		return nil
	}
	w.groups = append(w.groups, strings.Split(text, wordSeparator))
	return nil
}

// String returns the words, for help and for checks of presence.
func (w *words) String() string {
	if w == nil {
		return ""
	}
	return strings.Join(w.all(), " ")
}

// Type names the operand in the help text.
func (w *words) Type() string { return w.kind }

func (w *words) given() bool { return len(w.groups) > 0 }

func (w *words) all() []string { return slices.Concat(w.groups...) }

// pairs reads the words as KEY=VALUE; a word without '=' has an empty value.
func (w *words) pairs() map[string]string {
	m := map[string]string{}
	for _, word := range w.all() {
		key, value, _ := strings.Cut(word, "=")
		m[key] = value
	}
	return m
}

// list returns the words without empty ones, also split at commas.
func (w *words) list() []string {
	out := []string{}
	for _, word := range w.all() {
		for part := range strings.SplitSeq(word, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

func wordsFlag(cmd *cobra.Command, name, kind, usage string) *words {
	w := &words{kind: kind}
	cmd.Flags().Var(w, name, usage)
	return w
}

func tagsFlag(cmd *cobra.Command) *words {
	return wordsFlag(cmd, "tags", "KEY=VALUE...", "Tags: KEY=VALUE, several after another.")
}

func propertiesFlag(cmd *cobra.Command) *words {
	return wordsFlag(cmd, "properties", "KEY=VALUE...", "Properties: KEY=VALUE, several after another; a property once set stays.")
}

// setText puts the values of flags that were given into a body.
func setText(cmd *cobra.Command, body map[string]any, flagsToMembers map[string]string) {
	for flag, member := range flagsToMembers {
		if f := cmd.Flag(flag); f != nil && f.Changed {
			body[member] = f.Value.String()
		}
	}
}
