package arm

import (
	"net/http"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// clusterBody is a Kubernetes cluster that a workspace follows; this API is Carillon's own.
type clusterBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	ETag       string            `json:"etag"`
	SystemData systemData        `json:"systemData"`
	Properties clusterProperties `json:"properties"`
}

// clusterProperties shows of a secret only that it is there.
type clusterProperties struct {
	Server         string        `json:"server"`
	InCluster      bool          `json:"inCluster"`
	Authority      string        `json:"certificateAuthority,omitempty"`
	ServerName     string        `json:"tlsServerName,omitempty"`
	Authentication string        `json:"authentication"` // None, Token, ClientCertificate or Pod
	Certificate    string        `json:"clientCertificate,omitempty"`
	Namespaces     []string      `json:"namespaces"` // empty for all
	Selector       string        `json:"selector,omitempty"`
	EmitBacklog    bool          `json:"emitBacklog"`
	NameOnly       bool          `json:"nameOnly"`
	Status         clusterStatus `json:"status"`
}

type clusterStatus struct {
	State         string  `json:"state"` // Listing, Watching, Failing or Refused
	LastList      *string `json:"lastList"`
	Objects       int     `json:"objects"`
	KServe        bool    `json:"kserve"` // the cluster has InferenceServices
	LastError     *string `json:"lastError"`
	LastErrorTime *string `json:"lastErrorTime"`
}

const clusterType = "Carillon.Kubernetes/clusters"

func clusterOf(item resource.Item[resource.Cluster], s manage.KubernetesStatus) clusterBody {
	c := item.Value
	authentication := "None"
	switch {
	case c.InCluster:
		authentication = "Pod"
	case c.Certificate != "":
		authentication = "ClientCertificate"
	case c.SealedSecret != "":
		authentication = "Token"
	}
	b := clusterBody{
		ID: c.ID().String(), Name: c.Name, Type: clusterType, ETag: item.ETag(), SystemData: systemDataOf(c.Created, c.Modified),
		Properties: clusterProperties{
			Server: c.Server, InCluster: c.InCluster, Authority: c.Authority, ServerName: c.ServerName, Authentication: authentication, Certificate: c.Certificate,
			Namespaces: append([]string{}, c.Namespaces...), Selector: c.Selector, EmitBacklog: c.EmitBacklog, NameOnly: c.NameOnly,
			Status: clusterStatus{State: s.State, Objects: s.Objects, KServe: !s.Absent, LastError: orNull(s.LastError)},
		},
	}
	if !s.LastList.IsZero() {
		b.Properties.Status.LastList = orNull(armTime(s.LastList))
	}
	if !s.ErrorAt.IsZero() {
		b.Properties.Status.LastErrorTime = orNull(armTime(s.ErrorAt))
	}
	return b
}

func getCluster(a *api, r *request) (answer, error) {
	item, status, err := a.Plane.Cluster(r.ctx, r.caller, r.scope, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, etag: item.ETag(), body: clusterOf(item, status)}, nil
}

func listClusters(a *api, r *request) (answer, error) {
	items, err := a.Plane.Clusters(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	list := []clusterBody{}
	for _, item := range items {
		list = append(list, clusterOf(item, a.Plane.ClusterStatus(&item.Value)))
	}
	return whole(list), nil
}

func putCluster(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	r.sameResource(f)
	p := f.sub("properties")
	c := manage.ClusterChange{
		Server: p.str("server"), Authority: p.str("certificateAuthority"), ServerName: p.str("tlsServerName"), Certificate: p.str("clientCertificate"),
		Token: (*secret.String)(p.text("token")), Key: (*secret.String)(p.text("clientKey")), Selector: p.str("selector"),
	}
	c.Namespaces = p.texts("namespaces")
	for name, into := range map[string]*bool{"inCluster": &c.InCluster, "emitBacklog": &c.EmitBacklog, "nameOnly": &c.NameOnly} {
		if given := value[bool](p, name, "true or false"); given != nil {
			*into = *given
		}
	}
	c.Unread = f.verdict(unread)
	item, status, created, err := a.Plane.AttachCluster(r.ctx, r.caller, r.scope, r.names[0], c, r.precondition())
	if err != nil {
		return answer{}, err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return answer{status: code, etag: item.ETag(), body: clusterOf(item, status)}, nil
}

func deleteCluster(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DetachCluster(r.ctx, r.caller, r.scope, r.names[0], r.precondition()))
}
