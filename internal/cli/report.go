package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
)

// report tells the user what went wrong and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitDone
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		a.report(e.error)
		return e.code
	}
	if errors.Is(err, errQuiet) {
		return exitFailed
	}
	if u, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(a.stderr, "error: %s\n", u.message)
		fmt.Fprintf(a.stderr, "help: %s --help\n", u.command)
		return exitUsage
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.stderr, "error: interrupted")
		return exitFailed
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		writeFault(a.stderr, f)
		return exitFailed
	}
	fmt.Fprintf(a.stderr, "error: %s\n", sentence(err.Error()))
	return exitFailed
}

// writeFault prints a fault: what is wrong, in which field, and what helps.
func writeFault(w io.Writer, f *fault.Error) {
	problems := []*fault.Error{f}
	if len(f.Details) > 1 {
		problems = f.Details
	}
	for _, p := range problems {
		fmt.Fprintf(w, "error: %s\n", p.Message)
		if p.Target != "" {
			fmt.Fprintf(w, "field: %s\n", p.Target)
		}
	}
	if f.Code != "" {
		fmt.Fprintf(w, "code: %s\n", f.Code)
	}
	if r := remedy(f); r != "" {
		fmt.Fprintf(w, "remedy: %s\n", r)
	}
}

// remedy says what the user can do about a fault whose message cannot know how
// the command found its server.
func remedy(f *fault.Error) string {
	switch f.Kind {
	case fault.Unauthenticated:
		if f.Code == "Unauthorized" { // the publishing plane: spec/events.md section 8.6
			return "use one of its keys: carillon topic key list --name TOPIC, of a domain carillon domain key list --name DOMAIN; or, where those are turned off, --topic-token with a token of: carillon token --data DIR --resource " + access.AudiencePublish
		}
		return `get a fresh token: eval "$(carillon env --data DIR)"`
	case fault.Unavailable:
		if f.Code == "ServerUnreachable" {
			return `start a server with "carillon serve --data DIR", or name the right one: eval "$(carillon env --data DIR)"`
		}
		if f.RetryAfter > 0 {
			return fmt.Sprintf("try again in %s", f.RetryAfter)
		}
	case fault.Forbidden:
		if roles := rolesThatGrant(f); len(roles) > 0 {
			return "one of these roles grants it: " + strings.Join(roles, ", ") +
				"; an owner gives it with: carillon role assignment create --assignee OBJECTID --role NAME --scope ID"
		}
	case fault.PreconditionFailed:
		return "look at what is there with show; change it with update, or choose another name"
	}
	return ""
}

// rolesThatGrant reads the roles out of a 403's MissingPermission entry.
// Source: spec/access.md section 11.
func rolesThatGrant(f *fault.Error) []string {
	var roles []string
	for _, info := range f.Info {
		entry, ok := info.Info.(map[string]any)
		if !ok || info.Type != "MissingPermission" {
			continue
		}
		list, _ := entry["rolesThatGrant"].([]any)
		for _, role := range list {
			if name, ok := role.(string); ok {
				roles = append(roles, name)
			}
		}
	}
	return roles
}

// message is what a user is told about an error.
func message(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Message
	}
	return sentence(err.Error())
}

// sentence gives an error text a capital and a full stop.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return "Something failed without saying what."
	}
	if !strings.ContainsAny(text[len(text)-1:], ".!?)") {
		text += "."
	}
	if c := text[0]; c >= 'a' && c <= 'z' {
		text = string(c-'a'+'A') + text[1:]
	}
	return text
}
