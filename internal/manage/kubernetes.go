package manage

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// Kubernetes follows the clusters that are attached. *kubernetes.Service satisfies it.
type Kubernetes interface {
	// Check lists what would be followed with the secret that it would be followed with.
	// Its error is shown to the caller and holds no secret.
	Check(ctx context.Context, c *resource.Cluster, secret secret.String) error
	// InCluster reports whether the cluster that this server runs in may be followed.
	InCluster() bool
	// Status tells how the following of a cluster stands, false when it has not begun.
	Status(uid resource.UID) (KubernetesStatus, bool)
}

// KubernetesStatus is how the following of a cluster stands.
type KubernetesStatus struct {
	State     string
	LastList  time.Time // the oldest of its last lists; zero while one is missing
	Objects   int       // in the last lists
	Absent    bool      // the cluster has no InferenceServices
	LastError string    // also of an object that was passed over
	ErrorAt   time.Time
}

// States of KubernetesStatus.
const (
	KubernetesListing  = "Listing"  // for the first time since the start
	KubernetesWatching = "Watching" // changes are heard of as they come
	KubernetesFailing  = "Failing"  // the cluster does not answer, or what it answered could not be stored
	KubernetesRefused  = "Refused"  // it does not take the credentials, or lets them do too little
)

const maxClusterNamespaces = 50

// ClusterChange is what a request says of a cluster; a secret that is nil stays as it is,
// while server and client certificate stay.
type ClusterChange struct {
	Server, Authority, ServerName string
	InCluster                     bool
	Token                         *secret.String
	Certificate                   string
	Key                           *secret.String
	Namespaces                    []string
	Selector                      string
	EmitBacklog, NameOnly         bool
	Unread                        error // what could not be read of the request
}

// cluster returns a cluster of a workspace.
func (p *Plane) cluster(ws resource.ID, name string) (item resource.Item[resource.Cluster], err error) {
	if _, err := p.workspace(ws); err != nil {
		return item, err
	}
	item, ok := p.Store.Clusters.Get(resource.ClusterID(ws, name).Key())
	if !ok {
		return item, notFound("ResourceNotFound", "The workspace '%s' follows no Kubernetes cluster '%.80s'.", ws.Name(), name)
	}
	return item, nil
}

// Cluster returns a cluster that a workspace follows.
func (p *Plane) Cluster(ctx context.Context, caller access.Caller, ws resource.ID, name string) (item resource.Item[resource.Cluster], status KubernetesStatus, err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"read", ws); err != nil {
		return item, status, err
	}
	if item, err = p.cluster(ws, name); err != nil {
		return item, status, err
	}
	return item, p.ClusterStatus(&item.Value), nil
}

// Clusters returns the clusters that a workspace follows.
func (p *Plane) Clusters(ctx context.Context, caller access.Caller, ws resource.ID) ([]resource.Item[resource.Cluster], error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"read", ws); err != nil {
		return nil, err
	}
	if _, err := p.workspace(ws); err != nil {
		return nil, err
	}
	return p.Store.Clusters.List(ws.Key() + "/"), nil
}

// ClusterStatus tells how the following of a cluster stands.
func (p *Plane) ClusterStatus(c *resource.Cluster) KubernetesStatus {
	if p.Kubernetes != nil {
		if status, ok := p.Kubernetes.Status(c.UID); ok {
			return status
		}
	}
	return KubernetesStatus{State: KubernetesListing}
}

