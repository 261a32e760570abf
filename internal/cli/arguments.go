package cli

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// wordSeparator joins the words of one flag on the way through pflag, which
// knows flags of one value only. It is the ASCII unit separator: nobody types it.
const wordSeparator = "\x1f"

// Flags that take several words, as az has them, and flags that may be followed
// by true or false.
var (
	wordFlags = []string{"--advanced-filter", "--included-event-types", "--labels", "--endpoint-setting", "--tags", "--properties",
		"--remove-tags", "--input-mapping-fields", "--input-mapping-default-values", "--features", "--numeric", "--categorical", "--status-events", "--extra-events", "--ids", "--delivery-attribute-mapping", "--inbound-ip-rules",
		"--actions", "--not-actions", "--data-actions", "--not-data-actions", "--assignable-scopes", "--exclude-principal-ids"}
	switchFlags = []string{"--subject-case-sensitive", "--enable-advanced-filtering-on-arrays", "--include-full-endpoint-url",
		"--include-static-delivery-attribute-secret", "--disable-local-auth", "--path-style",
		"--auto-create-topic-with-first-subscription", "--auto-delete-topic-with-last-subscription"}
)

// shortNames are second names that az has for flags.
var shortNames = map[string]string{
	"--enable-af-arr": "--enable-advanced-filtering-on-arrays", "--dam": "--delivery-attribute-mapping", "--qttl": "--storage-queue-msg-ttl",
	"--include-attrib-secret": "--include-static-delivery-attribute-secret",
}

// joinValues rewrites the arguments so that a flag of several words is one
// argument: the words after it, up to the next flag.
// Source: spec/filtering.md section 7.
func joinValues(args []string) []string {
	if len(args) > 1 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return append(args[:1:1], joinUnfinished(args[1:])...)
	}
	if len(args) > 0 && args[0] == "az" { // whose arguments are az's
		return args
	}
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if name, value, given := strings.Cut(arg, "="); shortNames[name] != "" {
			arg = shortNames[name]
			if given {
				arg += "=" + value
			}
		}
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
		case slices.Contains(switchFlags, arg) && i+1 < len(args) && isChoice(args[i+1]):
			out = append(out, arg+"="+strings.ToLower(args[i+1]))
			i++
		default:
			out = append(out, arg)
		}
	}
	return out
}

// joinUnfinished is joinValues for a line that the shell asks completions for, and
// whose last word is still being typed: where it belongs to a flag of several words,
// it is completed together with those before it.
func joinUnfinished(args []string) []string {
	last := len(args) - 1
	if !isFlag(args[last]) {
		i := last - 1
		for i >= 0 && !isFlag(args[i]) {
			i--
		}
		if i >= 0 && slices.Contains(wordFlags, args[i]) && !slices.Contains(args[:i], "--") {
			return append(joinValues(args[:i]), args[i], strings.Join(args[i+1:], wordSeparator))
		}
	}
	return append(joinValues(args[:last]), args[last])
}

// isFlag reports whether a word is a flag. A minus and a digit begin a number, and a
// word with a blank was in quotes; az takes both for values, too.
func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && !strings.ContainsRune("0123456789.", rune(arg[1])) && !strings.Contains(arg, " ")
}

// isChoice reports whether a word behind a switch is meant for it: true or false, and
// what people write for them, which the flag then refuses.
func isChoice(arg string) bool {
	return slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0"}, strings.ToLower(arg))
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

// toggle is the value of a switch that may be followed by true or false.
type toggle bool

// Set reads true or false in any case.
func (t *toggle) Set(text string) error {
	on := strings.EqualFold(text, "true")
	if !on && !strings.EqualFold(text, "false") {
		return errors.New("write true or false")
	}
	*t = toggle(on)
	return nil
}

// String returns true or false.
func (t *toggle) String() string { return strconv.FormatBool(bool(*t)) }

// Type makes the help text show a switch.
func (t *toggle) Type() string { return "bool" }

func toggleFlag(cmd *cobra.Command, name, usage string) *toggle {
	t := new(toggle)
	cmd.Flags().VarPF(t, name, "", usage).NoOptDefVal = "true"
	return t
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
