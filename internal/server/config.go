package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
)

// Config is everything that can be set about a server.
type Config struct {
	Data       string            // data directory; made with mode 0700 when it is not there; required
	Listen     []string          // HOST:PORT of each listener, http and https, with ",planes=…" behind it for some planes only; port 0 takes a free one; default 127.0.0.1:7443
	PublicURL  string            // scheme, host and port under which clients reach the server; default https and the address of the first listener with the plane management
	PublishURL string            // the same for publishers: topics' endpoints begin with it; default PublicURL, or else the first listener with the plane publish
	Durability engine.Durability // what a 200 means; default disk
	LogQuota   int64             // bytes of events that may wait for handlers; 0 = 10 GiB or 20 % of the free disk, the smaller
	Memory     int64             // bytes for events on their way; a quarter is the frame window; default 256 MiB, at least 16 MiB
	Retention  time.Duration     // how long delivered events are kept; default 7 days

	AllowDestination []string             // networks (CIDR) and host suffixes that events may be sent to though they are private
	DestinationCA    string               // PEM file of certificate authorities that destinations may be signed by, beside the system's; default none
	TLSCertificate   string               // PEM file of a certificate of the operator's own with its chain; "" = one of the server's own authority
	TLSKey           string               // PEM file of its key; read again when either changes
	TrustedProxy     []string             // networks (CIDR) of proxies whose word is taken for where a request came from, and by what
	InsecureHTTP     bool                 // serve plain http to peers that are not on this machine
	WorkspaceRule    access.WorkspaceRule // who may change event subscriptions of a workspace; default strict

	IdentityProviders string        // file with the foreign OpenID providers whose tokens are taken; "" = none
	SigningKeyAge     time.Duration // at which the key that signs tokens is replaced; 0 = never; default 90 days

	MLflow             string // URL of the MLflow server that the first workspace follows; "" = what is attached there
	MLflowUsername     string // of Basic authentication there, with MLflowPasswordFile
	MLflowPasswordFile string // file with the password, mode 0600
	MLflowTokenFile    string // file with a bearer token instead, mode 0600

	InCluster bool // workspaces may follow the Kubernetes cluster that this server runs in; default false

	RevalidateOnEveryPut bool // ask an endpoint for consent on each PUT, as Azure does, also when nothing changed that it was asked about; default true
	DeadLetter404        bool // dead-letter what a webhook answers 404 to, instead of trying again; default false
	DataSchema           bool // write dataschema into CloudEvents made of events that have a data version; default true

	MasterKey secret.Source // where the key is that secrets are sealed with; the zero value keeps it in the data directory

	DataRoots       []string      // directories below which datasets of this machine may lie; none = datasets lie elsewhere
	DeadLetterRoot  string        // directory that dead letters of event subscriptions may be written below; "" = none
	DeadLetterQuota int64         // bytes of dead letters that are kept, the oldest go; 0 = a tenth of the log's quota
	DeadLetterDelay time.Duration // how long dead letters are gathered before they are written to their store; default 2 s, Azure takes about 5 min

	MetricsEventSubscriptions int // how many event subscriptions have series of their own in /metrics; default 1,000

	LogLevel  slog.Level // least level that is logged; default Info
	LogOutput io.Writer  // where the log goes; default standard error, set by the command
}

// DefaultConfig returns the defaults; Data is still to be set.
func DefaultConfig() Config {
	return Config{
		Listen: []string{"127.0.0.1:7443"}, Durability: engine.DurabilityDisk, Memory: 256 << 20,
		Retention: 7 * 24 * time.Hour, WorkspaceRule: access.Strict, RevalidateOnEveryPut: true, DataSchema: true, DeadLetterDelay: 2 * time.Second,
		SigningKeyAge:             90 * 24 * time.Hour,
		MetricsEventSubscriptions: 1000,
	}
}

const (
	minMemory = 16 << 20
	minKeyAge = time.Hour
)