// AttachCluster has a workspace follow a Kubernetes cluster, or changes how it follows the
// one that has the name. With another server it is another cluster: what is there is of the
// time before.
func (p *Plane) AttachCluster(ctx context.Context, caller access.Caller, ws resource.ID, name string, c ClusterChange, cond Precondition) (item resource.Item[resource.Cluster], status KubernetesStatus, created bool, err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"write", ws); err != nil {
		return item, status, false, err
	}
	if p.Kubernetes == nil {
		return item, status, false, fault.New(fault.Invalid, "InvalidRequest", "This server follows no Kubernetes clusters.")
	}
	if _, err := p.workspace(ws); err != nil {
		return item, status, false, err
	}
	key := resource.ClusterID(ws, name).Key()
	done, err := p.changes.take(ctx, key)
	if err != nil {
		return item, status, false, err
	}
	defer done()
	present, exists := p.Store.Clusters.Get(key)
	if err := cond.Check(etagOf(present, exists)); err != nil {
		return item, status, false, err
	}
	m, given, err := p.clusterOf(c, ws, name, &present.Value, exists)
	if err != nil {
		return item, status, false, err
	}
	kept, err := OpenClusterSecret(p.Sealer, &m)
	if err != nil {
		return item, status, false, err
	}
	if given == "" {
		given = kept
	}
	if err := p.Kubernetes.Check(ctx, &m, given); err != nil {
		return item, status, false, fault.Field("properties.server", "The Kubernetes cluster cannot be followed: %v. Its credentials need get, list and watch of inferenceservices.serving.kserve.io and deployments.apps. Nothing was changed.", err)
	}
	if given != "" {
		if m.SealedSecret, err = p.Sealer.Seal([]byte(given.Reveal()), m.SecretOwner()); err != nil {
			return item, status, false, fmt.Errorf("seal the secret of the cluster: %w", err)
		}
	}
	m.Modified = stamp(caller)
	ctx, unlock := p.alter(ctx)
	defer unlock()
	w, err := p.workspace(ws) // it may have gone meanwhile
	if err != nil {
		return item, status, false, err
	}
	m.Workspace = w.Value.ID
	if exists {
		if m.UID != present.Value.UID {
			m.Created = m.Modified
		}
		item, err = p.Store.Clusters.Update(ctx, key, m, present.Revision)
	} else {
		m.Created = m.Modified
		item, err = p.Store.Clusters.Create(ctx, key, m)
	}
	if fault.Is(err, fault.PreconditionFailed) || fault.Is(err, fault.Conflict) {
		err = overtaken("The cluster '" + name + "'")
	}
	if err != nil {
		return item, status, false, err
	}
	p.changed(ctx, caller, "attach Kubernetes cluster", m.ID())
	return item, p.ClusterStatus(&item.Value), !exists, nil
}

