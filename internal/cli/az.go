package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	azCloud     = "carillon"       // name of the cloud in az's configuration
	azTokenLife = time.Hour        // of a token that is signed for az
	azPatience  = 10 * time.Second // until az ends after it was interrupted
)

func (a *app) azCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "az [--data DIR] [--url URL] ARGUMENT…", Short: "Run the real az against a server", DisableFlagParsing: true, DisableFlagsInUseLine: true, Args: cobra.ArbitraryArgs,
		Long: "Run the real az, which is on the PATH, against a server: configured for it, in a directory\nof its own, trusting the server's certificate, and signed in as whoever CARILLON_TOKEN or\n--data is. Everything behind az is az's, and so are its output and its exit code. Your own\naz, its clouds and its sign-ins are not touched. az gets its tokens from this command while it runs, by the\nprotocol of managed identities: none is stored, and none is in its arguments.",
		Example: `  carillon az --data ./data eventgrid topic create -g local -l local -n orders
  carillon az eventgrid topic list -o table
  carillon az rest --method get --url /subscriptions?api-version=2022-12-01`}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		args, help, err := a.azFlags(cmd, args)
		if err != nil {
			return err
		}
		if help {
			return cmd.Help()
		}
		program, err := exec.LookPath("az")
		if err != nil {
			return errors.New("the Azure CLI is not on the PATH: install it, for example with pip install azure-cli")
		}
		z, err := a.newAz(program)
		if err != nil {
			return err
		}
		return z.run(cmd.Context(), args)
	}
	return cmd
}

// azFlags takes the flags that are ours off the front of the arguments.
func (a *app) azFlags(cmd *cobra.Command, args []string) (rest []string, help bool, err error) {
	for len(args) > 0 {
		name, value, given := strings.Cut(args[0], "=")
		into := map[string]*string{"--data": &a.data, "--url": &a.url}[name]
		switch {
		case args[0] == "--help":
			return nil, true, nil
		case into == nil:
			return args, false, nil
		case given:
			args = args[1:]
		case len(args) == 1:
			return nil, false, usagef(cmd, "%s needs a value.", name)
		default:
			value, args = args[1], args[2:]
		}
		*into = value
	}
	return args, false, nil
}

// az runs az against one server.
type az struct {
	*app
	program string
	at      address
	dir     string // its configuration
	who     string // object id of who it is
	token   func() (token string, expires time.Time, err error)
	env     []string
}

// azStamp tells what a configuration is for; it is written when that is complete.
type azStamp struct {
	URL       string `json:"url"`
	Principal string `json:"principal"`
}

func (a *app) newAz(program string) (*az, error) {
	z := &az{app: a, program: program}
	dir := a.data
	if dir == "" && firstOf(a.url, a.getenv("CARILLON_URL")) == "" {
		dir = a.getenv("CARILLON_DATA")
	}
	var err error
	if z.at, err = a.address(); err != nil {
		return nil, err
	}
	z.token = func() (string, time.Time, error) {
		c, err := readClaims(z.at.token)
		return z.at.token, c.expires(), err
	}
	if dir != "" {
		local, err := access.OpenLocal(context.Background(), dir, secret.Source{})
		if err != nil {
			return nil, err
		}
		z.token = localToken(dir, local)
	}
	token, _, err := z.token()
	if err != nil {
		return nil, err
	}
	c, err := readClaims(token)
	if err != nil {
		return nil, err
	}
	z.who = c.ObjectID
	if u, err := url.Parse(z.at.url); err != nil || u.Scheme != "https" {
		return nil, fault.New(fault.Invalid, "", "az speaks https only, and the server's address is %s. Use its https address.", z.at.url)
	}
	home, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("find a place for az's configuration: %w", err)
	}
	sum := sha256.Sum256([]byte(z.at.url))
	z.dir = filepath.Join(home, "carillon", "az", hex.EncodeToString(sum[:8]))
	return z, nil
}