// Validate reports every setting that cannot be used, naming its flag.
func (c *Config) Validate() error {
	var problems []error
	if c.Data == "" {
		problems = append(problems, errors.New("--data is needed: the directory that holds everything the server keeps"))
	}
	_, unusable := c.doors()
	problems = append(problems, unusable...)
	for _, u := range []struct{ flag, text string }{{"--public-url", c.PublicURL}, {"--publish-url", c.PublishURL}} {
		if u.text == "" {
			continue
		}
		if parsed, err := url.Parse(u.text); err != nil || parsed.Host == "" || parsed.Scheme != "https" || strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" {
			problems = append(problems, fmt.Errorf("%s %q is not an address such as https://carillon.example.org:7443", u.flag, u.text))
		}
	}
	if (c.TLSCertificate == "") != (c.TLSKey == "") {
		problems = append(problems, errors.New("--tls-certificate and --tls-key are needed both, or neither"))
	}
	if c.MLflow == "" && c.MLflowUsername+c.MLflowPasswordFile+c.MLflowTokenFile != "" {
		problems = append(problems, errors.New("--mlflow-username, --mlflow-password-file and --mlflow-token-file go with --mlflow"))
	}
	if err := c.MasterKey.Check(); err != nil {
		problems = append(problems, err)
	}
	if _, err := c.proxies(); err != nil {
		problems = append(problems, err)
	}
	if c.LogQuota < 0 {
		problems = append(problems, fmt.Errorf("--log-quota %d is negative", c.LogQuota))
	}
	if c.Memory < minMemory {
		problems = append(problems, fmt.Errorf("--memory %d is less than the %d MiB a server needs", c.Memory, minMemory>>20))
	}
	if c.Retention <= 0 {
		problems = append(problems, fmt.Errorf("--retention %s is not a time", c.Retention))
	}
	if c.SigningKeyAge != 0 && c.SigningKeyAge < minKeyAge {
		problems = append(problems, fmt.Errorf("--signing-key-age %s is less than %s; 0 never replaces the key by itself", c.SigningKeyAge, minKeyAge))
	}
	for _, root := range c.DataRoots {
		if info, err := os.Stat(root); err != nil || !info.IsDir() || !filepath.IsAbs(root) {
			problems = append(problems, fmt.Errorf("--data-root %s is not the whole path of a directory", root))
		} else if c.Data != "" && (within(root, c.Data) || within(c.Data, root)) {
			problems = append(problems, fmt.Errorf("--data-root %s and --data %s lie in each other: what the server keeps is not for drift monitors to read", root, c.Data))
		}
	}
	if c.DeadLetterRoot != "" {
		if info, err := os.Stat(c.DeadLetterRoot); err != nil || !info.IsDir() {
			problems = append(problems, fmt.Errorf("--dead-letter-root %s is not a directory: make it first", c.DeadLetterRoot))
		}
	}
	if c.MetricsEventSubscriptions < 0 {
		problems = append(problems, fmt.Errorf("--metrics-event-subscriptions %d is negative", c.MetricsEventSubscriptions))
	}
	if c.DeadLetterQuota < 0 {
		problems = append(problems, fmt.Errorf("--dead-letter-quota %d is negative", c.DeadLetterQuota))
	}
	if c.DeadLetterDelay < 0 {
		problems = append(problems, fmt.Errorf("--dead-letter-delay %s is negative", c.DeadLetterDelay))
	}
	if _, _, err := egress.ParseDestinations(c.AllowDestination); err != nil {
		problems = append(problems, fmt.Errorf("--allow-destination: %w", err))
	}
	return errors.Join(problems...)
}

// within tells whether a path is a directory or lies below it.
func within(directory, path string) bool {
	real := func(p string) string {
		if abs, err := filepath.Abs(p); err == nil {
			p = abs
		}
		if target, err := filepath.EvalSymlinks(p); err == nil {
			p = target
		}
		return p
	}
	below, err := filepath.Rel(real(directory), real(path))
	return err == nil && below != ".." && !strings.HasPrefix(below, ".."+string(filepath.Separator))
}

// proxies returns the networks of TrustedProxy.
func (c *Config) proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range c.TrustedProxy {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--trusted-proxy %q is not a network such as 10.1.2.3/32", text)
		}
		list = append(list, network.Masked())
	}
	return list, nil
}

// LogValue shows the settings in the start record.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("data", c.Data), slog.Any("listen", c.Listen), slog.String("public_url", c.PublicURL), slog.String("publish_url", c.PublishURL),
		slog.String("durability", string(c.Durability)), slog.Int64("log_quota", c.LogQuota), slog.Int64("memory", c.Memory),
		slog.Duration("retention", c.Retention), slog.Any("allow_destination", c.AllowDestination),
		slog.String("destination_ca", c.DestinationCA),
		slog.String("dead_letter_root", c.DeadLetterRoot), slog.Any("data_root", c.DataRoots),
		slog.Int("metrics_event_subscriptions", c.MetricsEventSubscriptions),
		slog.Int64("dead_letter_quota", c.DeadLetterQuota), slog.Duration("dead_letter_delay", c.DeadLetterDelay),
		slog.String("tls_certificate", c.TLSCertificate), slog.Any("trusted_proxy", c.TrustedProxy),
		slog.String("identity_providers", c.IdentityProviders), slog.Duration("signing_key_age", c.SigningKeyAge),
		slog.String("master_key", c.MasterKey.Name()),
		slog.Bool("insecure_http", c.InsecureHTTP), slog.String("workspace_rule", string(c.WorkspaceRule)),
		slog.String("mlflow", secret.Redact(c.MLflow)), slog.String("mlflow_username", c.MLflowUsername), slog.String("mlflow_password_file", c.MLflowPasswordFile), slog.String("mlflow_token_file", c.MLflowTokenFile),
		slog.Bool("in_cluster", c.InCluster), slog.Bool("revalidate_on_every_put", c.RevalidateOnEveryPut), slog.Bool("dead_letter_404", c.DeadLetter404), slog.Bool("dataschema", c.DataSchema),
	)
}

// mlflow is what the MLflow settings ask for.
func (c *Config) mlflow() (change manage.MLflowChange, err error) {
	change.URL, change.Username = c.MLflow, c.MLflowUsername
	if change.Password, err = secretFile("--mlflow-password-file", c.MLflowPasswordFile); err == nil {
		change.Token, err = secretFile("--mlflow-token-file", c.MLflowTokenFile)
	}
	return change, err
}

// secretFile reads a secret from a file that nobody else may read, nil for none.
func secretFile(flag, path string) (*secret.String, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no file, no secret
	}
	if err := secret.CheckPrivate(path); err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	text := secret.String(strings.TrimRight(string(raw), "\r\n"))
	return &text, nil
}
