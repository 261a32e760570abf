package arm

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// fakeKubernetes notes what clusters are checked with.
type fakeKubernetes struct {
	checked string
	refuse  error
	pod     bool
	status  map[resource.UID]manage.KubernetesStatus
}

func (f *fakeKubernetes) Check(_ context.Context, c *resource.Cluster, s secret.String) error {
	f.checked = c.Server + " " + s.Reveal()
	return f.refuse
}

func (f *fakeKubernetes) InCluster() bool { return f.pod }

func (f *fakeKubernetes) Status(uid resource.UID) (manage.KubernetesStatus, bool) {
	s, ok := f.status[uid]
	return s, ok
}

const pemText = `-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`

func TestKubernetesCluster(t *testing.T) {
	s := newStack(t)
	fake := &fakeKubernetes{status: map[resource.UID]manage.KubernetesStatus{}}
	s.plane.Kubernetes = fake
	const clusters = wsID + "/providers/Carillon.Kubernetes/clusters"
	const version = "?api-version=2026-11-01"
	at := clusters + "/prod" + version
	check := func(caller, method, target, body string, status int, want ...string) string {
		t.Helper()
		w := s.do(caller, method, target, body)
		if w.Code != status {
			t.Errorf("%s %s: %d %s, want %d", method, body, w.Code, w.Body, status)
		}
		for _, part := range want {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s %s: %s does not hold %q", method, body, w.Body, part)
			}
		}
		if strings.Contains(w.Body.String(), "s3cret") {
			t.Errorf("%s %s shows a secret: %s", method, body, w.Body)
		}
		return w.Body.String()
	}
	const body = `{"properties":{"server":"https://k.example:6443/","token":"s3cret","certificateAuthority":"` + pemText + `","namespaces":["ml"],"selector":"team=growth"}}`
	check("owner", "GET", at, "", 404, "follows no Kubernetes cluster 'prod'")
	check("reader", "GET", clusters+version, "", 200, `"value":[]`)
	check("reader", "PUT", at, body, 403)
	check("owner", "PUT", at, body, 201, `"authentication":"Token"`, `"server":"https://k.example:6443"`, `"state":"Listing"`, `"namespaces":["ml"]`, `"kserve":true`)
	if fake.checked != "https://k.example:6443 s3cret" {
		t.Errorf("checked with %q", fake.checked)
	}
	for key, value := range s.kv.Dump() {
		if strings.Contains(value, "s3cret") {
			t.Errorf("%s holds the secret: %s", key, value)
		}
	}
	key := resource.ClusterID(resource.MustID(wsID), "prod").Key()
	first, _ := s.plane.Store.Clusters.Get(key)
	for problem, c := range map[string][2]string{
		"no server":           {`{"properties":{}}`, "properties.server"},
		"not an address":      {`{"properties":{"server":"k.example"}}`, "absolute"},
		"not allowed":         {`{"properties":{"server":"http://k.example"}}`, "must start with https"},
		"credentials in it":   {`{"properties":{"server":"https://a:b@k.example"}}`, "without user"},
		"no certificate":      {`{"properties":{"server":"https://k.example","certificateAuthority":"abc"}}`, "not a certificate in PEM"},
		"both":                {`{"properties":{"server":"https://k.example","token":"a","clientCertificate":"` + pemText + `","clientKey":"k"}}`, "not both"},
		"key alone":           {`{"properties":{"server":"https://k.example","clientKey":"k"}}`, "needs its clientCertificate"},
		"certificate alone":   {`{"properties":{"server":"https://k.example","clientCertificate":"` + pemText + `"}}`, "needs its clientKey"},
		"token with a line":   {`{"properties":{"server":"https://k.example","token":"a\nb"}}`, "printable"},
		"namespace":           {`{"properties":{"server":"https://k.example","namespaces":["ml","a/b"]}}`, "properties.namespaces[1]"},
		"namespace twice":     {`{"properties":{"server":"https://k.example","namespaces":["ml","ml"]}}`, "named twice"},
		"namespaces no list":  {`{"properties":{"server":"https://k.example","namespaces":"ml"}}`, "array of strings"},
		"a word":              {`{"properties":{"server":"https://k.example","nameOnly":"yes"}}`, "true or false"},
		"not in a cluster":    {`{"properties":{"inCluster":true}}`, "serve --in-cluster"},
		"in cluster and more": {`{"properties":{"inCluster":true,"server":"https://k.example"}}`, "those of the pod"},
	} {
		t.Run(problem, func(t *testing.T) { check("owner", "PUT", at, c[0], 400, c[1]) })
	}
	check("owner", "PUT", clusters+"/a.b"+version, body, 400, "The cluster name")
	fake.refuse = errors.New("list deployments: forbidden")
	check("owner", "PUT", at, body, 400, "cannot be followed: list deployments: forbidden", "get, list and watch")
	fake.refuse = nil
	if now, _ := s.plane.Store.Clusters.Get(key); now.Revision != first.Revision {
		t.Error("a refused request changed something")
	}

	// The secret stays while the server does; with another it is another cluster.
	check("owner", "PUT", at, `{"properties":{"server":"https://k.example:6443","emitBacklog":true}}`, 200, `"emitBacklog":true`, `"authentication":"Token"`, `"namespaces":[]`)
	if now, _ := s.plane.Store.Clusters.Get(key); now.Value.UID != first.Value.UID || fake.checked != "https://k.example:6443 s3cret" {
		t.Errorf("the same cluster was attached anew, checked with %q", fake.checked)
	}
	check("owner", "PUT", at, `{"properties":{"server":"https://l.example","clientCertificate":"`+pemText+`","clientKey":"s3cret-2"}}`, 200, `"authentication":"ClientCertificate"`)
	now, _ := s.plane.Store.Clusters.Get(key)
	if now.Value.UID == first.Value.UID {
		t.Error("another cluster has the uid of the one before")
	}
	fake.pod = true
	check("owner", "PUT", clusters+"/here"+version, `{"properties":{"inCluster":true}}`, 201, `"authentication":"Pod"`)
	fake.status[now.Value.UID] = manage.KubernetesStatus{State: manage.KubernetesFailing, Objects: 3, Absent: true, LastError: "nobody answers"}
	var shown clusterBody
	if err := json.Unmarshal([]byte(check("reader", "GET", at, "", 200, `"lastError":"nobody answers"`)), &shown); err != nil || shown.ID != clusters+"/prod" || shown.Properties.Status.Objects != 3 || shown.Properties.Status.KServe {
		t.Errorf("%+v, error %v", shown, err)
	}
	check("reader", "GET", clusters+version, "", 200, "clusters/prod", "clusters/here")
	check("reader", "DELETE", at, "", 403)
	check("owner", "DELETE", at, "", 204)
	check("owner", "DELETE", at, "", 204)
	check("owner", "DELETE", wsID+version, "", 204)
	if left := s.plane.Store.Clusters.List(""); len(left) > 0 {
		t.Errorf("clusters outlived their workspace: %v", left)
	}
}