// clusterOf checks a request and returns the cluster that it asks for, with the secret
// that it gives.
func (p *Plane) clusterOf(c ClusterChange, ws resource.ID, name string, present *resource.Cluster, exists bool) (m resource.Cluster, given secret.String, err error) {
	var problems []*fault.Error
	wrong := func(field, format string, args ...any) {
		problems = append(problems, fault.Field("properties."+field, format, args...))
	}
	if !plainWord(name) || len(name) > 63 {
		problems = append(problems, fault.Field("name", "The cluster name '%.80s' is not valid: use 1 to 63 letters, digits and dashes.", name))
	}
	c.Server = strings.TrimRight(c.Server, "/")
	switch u, err := url.Parse(c.Server); {
	case c.InCluster && (c.Server != "" || c.Authority != "" || c.Certificate != "" || c.Token != nil || c.Key != nil):
		wrong("inCluster", "With inCluster address and credentials are those of the pod: leave the others out.")
	case c.InCluster && !p.Kubernetes.InCluster():
		wrong("inCluster", "This server does not follow the cluster that it runs in: its operator can allow that with serve --in-cluster.")
	case c.InCluster:
	case c.Server == "":
		wrong("server", "A cluster needs its server, the address of its API server: for example https://10.0.0.1:6443.")
	case len(c.Server) > maxURL || err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		wrong("server", "The server is not an absolute http or https address without user, query and fragment, of at most %d bytes.", maxURL)
	default:
		if err := p.CheckURL(u); err != nil {
			wrong("server", "The server cannot be used: %v.", err)
		}
	}
	for _, text := range []struct{ field, text string }{{"certificateAuthority", c.Authority}, {"clientCertificate", c.Certificate}} {
		if block, _ := pem.Decode([]byte(text.text)); text.text != "" && (block == nil || block.Type != "CERTIFICATE" || len(text.text) > maxPEM) {
			wrong(text.field, "The %s is not a certificate in PEM of at most %d bytes.", text.field, maxPEM)
		}
	}
	if len(c.ServerName) > 253 || strings.ContainsFunc(c.ServerName, func(r rune) bool { return r <= ' ' || r > '~' }) {
		wrong("tlsServerName", "The tlsServerName '%.80s' is not a host name.", c.ServerName)
	}
	if len(c.Namespaces) > maxClusterNamespaces {
		wrong("namespaces", "There are %d namespaces; at most %d are followed one by one. Without any, all of them are.", len(c.Namespaces), maxClusterNamespaces)
	}
	for i, namespace := range c.Namespaces {
		if !plainWord(namespace) || len(namespace) > 63 || slices.Contains(c.Namespaces[:i], namespace) {
			wrong(fmt.Sprintf("namespaces[%d]", i), "The namespace '%.80s' is not valid, or is named twice.", namespace)
		}
	}
	if len(c.Selector) > 1024 || strings.ContainsFunc(c.Selector, func(r rune) bool { return r < ' ' || r > '~' }) {
		wrong("selector", "The selector is not valid: write labels as for kubectl --selector, in at most 1024 bytes.")
	}
	m = resource.Cluster{
		UID: present.UID, Workspace: ws, Name: name, Server: c.Server, InCluster: c.InCluster, Authority: c.Authority, ServerName: c.ServerName, Certificate: c.Certificate,
		Namespaces: c.Namespaces, Selector: c.Selector, EmitBacklog: c.EmitBacklog, NameOnly: c.NameOnly, Created: present.Created,
	}
	if exists {
		m.Name = present.Name
	}
	another := !exists || present.Server != m.Server || present.InCluster != m.InCluster
	if another {
		m.UID = resource.NewUID()
	}
	field := "token"
	switch {
	case c.Token != nil && (c.Key != nil || c.Certificate != ""):
		wrong("token", "Give a token, or a clientCertificate with its clientKey, not both.")
	case c.Key != nil && c.Certificate == "":
		wrong("clientCertificate", "A clientKey needs its clientCertificate.")
	case c.Token != nil:
		given = *c.Token
	case c.Key != nil:
		given, field = *c.Key, "clientKey"
	case !another && present.Certificate == m.Certificate:
		m.SealedSecret = present.SealedSecret
	case c.Certificate != "":
		wrong("clientKey", "A clientCertificate needs its clientKey; it can be left out only while server and clientCertificate stay.")
	}
	if len(given) > maxPEM || field == "token" && strings.ContainsFunc(given.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		wrong(field, "The %s is not valid: a token has printable ASCII characters alone, and %d bytes are enough.", field, maxPEM)
	}
	return m, given, errors.Join(c.Unread, fault.Join(problems...))
}

// plainWord reports whether a name is of letters, digits and dashes, as those of
// Kubernetes are.
func plainWord(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
}

// DetachCluster has a workspace follow a cluster no more, and reports whether it did. The
// online endpoints that it kept are forgotten.
func (p *Plane) DetachCluster(ctx context.Context, caller access.Caller, ws resource.ID, name string, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"write", ws); err != nil {
		return false, err
	}
	key := resource.ClusterID(ws, name).Key()
	done, err := p.changes.take(ctx, key)
	if err != nil {
		return false, err
	}
	defer done()
	ctx, unlock := p.alter(ctx)
	defer unlock()
	item, exists := p.Store.Clusters.Get(key)
	if err := c.Check(etagOf(item, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.Store.Clusters.Delete(ctx, item.Key, item.Revision); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "detach Kubernetes cluster", item.Value.ID())
	return true, nil
}

// OpenClusterSecret returns the secret of a cluster, "" for none.
func OpenClusterSecret(sealer *secret.Sealer, c *resource.Cluster) (secret.String, error) {
	if c.SealedSecret == "" {
		return "", nil
	}
	plain, err := sealer.Open(c.SealedSecret, c.SecretOwner())
	if err != nil {
		return "", fmt.Errorf("open the secret of the cluster: %w", err)
	}
	return secret.String(plain), nil
}
