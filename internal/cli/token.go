package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

// defaultTokenLife is how long a token lives that nobody asked to live otherwise.
const defaultTokenLife = access.LocalTokenLifetime

// startingUp is how long env waits for a server that takes its directory for the
// first time.
const startingUp = 3 * time.Second

// localAddress makes an address out of a data directory: the URL that its server
// wrote there, a token signed here, and its certificate. The token stays in this
// process: it needs no record in the audit log, for what it is used for has one.
func localAddress(dir string, life time.Duration) (address, error) {
	local, err := access.OpenLocal(context.Background(), dir, secret.Source{}) // which runs no command
	if err != nil {
		return address{}, err
	}
	at, _, err := addressOf(dir, local, life)
	return at, err
}

// givenAddress is localAddress for a token that leaves this process.
func givenAddress(ctx context.Context, dir string, master secret.Source, life time.Duration) (address, error) {
	local, err := access.OpenLocal(ctx, dir, master)
	if err != nil {
		return address{}, err
	}
	at, issued, err := addressOf(dir, local, life)
	if err != nil {
		return address{}, err
	}
	return at, noteToken(dir, local, issued)
}

func addressOf(dir string, local *access.Local, life time.Duration) (address, access.Issued, error) {
	if local.Owner.URL == "" {
		return address{}, access.Issued{}, fault.New(fault.Unavailable, "ServerUnreachable", "No server has taken traffic on %s yet.", dir)
	}
	issued, err := local.Token(access.AudienceManagement, life)
	if err != nil {
		return address{}, issued, err
	}
	ca, err := filepath.Abs(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return address{}, issued, fmt.Errorf("find the certificate of %s: %w", dir, err)
	}
	if _, err := os.Stat(ca); errors.Is(err, fs.ErrNotExist) {
		ca = ""
	}
	return address{url: local.Owner.URL, token: issued.Token.Reveal(), ca: ca}, issued, nil
}

// noteToken leaves word for the audit log of a token that is about to be given out.
func noteToken(dir string, local *access.Local, issued access.Issued) error {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	return audit.NoteToken(dir, audit.Token{
		ID: issued.ID, ObjectID: local.Owner.ObjectID, Audience: issued.Audience,
		Issued: issued.NotBefore, Expires: issued.Expires, User: who,
	})
}

// dataFlag names the data directory of a command that works on it directly.
func (a *app) dataFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.data, "data", "", "Data directory of the server (CARILLON_DATA).")
	_ = cmd.MarkFlagDirname("data")
}

// masterKeyFlags name the master key of a server that does not keep it in the data
// directory, for a command that signs from there.
func masterKeyFlags(cmd *cobra.Command) *secret.Source {
	var from secret.Source
	f := cmd.Flags()
	f.StringVar(&from.File, "master-key-file", "", "File with the master key, if the server does not keep it in the data directory; where the server was last given one by default.")
	f.StringVar(&from.Env, "master-key-env", "", "Variable of the environment that holds it.")
	f.StringVar(&from.Command, "master-key-command", "", "Command that prints it, run by the shell.")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := from.Check(); err != nil {
			return usagef(cmd, "%s", sentence(err.Error()))
		}
		return nil
	}
	return &from
}

// directory is the data directory of such a command.
func (a *app) directory(cmd *cobra.Command) (string, error) {
	if dir := firstOf(a.data, a.getenv("CARILLON_DATA")); dir != "" {
		return dir, nil
	}
	return "", usagef(cmd, "--data is needed: the data directory of the server.")
}

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Print a bearer token of the owner of a data directory", Args: noArguments,
		Long: "Print a bearer token of the owner of a data directory. It is signed here from the\nfiles of the directory, whether the server runs or not; their key is\nsealed with the server's master key.",
		Example: `  carillon token --data ./data
  carillon token --data ./data --resource https://eventgrid.azure.net      # to publish with
  carillon token --data ./data --master-key-command 'vault kv get -field=key secret/carillon'
  curl --cacert ./data/ca.pem -H "Authorization: Bearer $(carillon token --data ./data --ttl 10m)" https://localhost:7443/subscriptions?api-version=2022-12-01`}
	a.dataFlag(cmd)
	master := masterKeyFlags(cmd)
	life := cmd.Flags().Duration("ttl", defaultTokenLife, "How long the token lives.")
	resource := cmd.Flags().String("resource", access.AudienceManagement, "What the token is for; "+access.AudiencePublish+" to publish to topics.")
	_ = cmd.RegisterFlagCompletionFunc("resource", cobra.FixedCompletions([]string{access.AudienceManagement, access.AudiencePublish}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := a.directory(cmd)
		if err != nil {
			return err
		}
		audience, err := oneOf(cmd, "resource", strings.TrimSuffix(*resource, "/"), access.AudienceManagement, access.AudiencePublish)
		if err != nil {
			return err
		}
		local, err := access.OpenLocal(cmd.Context(), dir, *master)
		if err != nil {
			return err
		}
		issued, err := local.Token(audience, *life)
		if err != nil {
			return err
		}
		if err := noteToken(dir, local, issued); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, issued.Token.Reveal())
		return nil
	}
	return cmd
}

func (a *app) envCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "env", Short: "Print the shell exports that name a server to client commands", Args: noArguments,
		Example: `  eval "$(carillon env --data ./data)"`}
	a.dataFlag(cmd)
	master := masterKeyFlags(cmd)
	life := cmd.Flags().Duration("ttl", defaultTokenLife, "How long the token lives.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := a.directory(cmd)
		if err != nil {
			return err
		}
		at, err := givenAddress(cmd.Context(), dir, *master, *life)
		for began := time.Now(); err != nil && time.Since(began) < startingUp; at, err = givenAddress(cmd.Context(), dir, *master, *life) {
			select { // a server that was started a moment ago is not there yet
			case <-time.After(50 * time.Millisecond):
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			}
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "export CARILLON_URL=%s\n", shellQuote(at.url))
		fmt.Fprintf(a.stdout, "export CARILLON_TOKEN=%s\n", shellQuote(at.token))
		if at.ca != "" {
			fmt.Fprintf(a.stdout, "export CARILLON_CA=%s\n", shellQuote(at.ca))
		}
		return nil
	}
	return cmd
}

// shellQuote writes a word that a POSIX shell reads back unchanged.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print what this program was built from", Args: noArguments, Example: `  carillon version`,
		RunE: func(*cobra.Command, []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("this program was built without build information")
			}
			version, revision, dirty := firstOf(info.Main.Version, "(devel)"), "", ""
			for _, s := range info.Settings {
				switch {
				case s.Key == "vcs.revision":
					revision = " " + s.Value
				case s.Key == "vcs.modified" && s.Value == "true":
					dirty = " (with changes)"
				}
			}
			fmt.Fprintf(a.stdout, "carillon %s%s%s, %s\n", version, revision, dirty, info.GoVersion)
			return nil
		}}
}
