package cli

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/server"
)

// runServer is a variable so that tests can put something else in its place.
var runServer = server.Run

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Run a server on a data directory", Args: noArguments,
		Long: "Run a server on a data directory, which is made if it is not there. When it takes\ntraffic it prints one line to standard output: ready url=… ca-sha256=…; its log goes to\nstandard error. SIGTERM and SIGINT let it finish what it has begun, and it exits 0.",
		Example: `  carillon serve --data ./data
  carillon serve --data ./data --listen 127.0.0.1:7443 --durability process
  carillon serve --data ./data --listen 0.0.0.0:7443 --allow-destination 10.0.0.0/8
  carillon serve --data ./data --listen 127.0.0.1:7443 --listen 0.0.0.0:443,planes=publish
  carillon serve --data ./data --mlflow http://127.0.0.1:5000`}
	cfg := server.DefaultConfig()
	a.dataFlag(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&cfg.Listen, "listen", cfg.Listen, "Address to listen on, HOST:PORT; port 0 takes a free one. With ,planes=publish,management,issuer,ops,mlflow behind it, or some of these, it serves no other; may be repeated.")
	f.StringVar(&cfg.PublicURL, "public-url", "", "Address under which clients reach the server; https and the listener's by default.")
	f.StringVar(&cfg.PublishURL, "publish-url", "", "Address under which publishers reach it, if that is another one: topics' endpoints begin with it.")
	durability := f.String("durability", string(cfg.Durability), "What an acknowledged event survives: kill -9 of the server (process), or also a power cut (disk).")
	f.Var((*size)(&cfg.LogQuota), "log-quota", "Most that events waiting for handlers may take; 10GiB or a fifth of the free disk by default, the smaller.")
	f.Var((*size)(&cfg.Memory), "memory", "Memory for events on their way.")
	f.DurationVar(&cfg.Retention, "retention", cfg.Retention, "How long delivered events are kept.")
	f.StringVar(&cfg.DestinationCA, "destination-ca", "", "PEM file of certificate authorities that webhooks may be signed by, beside the system's.")
	f.StringArrayVar(&cfg.AllowDestination, "allow-destination", nil, "Network (CIDR) or host suffix that events may be sent to although it is private; may be repeated.")
	f.StringArrayVar(&cfg.DataRoots, "data-root", nil, "Directory below which datasets of drift monitors may lie; may be repeated.")
	f.StringVar(&cfg.DeadLetterRoot, "dead-letter-root", "", "Directory below which event subscriptions may have their dead letters written.")
	f.Var((*size)(&cfg.DeadLetterQuota), "dead-letter-quota", "Most that dead letters may take, the oldest go; a tenth of --log-quota by default.")
	f.DurationVar(&cfg.DeadLetterDelay, "dead-letter-delay", cfg.DeadLetterDelay, "How long dead letters are gathered before they are written to their store; Azure takes about 5m.")
	f.StringVar(&cfg.MasterKey.File, "master-key-file", "", "File with the key that secrets are sealed with, mode 0600, instead of one in the data directory; keys from before stand behind it.")
	f.StringVar(&cfg.MasterKey.Env, "master-key-env", "", "Variable of the environment that holds it.")
	f.StringVar(&cfg.MasterKey.Command, "master-key-command", "", "Command that prints it, run by the shell at the start.")
	f.StringVar(&cfg.TLSCertificate, "tls-certificate", "", "PEM file of a certificate of your own with its chain, instead of one that the server makes; read again when it changes, and on SIGHUP.")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "PEM file of the key of --tls-certificate.")
	f.StringArrayVar(&cfg.TrustedProxy, "trusted-proxy", nil, "Network (CIDR) of proxies in front: plain http is taken from them, and their X-Forwarded-For and -Proto are believed; may be repeated.")
	f.StringVar(&cfg.IdentityProviders, "identity-providers", "", "File with the foreign OpenID providers whose tokens are taken, YAML or JSON.")
	f.StringVar(&cfg.MLflow, "mlflow", "", "MLflow server that the workspace default follows from the start on; see carillon mlflow attach --help.")
	f.StringVar(&cfg.MLflowUsername, "mlflow-username", "", "User name there, with --mlflow-password-file.")
	f.StringVar(&cfg.MLflowPasswordFile, "mlflow-password-file", "", "File with the password, mode 0600.")
	f.StringVar(&cfg.MLflowTokenFile, "mlflow-token-file", "", "File with a bearer token instead, mode 0600.")
	f.BoolVar(&cfg.InCluster, "in-cluster", false, "Let workspaces follow the Kubernetes cluster that this server runs in, as the pod's service account.")
	f.DurationVar(&cfg.SigningKeyAge, "signing-key-age", cfg.SigningKeyAge, "Age at which the key that signs tokens is replaced; 0 never does it.")
	f.BoolVar(&cfg.InsecureHTTP, "insecure-http", false, "Take plain http from other machines, too: tokens and keys can be read on the way.")
	rule := f.String("workspace-rule", string(cfg.WorkspaceRule), "Who may change event subscriptions of a workspace: its contributors and owners (strict), or whoever has the action (actions).")
	f.BoolVar(&cfg.RevalidateOnEveryPut, "revalidate-on-every-put", cfg.RevalidateOnEveryPut, "Ask a webhook for consent on each PUT of an event subscription, as Azure does; false asks only when it concerns the webhook.")
	on404 := f.String("webhook-404", webhook404[0], "What becomes of an event whose webhook answers 404: it is tried again (retry), or dead-lettered at once (deadletter).")
	f.BoolVar(&cfg.DataSchema, "dataschema", cfg.DataSchema, "Write dataschema, # and the data version, into CloudEvents that are made of events in another schema; false leaves it out.")
	f.IntVar(&cfg.MetricsEventSubscriptions, "metrics-event-subscriptions", cfg.MetricsEventSubscriptions, "How many event subscriptions have series of their own in /metrics; the API has the figures of all.")
	level := f.String("log-level", "info", "Least level of records in the log: debug, info, warn or error.")
	_ = cmd.RegisterFlagCompletionFunc("durability", cobra.FixedCompletions(durabilities, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("workspace-rule", cobra.FixedCompletions(workspaceRules, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("webhook-404", cobra.FixedCompletions(webhook404, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if cfg.Data, err = a.directory(cmd); err != nil {
			return err
		}
		word, err := oneOf(cmd, "durability", *durability, durabilities...)
		if err != nil {
			return err
		}
		cfg.Durability = engine.Durability(word)
		if word, err = oneOf(cmd, "workspace-rule", *rule, workspaceRules...); err != nil {
			return err
		}
		cfg.WorkspaceRule = access.WorkspaceRule(word)
		if word, err = oneOf(cmd, "webhook-404", *on404, webhook404...); err != nil {
			return err
		}
		cfg.DeadLetter404 = word == webhook404[1]
		if word, err = oneOf(cmd, "log-level", *level, logLevels...); err != nil {
			return err
		}
		if err := cfg.LogLevel.UnmarshalText([]byte(word)); err != nil {
			return fmt.Errorf("read --log-level: %w", err)
		}
		if err := cfg.Validate(); err != nil {
			return usagef(cmd, "%s", strings.ReplaceAll(sentence(err.Error()), "\n", "; "))
		}
		cfg.LogOutput = a.stderr
		return runServer(cmd.Context(), cfg, func(r server.Ready) {
			fmt.Fprintf(a.stdout, "ready url=%s ca-sha256=%s\n", r.URL, r.CAFingerprint)
		})
	}
	return cmd
}

var (
	durabilities   = []string{string(engine.DurabilityProcess), string(engine.DurabilityDisk)}
	webhook404     = []string{"retry", "deadletter"}
	workspaceRules = []string{string(access.Strict), string(access.Actions)}
	logLevels      = []string{levelName(slog.LevelDebug), levelName(slog.LevelInfo), levelName(slog.LevelWarn), levelName(slog.LevelError)}
)

func levelName(l slog.Level) string { return strings.ToLower(l.String()) }

// size is a flag in bytes, written with or without a unit: 256MiB, 10GB, 1024.
type size int64

// units from long to short, so that "MiB" is not read as "B".
var units = []struct {
	name  string
	bytes float64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// Set reads a size.
func (s *size) Set(text string) error {
	number, factor := strings.ToUpper(strings.TrimSpace(text)), 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n*factor > math.MaxInt64/2 || n != n {
		return fmt.Errorf("%q is no size; write it like 256MiB or 10GB", text)
	}
	*s = size(n * factor)
	return nil
}

// String writes the size in the largest binary unit that divides it.
func (s *size) String() string {
	n := int64(*s)
	if n == 0 {
		return ""
	}
	unit := ""
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n%1024 != 0 {
			break
		}
		n, unit = n/1024, next
	}
	return strconv.FormatInt(n, 10) + unit
}

// Type names the operand in the help text.
func (s *size) Type() string { return "SIZE" }
