package arm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// Version is the api-version of what only Carillon has: workspace sub-resources,
// principals, and the reading and operating of deliveries.
const Version = "2026-11-01"

// Paths of what only Carillon has, beside the workspace sub-resources. Where nothing
// else is said they follow the id of a scope: a source, an event subscription, a
// resource group, a subscription.
const (
	PrincipalsPath     = "/providers/Carillon.Identity/principals"  // POST …/{objectId}/resetSecret
	WhoAmIPath         = "/providers/Carillon.Identity/whoAmI"      // of any caller
	SigningKeysPath    = "/providers/Carillon.Identity/signingKeys" // of the tokens that this server issues
	RotateKeysPath     = "/providers/Carillon.Identity/rotateSigningKeys"
	CheckAccessPath    = "/providers/Carillon.Identity/checkAccess"       // POST, below a scope
	AuditPath          = "/providers/Carillon.Audit/records"              // of a scope, oldest first
	MasterKeyPath      = "/providers/Carillon.Secrets/masterKeys/default" // POST …/rotate
	ReplaysPath        = "/providers/Carillon.Delivery/replays"           // of the log, below an event subscription
	AttemptsPath       = "/providers/Carillon.Delivery/attempts"          // of an event subscription, the newest first
	DeadLettersPath    = "/providers/Carillon.Delivery/deadLetters"       // POST …/replay
	LiveEventsPath     = "/providers/Carillon.Delivery/events"            // one JSON object a line, until the reader leaves; …/{id} is one of the log, …/{id}/deliveries what became of it
	DeliveryStatusPath = "/providers/Carillon.Delivery/deliveryStatus"    // of every event subscription at or below the scope
)

// Client speaks the management API of a server, with its errors read back into
// faults. It is safe for concurrent use.
type Client struct {
	BaseURL   string       // scheme, host and port, without a trailing slash
	Token     string       // bearer token; sent to BaseURL's origin only
	HTTP      *http.Client // never follows redirects
	PlainHTTP bool         // sends the token over http to other hosts than this one, too
}

// NewClient makes a client that trusts the certificates of roots, or those of
// the system when roots is nil.
func NewClient(baseURL, token string, roots *x509.CertPool) *Client {
	return &Client{
		BaseURL: strings.TrimRight(baseURL, "/"),
		Token:   token,
		HTTP: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:   10 * time.Second,
				ResponseHeaderTimeout: 3 * time.Minute, // a handshake may take three attempts of 30 s
				IdleConnTimeout:       30 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Do makes one request. The path is an id or starts with one, unescaped; the
// api-version is added unless query has one. A body that is not nil is sent as
// JSON ([]byte and json.RawMessage as they are); out, if not nil, receives the
// answer. header is added to the request. An answer of 300 and above is an error
// of type [*fault.Error].
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body, out any, header http.Header) (http.Header, error) {
	target, err := c.target(path, query)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, method, target, body, header)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.Header, fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	if out == nil || len(bytes.TrimSpace(raw)) == 0 {
		return resp.Header, nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return resp.Header, fmt.Errorf("decode the answer to %s %s: %w", method, path, err)
	}
	return resp.Header, nil
}

// Get reads a resource into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	_, err := c.Do(ctx, http.MethodGet, path, nil, nil, out, nil)
	return err
}

// Put creates or replaces a resource and reads the answer into out.
func (c *Client) Put(ctx context.Context, path string, body, out any) error {
	_, err := c.Do(ctx, http.MethodPut, path, nil, body, out, nil)
	return err
}

// Patch changes a resource and reads the answer into out.
func (c *Client) Patch(ctx context.Context, path string, body, out any) error {
	_, err := c.Do(ctx, http.MethodPatch, path, nil, body, out, nil)
	return err
}

// Post calls an action and reads the answer into out.
func (c *Client) Post(ctx context.Context, path string, body, out any) error {
	_, err := c.Do(ctx, http.MethodPost, path, nil, body, out, nil)
	return err
}

// Delete removes a resource; one that is not there is no error.
func (c *Client) Delete(ctx context.Context, path string) error {
	_, err := c.Do(ctx, http.MethodDelete, path, nil, nil, nil, nil)
	return err
}

