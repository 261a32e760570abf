package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/audit"
)

var auditView = view{
	plural: "audit records",
	columns: []column{{"Number", "name"}, {"Time", "properties.time"}, {"Event", "properties.event"}, {"What", "properties.operation|properties.action"},
		{"Principal", "properties.principal.name|properties.principal.objectId|=(server)"}, {"Resource", "properties.resource"}, {"Fields", "fields"}},
}

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "The audit log: who changed, saw and was refused what",
		`  carillon audit list --since 1h
  carillon audit verify`,
		a.auditList(), a.auditVerify())
}

func (a *app) auditList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List records of the audit log, the newest last", Args: noArguments,
		Long: "List records of the audit log, the newest last. FIELDS are the members that a change\ntouched; -o json has them with their values before and after, secrets masked.",
		Example: `  carillon audit list
  carillon audit list --since 2h --principal ada
  carillon audit list --resource /subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local -o json
  carillon audit list --event denied --since 2026-03-01 --until 2026-03-08`}
	cmd.Flags().String("since", "24h", "Only those of then or later: a time, a date, or how long ago, such as 90m or 30d.")
	cmd.Flags().String("until", "", "Only those before then.")
	principal := cmd.Flags().String("principal", "", "Only those of a principal: object id, client id or name.")
	resource := cmd.Flags().String("resource", "", "Only those about a resource and what lies below it, by full id.")
	scope := cmd.Flags().String("scope", "/", "Where the right to read them is: everything, or the full id of a scope.")
	event := cmd.Flags().String("event", "", "Only those of one event: "+auditEvents()+".")
	top := cmd.Flags().Int("top", 1000, "How many to show at most, the newest of them.")
	_ = cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(strings.Split(auditEvents(), ", "), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *top < 1 {
			return usagef(cmd, "--top %d shows nothing: give 1 or more.", *top)
		}
		if !strings.HasPrefix(*scope, "/") {
			return usagef(cmd, "--scope %q is not a full id: it begins with /.", *scope)
		}
		query := url.Values{"$top": {"100"}}
		for name, value := range map[string]string{"principal": *principal, "resource": *resource, "event": *event} {
			if value != "" {
				query.Set(name, value)
			}
		}
		for name, flag := range map[string]string{"from": "since", "to": "until"} {
			if value := cmd.Flag(flag).Value.String(); value != "" {
				at, err := ago(cmd, flag, value)
				if err != nil {
					return err
				}
				query.Set(name, at)
			}
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		done := a.waiting("Reading the audit log")
		defer done()
		found := []json.RawMessage{}
		for record, err := range s.List(cmd.Context(), strings.TrimRight(*scope, "/")+arm.AuditPath, query) {
			if err != nil {
				return err
			}
			if found = append(found, record); len(found) > 2**top {
				found = append([]json.RawMessage(nil), found[len(found)-*top:]...)
			}
		}
		found = found[max(0, len(found)-*top):]
		if a.output != "json" {
			for i, record := range found {
				if found[i], err = withFields(record); err != nil {
					return err
				}
			}
		}
		return a.list(auditView, found)
	}
	return cmd
}

func auditEvents() string {
	names := make([]string, len(audit.Events))
	for i, e := range audit.Events {
		names[i] = string(e)
	}
	return strings.Join(names, ", ")
}

// withFields puts the names of the changed members beside them, for tables.
func withFields(record json.RawMessage) (json.RawMessage, error) {
	whole := decoded(record, "")
	properties, _ := whole["properties"].(map[string]any)
	changes, _ := properties["changes"].([]any)
	var names []string
	for _, c := range changes {
		if field, ok := c.(map[string]any); ok {
			names = append(names, plain(field["field"]))
		}
	}
	if len(names) > 0 {
		whole["fields"] = strings.Join(names, ", ")
	}
	return json.Marshal(whole)
}

func (a *app) auditVerify() *cobra.Command {
	cmd := &cobra.Command{Use: "verify", Short: "Check that no record of the audit log was altered or taken out", Args: noArguments,
		Long: `Read the whole audit log and compute its chain here: each record holds the hash of the
one before it. The head that is printed says where the chain ends now. Keep it where
the server cannot write, and give it with --head the next time: that also shows a chain
that was cut off at its end or built anew. Exit code 1 if something is wrong.`,
		Example: `  carillon audit verify
  carillon audit verify --head 1234:5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9`}
	head := cmd.Flags().String("head", "", "A head that an earlier verification printed.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		number, hash, err := parseHead(cmd, *head)
		if err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		done := a.waiting("Reading the audit log")
		defer done()
		report, err := s.verifyAudit(cmd.Context(), number, hash)
		if err != nil {
			return err
		}
		if a.output == "json" {
			raw, err := encodeJSON(report)
			if err != nil {
				return err
			}
			if err := writeJSON(a.stdout, raw); err != nil {
				return err
			}
		} else {
			a.printAudit(report)
		}
		if report.Problem != "" {
			return errQuiet
		}
		return nil
	}
	return cmd
}

func parseHead(cmd *cobra.Command, head string) (number uint64, hash string, err error) {
	if head == "" {
		return 0, "", nil
	}
	digits, hash, ok := strings.Cut(head, ":")
	if number, err = strconv.ParseUint(digits, 10, 64); err != nil || !ok || len(hash) != 64 || number == 0 {
		return 0, "", usagef(cmd, "--head %q is not a head as \"carillon audit verify\" prints it: a number, a colon and a hash.", head)
	}
	return number, strings.ToLower(hash), nil
}

// verifyAudit reads the chain and compares it with a head, 0 for none.
func (s *remote) verifyAudit(ctx context.Context, number uint64, hash string) (*audit.Report, error) {
	report := audit.NewReport(number, hash)
	for record, err := range s.List(ctx, arm.AuditPath, pageSize()) {
		if err != nil {
			return nil, err
		}
		var stored struct {
			Properties json.RawMessage `json:"properties"`
		}
		if err := json.Unmarshal(record, &stored); err != nil {
			return nil, fmt.Errorf("read an audit record: %w", err)
		}
		report.Add(stored.Properties)
	}
	report.End()
	return report, nil
}

func (a *app) printAudit(r *audit.Report) {
	switch {
	case r.Problem != "":
		fmt.Fprintf(a.stdout, "%s The audit log is not whole: %s.\n", a.painter().red("✗"), r.Problem)
	case r.Records == 0:
		fmt.Fprintln(a.stdout, "The audit log holds no records.")
		return
	default:
		fmt.Fprintf(a.stdout, "%s The audit log is whole: %s, numbers %d to %d.\n", a.painter().green("✓"), count(int(r.Records), "record"), r.First, r.Last)
	}
	if r.RemovedTo > 0 {
		fmt.Fprintf(a.stdout, "  Records up to %d were removed when the log was full; a record says so.\n", r.RemovedTo)
	}
	if r.Head != "" {
		fmt.Fprintf(a.stdout, "  Head: %s\n", r.Head)
	}
}