// localToken signs tokens from a data directory, one at a time.
func localToken(dir string, local *access.Local) func() (string, time.Time, error) {
	var mu sync.Mutex
	var last access.Issued
	return func() (string, time.Time, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Until(last.Expires) < azTokenLife/6 {
			issued, err := local.Token(access.AudienceManagement, azTokenLife)
			if err != nil {
				return "", time.Time{}, err
			}
			if err := noteToken(dir, local, issued); err != nil {
				return "", time.Time{}, err
			}
			last = issued
		}
		return last.Token.Reveal(), last.Expires, nil
	}
}

// claims are what this command has to know of a token. Whether it is good is for the
// server to say.
type claims struct {
	ObjectID string `json:"oid"`
	Expires  int64  `json:"exp"`
}

func (c claims) expires() time.Time { return time.Unix(c.Expires, 0) }

func readClaims(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, fault.New(fault.Unauthenticated, "", "The token of CARILLON_TOKEN is not one of a server.")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil || c.ObjectID == "" {
		return c, fault.New(fault.Unauthenticated, "", "The token of CARILLON_TOKEN is not one of a server.")
	}
	return c, nil
}

// run runs az with the arguments, setting it up first if need be.
func (z *az) run(ctx context.Context, args []string) error {
	if err := os.MkdirAll(z.dir, 0o700); err != nil {
		return fmt.Errorf("make az's configuration: %w", err)
	}
	endpoint, secret, stop, err := z.serveTokens()
	if err != nil {
		return err
	}
	defer stop()
	if z.env, err = z.environment(endpoint, secret); err != nil {
		return err
	}
	if err := z.setUp(ctx); err != nil {
		return err
	}
	cmd := z.command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = z.stdin, z.stdout, z.stderr
	err = cmd.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() > 0 {
		return &exitError{errQuiet, ended.ExitCode()}
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("run az: %w", err)
	}
	return err
}

func (z *az) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, z.program, args...)
	cmd.Env = z.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = azPatience
	return cmd
}

// setUp registers the cloud and signs in, once for each server and principal.
// Source: spec/management.md section 10.3.
func (z *az) setUp(ctx context.Context) error {
	path := filepath.Join(z.dir, "carillon.json")
	want := azStamp{URL: z.at.url, Principal: z.who}
	var there azStamp
	if raw, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(raw, &there) // a damaged one is written anew
	}
	if there == want {
		return nil
	}
	steps := [][]string{{"login", "--identity", "--allow-no-subscriptions", "--output", "none", "--only-show-errors"}}
	if there.URL != want.URL {
		verb := "register"
		if raw, err := os.ReadFile(filepath.Join(z.dir, "clouds.config")); err == nil && strings.Contains(string(raw), "["+azCloud+"]") {
			verb = "update" // a set-up that was cut short
		}
		steps = append([][]string{
			{"cloud", verb, "--name", azCloud, "--endpoint-resource-manager", z.at.url, "--endpoint-active-directory", z.at.url,
				"--endpoint-active-directory-resource-id", access.AudienceManagement, "--endpoint-active-directory-graph-resource-id", z.at.url + "/graph", "--only-show-errors"},
			{"cloud", "set", "--name", azCloud, "--only-show-errors"},
		}, steps...)
	}
	for _, step := range steps {
		if said, err := z.command(ctx, step...).CombinedOutput(); err != nil {
			return fmt.Errorf("set az up: az %s: %w\n%s", strings.Join(step[:2], " "), err, strings.TrimSpace(string(said)))
		}
	}
	raw, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return writeWhole(path, raw)
}