// List yields the entries of a list, page after page. It stops after the first
// error. A next page on another origin is refused: the token stays at home. So is one
// that was read: of the pages so far one is kept, ever later ones, and each circle is found.
func (c *Client) List(ctx context.Context, path string, query url.Values) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		next, err := c.target(path, query)
		kept := next
		for n := 1; err == nil && next != ""; n++ {
			var page struct {
				Value    []json.RawMessage `json:"value"`
				NextLink string            `json:"nextLink"`
			}
			if err = c.page(ctx, next, &page); err != nil {
				break
			}
			for _, entry := range page.Value {
				if !yield(entry, nil) {
					return
				}
			}
			if next = page.NextLink; next == kept {
				err = fmt.Errorf("list %s: the server leads back to a page that was read: the list has no end", path)
			}
			if n&(n-1) == 0 {
				kept = next
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func (c *Client) page(ctx context.Context, target string, out any) error {
	resp, err := c.send(ctx, http.MethodGet, target, nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("decode a page of %s: %w", target, err)
	}
	return nil
}

// Stream opens an answer that goes on until the caller closes it or ctx ends.
func (c *Client) Stream(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	target, err := c.target(path, query)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, http.MethodGet, target, nil, http.Header{"Accept": {"application/x-ndjson"}})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// target returns the full URL of a path.
func (c *Client) target(path string, query url.Values) (string, error) {
	base, err := url.Parse(c.BaseURL)
	if err != nil || base.Host == "" {
		return "", fmt.Errorf("server address %q is not a URL like https://localhost:7443", c.BaseURL)
	}
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	if !q.Has("api-version") {
		q.Set("api-version", defaultVersion(path))
	}
	base.Path = strings.TrimRight(base.Path, "/") + "/" + strings.TrimLeft(path, "/")
	base.RawQuery = q.Encode()
	return base.String(), nil
}

func (c *Client) send(ctx context.Context, method, target string, body any, header http.Header) (*http.Response, error) {
	if err := c.mayReach(target); err != nil {
		return nil, err
	}
	payload, err := encodeBody(body)
	if err != nil {
		return nil, fmt.Errorf("encode the body of %s %s: %w", method, target, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("make request %s %s: %w", method, target, err)
	}
	for name, values := range header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	if len(payload) > 0 && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	req.Header.Set("User-Agent", "carillon")
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	if resp.StatusCode >= 300 {
		return nil, fault.Read(resp)
	}
	return resp, nil
}

// mayReach refuses a URL that the token must not be sent to.
func (c *Client) mayReach(target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return fmt.Errorf("address %q is not a URL", target)
	}
	base, err := url.Parse(c.BaseURL)
	if err != nil || !strings.EqualFold(u.Scheme, base.Scheme) || !strings.EqualFold(u.Host, base.Host) {
		return fmt.Errorf("the server at %s names a page on %s; it is not asked, for the token belongs to the server alone", c.BaseURL, u.Host)
	}
	if c.Token != "" && strings.EqualFold(u.Scheme, "http") && !c.PlainHTTP && !loopback(u.Hostname()) {
		return fault.New(fault.Invalid, "PlainHTTP", "A token is not sent to %s over plain http, where others could read it. Use https.", u.Host)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") || ip != nil && ip.IsLoopback()
}

func encodeBody(body any) ([]byte, error) {
	switch b := body.(type) {
	case nil:
		return nil, nil
	case []byte:
		return b, nil
	case json.RawMessage:
		return b, nil
	default:
		return json.Marshal(b)
	}
}

// unreachable makes a fault of a failed exchange, so that callers print one
// sentence. The end of the caller's context stays what it is.
func unreachable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var u *url.Error
	cause, where := err, "the server"
	if errors.As(err, &u) {
		cause = u.Err
		if at, perr := url.Parse(u.URL); perr == nil {
			where = at.Scheme + "://" + at.Host
		}
	}
	return fault.New(fault.Unavailable, "ServerUnreachable", "Cannot reach %s: %v.", where, cause).Because(err)
}

// defaultVersion returns the api-version that suits a path: the one of its last
// provider, or of resource groups and subscriptions where there is none.
func defaultVersion(path string) string {
	segments := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	provider := ""
	for i, s := range segments {
		if strings.EqualFold(s, "providers") && i+1 < len(segments) {
			provider = strings.ToLower(segments[i+1])
		}
	}
	switch provider {
	case "microsoft.eventgrid":
		return "2025-02-15"
	case "microsoft.authorization":
		return "2022-04-01"
	case "microsoft.machinelearningservices":
		return Version
	case "microsoft.resources":
		return "2022-09-01"
	}
	if provider == "" && len(segments) > 0 && (strings.EqualFold(segments[0], "subscriptions") || strings.EqualFold(segments[0], "tenants")) {
		return "2022-12-01"
	}
	if provider == "" && len(segments) > 0 && strings.EqualFold(segments[0], "metadata") {
		return "2022-09-01"
	}
	return Version
}
