package manage

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// TokenIssuerChange is a token issuer as a request gives it. The zero value takes the
// present one away.
type TokenIssuerChange struct {
	TokenURL, ClientID, Scope, Audience string

	ClientSecret *secret.String // nil keeps the one that is there
}

// Members of a webhook on the wire.
const (
	webhookFields    = "destination.properties."
	tenantField      = webhookFields + "azureActiveDirectoryTenantId"
	applicationField = webhookFields + "azureActiveDirectoryApplicationIdOrUri"
	issuerField      = webhookFields + "tokenIssuer"
)

// Bounds of what an issuer is told. They are ours.
const (
	maxTokenWord    = 1024
	maxClientSecret = 4096
)

// tokens checks what a request says of bearer tokens and puts it into w. The secret
// that it returns is to be sealed into w, unless it is "". present is the webhook that
// is there, nil for none; sameHost says that its endpoint keeps its host.
func (p *Plane) tokens(v *checker, d *DestinationChange, w, present *resource.WebHook, sameHost bool) secret.String {
	w.TenantID, w.Application = d.TenantID, d.Application
	switch {
	case w.TenantID == "" && w.Application != "":
		v.field(tenantField, "A token for an application is one of a tenant: give azureActiveDirectoryTenantId as well.")
	case w.TenantID != "" && w.Application == "":
		v.field(applicationField, "A token is for an application: give its id or URI in azureActiveDirectoryApplicationIdOrUri as well.")
	}
	v.tokenWord(applicationField, w.Application)
	if strings.ContainsFunc(w.TenantID, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	}) || len(w.TenantID) > 253 {
		v.field(tenantField, "The tenant '%.80s' is neither a GUID nor the name of a domain.", w.TenantID)
	}
	given := p.tokenIssuer(v, d.TokenIssuer, w, present, sameHost)
	if w.TokenIssuer == nil && w.TenantID != "" && w.Application != "" {
		v.ownTokens(p.CheckToken, w)
	}
	if w.TokenIssuer == nil && w.Application == "" {
		return given
	}
	for i, a := range d.Attributes {
		if strings.EqualFold(a.Name, "Authorization") {
			v.field(fmt.Sprintf("%sdeliveryAttributeMappings[%d].name", webhookFields, i), "Messages to this endpoint carry a bearer token in Authorization, which cannot be a delivery attribute as well: leave one of them out.")
		}
	}
	return given
}

// ownTokens checks tokens that this server would make itself.
func (v *checker) ownTokens(check func(tenant, application string) error, w *resource.WebHook) {
	if check == nil {
		v.field(tenantField, "This server makes no tokens: give a tokenIssuer.")
		return
	}
	err := check(w.TenantID, w.Application)
	if err == nil {
		return
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		v.field(webhookFields+f.Target, "%s", f.Message)
		return
	}
	v.field(applicationField, "No token can be made: %v.", err)
}

// tokenIssuer checks the issuer that a request names, or the one that stays.
func (p *Plane) tokenIssuer(v *checker, c *TokenIssuerChange, w, present *resource.WebHook, sameHost bool) (given secret.String) {
	var there *resource.TokenIssuer
	if present != nil {
		there = present.TokenIssuer
	}
	switch {
	case c == nil && there == nil, c != nil && *c == TokenIssuerChange{}:
		return ""
	case c == nil:
		kept := *there
		w.TokenIssuer = &kept
	default:
		w.TokenIssuer = &resource.TokenIssuer{TokenURL: c.TokenURL, ClientID: c.ClientID, Scope: c.Scope, Audience: c.Audience}
	}
	i := w.TokenIssuer
	switch {
	case i.TokenURL != "":
		v.tokenURL(i.TokenURL, p.CheckURL)
	case w.TenantID == "":
		v.field(issuerField+".tokenUrl", "A token issuer needs the tokenUrl of its token endpoint, for example https://id.example/oauth2/token. It can be left out with azureActiveDirectoryTenantId, for Microsoft Entra's.")
	}
	if i.ClientID == "" {
		v.field(issuerField+".clientId", "A token issuer needs a clientId: that of the application that asks for tokens.")
	}
	for _, word := range []struct{ name, text string }{{"clientId", i.ClientID}, {"audience", i.Audience}, {"scope", strings.ReplaceAll(i.Scope, " ", "")}} {
		v.tokenWord(issuerField+"."+word.name, word.text)
	}
	switch keep := sameHost && there != nil && there.ClientID == i.ClientID && present.TokenEndpoint() == w.TokenEndpoint(); {
	case c != nil && c.ClientSecret != nil:
		given = *c.ClientSecret
		if given == "" || len(given) > maxClientSecret {
			v.field(issuerField+".clientSecret", "A clientSecret has 1 to %d bytes; this one has %d.", maxClientSecret, len(given))
		}
	case keep:
		i.SealedSecret = there.SealedSecret
	default:
		v.field(issuerField+".clientSecret", "A token issuer needs a clientSecret; it can be left out only while the token endpoint, the clientId and the host of the endpoint stay.")
	}
	return given
}

// tokenURL checks the address of a token endpoint. It is shown, so it holds no query.
func (v *checker) tokenURL(raw string, allowed func(*url.URL) error) {
	const field = issuerField + ".tokenUrl"
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURL:
		v.field(field, "The tokenUrl has %d bytes; at most %d are allowed.", len(raw), maxURL)
	case err != nil || u.Host == "" || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		v.field(field, "The tokenUrl is not an absolute URL: write one like https://id.example/oauth2/token.")
	case u.RawQuery != "" || u.ForceQuery:
		v.field(field, "The tokenUrl has a query; a token endpoint is named without one.")
	default:
		if err := allowed(u); err != nil {
			v.field(field, "The tokenUrl cannot be used: %v.", err)
		}
	}
}

// tokenWord checks a word that an issuer is told.
func (v *checker) tokenWord(field, word string) {
	name := field[strings.LastIndexByte(field, '.')+1:]
	if len(word) > maxTokenWord {
		v.field(field, "The %s has %d bytes; at most %d are allowed.", name, len(word), maxTokenWord)
	} else if strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
		v.field(field, "The %s '%.80s' holds characters other than printable ASCII.", name, word)
	}
}
