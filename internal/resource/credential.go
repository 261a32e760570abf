package resource

import "time"

// TokenIssuer is an OAuth 2 server that gives the bearer tokens of messages to a
// webhook, by the grant of client credentials. It is replaced, never changed.
type TokenIssuer struct {
	TokenURL     string `json:"tokenUrl,omitempty"` // "" = Microsoft Entra's for the tenant of the webhook
	ClientID     string `json:"clientId"`
	SealedSecret string `json:"sealedSecret"`       // sealed with ClientSecretOwner as associated data
	Scope        string `json:"scope,omitempty"`    // "" = what the application of the webhook asks for
	Audience     string `json:"audience,omitempty"` // for issuers that take one beside the scope
}

// entraTokenURL is around the tenant in the address of Microsoft Entra's token
// endpoint. Source: spec/delivery.md section 9.2.
const (
	entraTokenURL  = "https://login.microsoftonline.com/"
	entraTokenPath = "/oauth2/v2.0/token"
)

// TokenEndpoint returns where a webhook's tokens are asked for: "" for this server's
// own issuer.
func (w *WebHook) TokenEndpoint() string {
	switch {
	case w.TokenIssuer == nil:
		return ""
	case w.TokenIssuer.TokenURL != "":
		return w.TokenIssuer.TokenURL
	case w.TenantID != "":
		return entraTokenURL + w.TenantID + entraTokenPath
	}
	return ""
}

// ClientCertificate is what a webhook's endpoint is shown in TLS handshakes. It is
// replaced, never changed.
type ClientCertificate struct {
	Chain     string    `json:"chain"`     // PEM, the certificate itself first
	SealedKey string    `json:"sealedKey"` // PEM, sealed with ClientKeyOwner as associated data
	Expires   time.Time `json:"expires"`   // when the certificate itself does
}

// ClientSecretOwner is the associated data that the secret of a token issuer is
// sealed with.
func (es *EventSubscription) ClientSecretOwner() string { return es.UID.String() + "/clientSecret" }

// ClientKeyOwner is the associated data that the key of a client certificate is
// sealed with.
func (es *EventSubscription) ClientKeyOwner() string { return es.UID.String() + "/clientKey" }
