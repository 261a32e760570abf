package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// kubeconfig is what of one is of use here. Source: kubernetes.io/docs/reference/config-api/kubeconfig.v1.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
	Clusters []struct {
		Name    string      `json:"name"`
		Cluster kubeCluster `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string   `json:"name"`
		User kubeUser `json:"user"`
	} `json:"users"`
}

type kubeCluster struct {
	Server     string `json:"server"`
	ServerName string `json:"tls-server-name"`
	File       string `json:"certificate-authority"`
	Data       string `json:"certificate-authority-data"`
	Insecure   bool   `json:"insecure-skip-tls-verify"`
	Proxy      string `json:"proxy-url"`
}

type kubeUser struct {
	Token           string         `json:"token"`
	TokenFile       string         `json:"tokenFile"`
	CertificateFile string         `json:"client-certificate"`
	CertificateData string         `json:"client-certificate-data"`
	KeyFile         string         `json:"client-key"`
	KeyData         string         `json:"client-key-data"`
	Username        string         `json:"username"`
	As              string         `json:"as"`
	Exec            map[string]any `json:"exec"`
	AuthProvider    map[string]any `json:"auth-provider"`
}

// serviceAccount is what to do about credentials that a server cannot use.
const serviceAccount = "give the server a service account's token: \"kubectl create token NAME --duration 8760h\", or a Secret of the type kubernetes.io/service-account-token, in a kubeconfig of its own"

// kubeProperties reads from a kubeconfig what a context connects with, as properties of a
// cluster. Files that it names lie beside it.
func kubeProperties(file, context string) (map[string]any, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(raw, &k); err != nil {
		return nil, fmt.Errorf("read the kubeconfig %s: it is not YAML of that form", file) // the error may quote a secret
	}
	cluster, user, err := k.choose(context)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig %s: %w", file, err)
	}
	switch {
	case user.Exec != nil || user.AuthProvider != nil:
		return nil, fmt.Errorf("the user of this context signs in by running a program (exec or auth-provider), which a server cannot: %s", serviceAccount)
	case user.Username != "" || user.As != "":
		return nil, fmt.Errorf("the user of this context signs in with a password, or as somebody else: %s", serviceAccount)
	case cluster.Insecure:
		return nil, errors.New("the cluster of this context says insecure-skip-tls-verify, and tokens are not sent to a server that nobody vouches for: put its certificate-authority there")
	case cluster.Proxy != "":
		return nil, errors.New("the cluster of this context is reached through a proxy (proxy-url), and the server uses none")
	}
	properties := map[string]any{"server": cluster.Server}
	set := func(member, data, path string) {
		if err != nil || data == "" && path == "" {
			return
		}
		var text []byte
		if data != "" {
			if text, err = base64.StdEncoding.DecodeString(data); err != nil {
				err = fmt.Errorf("read the kubeconfig %s: the data of %s are not base64", file, member)
			}
		} else {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(file), path)
			}
			text, err = os.ReadFile(path)
		}
		properties[member] = string(text)
	}
	set("certificateAuthority", cluster.Data, cluster.File)
	if cluster.ServerName != "" {
		properties["tlsServerName"] = cluster.ServerName
	}
	switch {
	case user.Token != "":
		properties["token"] = user.Token
	case user.TokenFile != "":
		set("token", "", user.TokenFile)
		if token, ok := properties["token"].(string); ok {
			properties["token"] = strings.TrimSpace(token)
		}
	default:
		set("clientCertificate", user.CertificateData, user.CertificateFile)
		set("clientKey", user.KeyData, user.KeyFile)
	}
	return properties, err
}

// choose finds cluster and user of a context, "" for the current one.
func (k *kubeconfig) choose(context string) (cluster kubeCluster, user kubeUser, err error) {
	name := firstOf(context, k.CurrentContext)
	if name == "" {
		return cluster, user, errors.New("it has no current-context; name one with --context")
	}
	var have []string
	for _, c := range k.Contexts {
		have = append(have, c.Name)
		if c.Name != name {
			continue
		}
		found := false
		for _, one := range k.Clusters {
			if one.Name == c.Context.Cluster {
				cluster, found = one.Cluster, true
			}
		}
		if !found {
			return cluster, user, fmt.Errorf("its context %q names the cluster %q, which it does not have", name, c.Context.Cluster)
		}
		for _, one := range k.Users {
			if one.Name == c.Context.User {
				user = one.User
			}
		}
		return cluster, user, nil
	}
	return cluster, user, fmt.Errorf("it has no context %q; it has %s", name, strings.Join(have, ", "))
}
