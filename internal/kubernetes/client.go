package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Dial connects to an address, or says why not. *egress.Guard has two.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// podDir is where a pod finds what it proves itself with.
const podDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// PodServer returns the API server of the cluster that this process runs in, "" for none.
func PodServer() string {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port)
}

// bearer adds a token to requests.
type bearer struct {
	token func() (string, error)
	next  http.RoundTripper
}

// RoundTrip satisfies http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := b.next.RoundTrip(r)
	if err == nil && res.StatusCode >= http.StatusBadRequest {
		err = forget(res, token)
	}
	return res, err
}

// forget takes a secret out of what an answer that says no tells: it is shown, and what
// servers write there is not ours to trust.
func forget(res *http.Response, word string) error {
	const most = 64 << 10
	raw, err := io.ReadAll(io.LimitReader(res.Body, most))
	_ = res.Body.Close()
	if word != "" {
		raw = bytes.ReplaceAll(raw, []byte(word), []byte(secret.Hidden))
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	return err
}

// connect makes a client of a cluster. Connections are dialled by the guard, no proxy is
// used and no redirect followed: the credential is for this server alone.
func (s *Service) connect(c *resource.Cluster, credential secret.String) (*client, error) {
	server, authority, dial, clear := c.Server, []byte(c.Authority), s.cfg.Dial, s.cfg.DialClear
	token := func() (string, error) { return credential.Reveal(), nil }
	if c.InCluster {
		server, dial = s.cfg.PodServer, s.cfg.DialPod
		pem, err := os.ReadFile(filepath.Join(s.cfg.PodDir, "ca.crt"))
		if err != nil {
			return nil, fmt.Errorf("read the authority of the pod: %w", err)
		}
		authority = pem
		token = func() (string, error) { // it is replaced every hour
			raw, err := os.ReadFile(filepath.Join(s.cfg.PodDir, "token"))
			return strings.TrimSpace(string(raw)), err
		}
	}
	settings := &tls.Config{ServerName: c.ServerName, RootCAs: s.cfg.RootCAs, MinVersion: tls.VersionTLS12}
	if len(authority) > 0 {
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(authority) {
			return nil, errors.New("the certificate authority holds no certificate in PEM")
		}
	}
	if c.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(credential.Reveal()))
		if err != nil {
			return nil, errors.New("client certificate and key do not fit each other, or are not PEM")
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	if u, err := url.Parse(server); err == nil && u.Scheme == "http" {
		dial = clear
	}
	connections := &http.Transport{
		DialContext: dial, TLSClientConfig: settings, TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: answerTime,
		ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: pingTime, PingTimeout: pingTime}, IdleConnTimeout: 2 * time.Minute,
	}
	var transport http.RoundTripper = connections
	if c.Certificate == "" && (credential != "" || c.InCluster) {
		transport = bearer{token, transport}
	}
	over := &http.Client{Transport: bounded{transport}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	made, err := dynamic.NewForConfigAndClient(&rest.Config{Host: server, UserAgent: "carillon", QPS: -1}, over)
	if err != nil {
		return nil, fmt.Errorf("make a client of the cluster: %w", err)
	}
	return &client{made, connections}, nil
}

// client is a client of one cluster. Its connections are its own.
type client struct {
	dynamic.Interface
	connections *http.Transport
}

// hangUp closes the connections: no request is under way.
func (c *client) hangUp() { c.connections.CloseIdleConnections() }

const (
	dialTime   = 10 * time.Second
	answerTime = time.Minute
	pingTime   = 30 * time.Second // a connection that is dead without a word is found by then
)

// Check satisfies manage.Kubernetes: each kind is listed as it would be followed.
func (s *Service) Check(ctx context.Context, c *resource.Cluster, credential secret.String) error {
	ctx, cancel := context.WithTimeout(klog.NewContext(ctx, logr.Discard()), dialTime)
	defer cancel()
	client, err := s.connect(c, credential)
	if err != nil {
		return err
	}
	defer client.hangUp()
	for i := range kinds {
		k := &kinds[i]
		for _, namespace := range namespacesOf(c) {
			_, err := client.Resource(k.resource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(c, k), Limit: 1})
			if err != nil && !(k.optional && apierrors.IsNotFound(err)) {
				return shown(fmt.Errorf("list %s: %w", k.resource.Resource, err))
			}
		}
	}
	return nil
}

// shown is an error as users may see it.
func shown(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(secret.Redact(err.Error()))
}

// Refused reports whether a cluster does not take the credentials, or lets them do too
// little.
func Refused(err error) bool { return apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) }

// namespacesOf are those that are listed one by one; "" is all of them.
func namespacesOf(c *resource.Cluster) []string {
	if len(c.Namespaces) == 0 {
		return []string{""}
	}
	return c.Namespaces
}

func selectorOf(c *resource.Cluster, k *kind) string {
	if c.Selector == "" || k.selector == "" {
		return c.Selector + k.selector
	}
	return k.selector + "," + c.Selector
}
