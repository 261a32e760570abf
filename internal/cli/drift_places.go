package cli

import (
	"net/netip"
	"strings"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/secret"
)

// places are where datasets of this command lie: wherever this machine reaches, with
// the credentials that the environment has for other tools.
func (a *app) places() *dataset.Places {
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	return dataset.New(dataset.Config{
		Everywhere: true, Guard: egress.New(egress.Options{AllowLoopback: true, Allow: everything}), Connections: environs{a.getenv},
		Remedy: "give credentials in the environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AZURE_STORAGE_CONNECTION_STRING",
	})
}

// environs has credentials under the names that Amazon's and Azure's own tools use.
// Source: docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html and
// learn.microsoft.com/cli/azure/storage, "Global parameters" of az storage blob.
type environs struct{ get func(string) string }

// StorageAccounts returns the connection string of one account, if there is one.
func (e environs) StorageAccounts() []string {
	account, key, signature := e.get("AZURE_STORAGE_ACCOUNT"), e.get("AZURE_STORAGE_KEY"), e.get("AZURE_STORAGE_SAS_TOKEN")
	switch connection := e.get("AZURE_STORAGE_CONNECTION_STRING"); {
	case connection != "":
		return []string{connection}
	case account != "" && key != "":
		return []string{"AccountName=" + account + ";AccountKey=" + key}
	case account != "" && signature != "":
		return []string{"BlobEndpoint=https://" + account + ".blob.core.windows.net/;SharedAccessSignature=" + strings.TrimPrefix(signature, "?")}
	}
	return nil
}

// Buckets returns how every bucket is reached.
func (e environs) Buckets() []dataset.Bucket {
	id := e.get("AWS_ACCESS_KEY_ID")
	return []dataset.Bucket{{
		Name: "*", Endpoint: firstOf(e.get("AWS_ENDPOINT_URL_S3"), e.get("AWS_ENDPOINT_URL")), Region: firstOf(e.get("AWS_REGION"), e.get("AWS_DEFAULT_REGION")),
		AccessKeyID: id, SecretAccessKey: secret.String(e.get("AWS_SECRET_ACCESS_KEY")), SessionToken: secret.String(e.get("AWS_SESSION_TOKEN")), SharedFile: id == "",
	}}
}