// environment is ours with what az needs to reach this server, and nothing that would
// lead it elsewhere.
func (z *az) environment(endpoint, secret string) ([]string, error) {
	env := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	for _, name := range []string{"CARILLON_TOKEN", "MSI_ENDPOINT", "MSI_SECRET", "IMDS_ENDPOINT", "IDENTITY_SERVER_THUMBPRINT", "ARM_CLOUD_METADATA_URL"} {
		delete(env, name)
	}
	maps.Copy(env, map[string]string{
		"AZURE_CONFIG_DIR": z.dir, "AZURE_CORE_COLLECT_TELEMETRY": "0", "AZURE_CORE_INSTANCE_DISCOVERY": "false", "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
		"IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": secret,
	})
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		env[name] = strings.Trim(env[name]+",127.0.0.1,localhost", ",")
	}
	if z.at.ca != "" {
		bundle, err := z.bundle(env)
		if err != nil {
			return nil, err
		}
		env["REQUESTS_CA_BUNDLE"] = bundle
	}
	out := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, name+"="+env[name])
	}
	return out, nil
}

// systemBundles are where systems keep the certificates that they trust.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// bundle writes the certificates that az is to trust, the system's and the server's,
// and returns its path.
func (z *az) bundle(env map[string]string) (string, error) {
	ours, err := os.ReadFile(z.at.ca)
	if err != nil {
		return "", fmt.Errorf("read the certificates of CARILLON_CA: %w", err)
	}
	var system []byte
	for _, path := range append([]string{env["REQUESTS_CA_BUNDLE"], env["SSL_CERT_FILE"]}, systemBundles...) {
		if path == "" {
			continue
		}
		if system, err = os.ReadFile(path); err == nil {
			break
		}
	}
	path := filepath.Join(z.dir, "trusted.pem")
	whole := slices.Concat(system, []byte("\n"), ours)
	if there, err := os.ReadFile(path); err == nil && string(there) == string(whole) {
		return path, nil
	}
	return path, writeWhole(path, whole)
}

// writeWhole replaces a file, so that another run never reads half of it.
func writeWhole(path string, raw []byte) error {
	next, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return fmt.Errorf("write az's configuration: %w", err)
	}
	_, err = next.Write(raw)
	if err = errors.Join(err, next.Close()); err == nil {
		err = os.Rename(next.Name(), path)
	}
	if err != nil {
		_ = os.Remove(next.Name())
		return fmt.Errorf("write az's configuration: %w", err)
	}
	return nil
}

// serveTokens hands tokens to az until stop, the way that App Service hands them to its
// programs: over loopback, to who shows a secret that az alone is given.
// Source: learn.microsoft.com/azure/app-service/overview-managed-identity, "REST endpoint reference".
func (z *az) serveTokens() (endpoint, secret string, stop func(), err error) {
	secret = rand.Text() + rand.Text()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, fmt.Errorf("hand tokens to az: %w", err)
	}
	host := listener.Addr().String()
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		given, resource := sha256.Sum256([]byte(r.Header.Get("X-Identity-Header"))), strings.TrimRight(r.URL.Query().Get("resource"), "/")
		want := sha256.Sum256([]byte(secret))
		// az asks for a token of Graph before it names principals, and goes on without
		// their names where there is no directory, but not without a token.
		known := []string{access.AudienceManagement, access.AudienceManagementLegacy, z.at.url, z.at.url + "/graph"}
		switch {
		case r.Host != host || subtle.ConstantTimeCompare(given[:], want[:]) != 1:
			refuseToken(w, http.StatusUnauthorized, "unauthorized", "only az is served here")
		case !slices.Contains(known, resource):
			refuseToken(w, http.StatusBadRequest, "invalid_resource", "carillon az has tokens of the management API only")
		default:
			token, expires, err := z.token()
			if err != nil {
				refuseToken(w, http.StatusInternalServerError, "server_error", err.Error())
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{
				"access_token": token, "token_type": "Bearer", "resource": resource, "expires_on": strconv.FormatInt(expires.Unix(), 10),
			})
		}
	})}
	go func() { _ = srv.Serve(listener) }()
	return "http://" + host + "/token", secret, func() { _ = srv.Close() }, nil
}

func refuseToken(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"statusCode": status, "error": code, "message": message})
}
