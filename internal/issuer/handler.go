package issuer

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/fault"
)

// Handler answers the identity endpoints.
type Handler struct {
	tokens    *access.Tokens
	directory *access.Directory
	audiences access.Audiences
	audit     *audit.Log
	failures  failures
	users     failures // of user names, from everywhere
	codes     codes
	devices   devices
	formKey   []byte // of the forms of its pages
}

// New returns a handler that issues the tokens of the directory's principals. What it
// issues is in the audit log first; nil is none.
func New(tokens *access.Tokens, directory *access.Directory, log *audit.Log) *Handler {
	// The placeholder lets Terraform fetch the Graph token that it reads at its
	// start; neither the management nor the data plane accepts it.
	// Source: spec/access.md section 2.3.
	known := []string{access.AudienceManagement, access.AudienceManagementLegacy, access.AudiencePublish}
	for _, origin := range tokens.Origins() {
		known = append(known, origin, origin+"/graph")
	}
	h := &Handler{
		tokens: tokens, directory: directory, audit: log, audiences: access.NewAudiences(known...),
		failures: failures{perClient: failuresPerClient, perAddress: failuresPerAddress}, users: failures{perClient: failuresPerUser},
		formKey: make([]byte, sha256.Size),
	}
	_, _ = rand.Read(h.formKey) // crypto/rand.Read never fails
	return h
}

// endpoint is what an identity path leads to.
type endpoint int

const (
	none endpoint = iota
	discovery
	keys
	token
	authorize
	deviceCode
	instance
	devicePage
	passwordPage
)

// methods are what each endpoint takes.
var methods = map[endpoint]string{
	discovery: "GET, HEAD", keys: "GET, HEAD", instance: "GET, HEAD", token: "POST", deviceCode: "POST",
	authorize: "GET, HEAD, POST", devicePage: "GET, HEAD, POST", passwordPage: "GET, HEAD, POST",
}

// route is a parsed identity path.
type route struct {
	endpoint endpoint
	face     access.Face
	tenant   string // as in the path
}

// parse reads a path. Words compare without case.
// Source: spec/access.md section 3.
func parse(path string) route {
	tenant, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	r := route{tenant: tenant}
	switch strings.ToLower(path) {
	case "", "/":
		return r
	case devicePath:
		r.endpoint, r.tenant = devicePage, "common"
		return r
	case passwordPath:
		r.endpoint, r.tenant = passwordPage, "common"
		return r
	}
	switch strings.ToLower(rest) {
	case "v2.0/.well-known/openid-configuration":
		r.endpoint, r.face = discovery, access.FaceV2
	case ".well-known/openid-configuration":
		r.endpoint, r.face = discovery, access.FaceV1
	case "discovery/v2.0/keys", "discovery/keys":
		r.endpoint = keys
	case "discovery/instance":
		r.endpoint = instance
	case "oauth2/v2.0/token":
		r.endpoint, r.face = token, access.FaceV2
	case "oauth2/token":
		r.endpoint, r.face = token, access.FaceV1
	case "oauth2/v2.0/authorize":
		r.endpoint, r.face = authorize, access.FaceV2
	case "oauth2/authorize":
		r.endpoint, r.face = authorize, access.FaceV1
	case "oauth2/v2.0/devicecode":
		r.endpoint, r.face = deviceCode, access.FaceV2
	case "oauth2/devicecode":
		r.endpoint, r.face = deviceCode, access.FaceV1
	}
	if tenant == "" {
		r.endpoint = none
	}
	if strings.EqualFold(tenant, "adfs") {
		r.face = access.FaceADFS
	}
	return r
}

// Serves reports whether a request path is one of the identity endpoints.
func Serves(path string) bool { return parse(path).endpoint != none }

// ServeHTTP answers an identity request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := parse(r.URL.Path)
	switch {
	case at.endpoint == none:
		fault.Write(w, r, fault.New(fault.NotFound, "NotFound", "There is no identity endpoint at this path."))
	case !slices.Contains(strings.Split(methods[at.endpoint], ", "), r.Method):
		notAllowed(w, r, methods[at.endpoint])
	case !h.isTenant(at.tenant):
		refuse(w, r, &refusal{status: http.StatusBadRequest, code: "invalid_request", number: 90002,
			text: "Tenant '" + clip(at.tenant) + "' not found. This server has the one tenant '" + h.tokens.TenantID() + "'."})
	default:
		h.serve(w, r, at)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, at route) {
	switch at.endpoint {
	case discovery:
		h.discovery(w, r, at.face)
	case keys:
		w.Header().Set("Cache-Control", "public, max-age=300")
		answer(w, http.StatusOK, h.tokens.Keys().KeySet())
	case instance:
		h.instance(w, r)
	case authorize:
		h.authorize(w, r, at.face)
	case deviceCode:
		h.deviceCode(w, r, at.face)
	case devicePage:
		h.devicePage(w, r)
	case passwordPage:
		h.passwordPage(w, r)
	default:
		h.token(w, r, at.face)
	}
}

func notAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	f := fault.New(fault.MethodNotAllowed, "MethodNotAllowed", "The method %s is not allowed here; use %s.", r.Method, allow)
	f.Allow = allow
	fault.Write(w, r, f)
}

// isTenant reports whether a path's first word stands for this server's tenant.
func (h *Handler) isTenant(word string) bool {
	return slices.Contains([]string{h.tokens.TenantID(), "common", "organizations", "adfs"}, strings.ToLower(word))
}

// document is the discovery document. Endpoints that are not served are left out.
// Source: spec/access.md section 3.1.
type document struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	DeviceEndpoint        string   `json:"device_authorization_endpoint"`
	JWKSURI               string   `json:"jwks_uri"`
	ResponseTypes         []string `json:"response_types_supported"`
	ResponseModes         []string `json:"response_modes_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	SubjectTypes          []string `json:"subject_types_supported"`
	SigningAlgorithms     []string `json:"id_token_signing_alg_values_supported"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	AuthAlgorithms        []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	Scopes                []string `json:"scopes_supported"`
	Claims                []string `json:"claims_supported"`
	CloudInstanceName     string   `json:"cloud_instance_name"`
}

func (h *Handler) discovery(w http.ResponseWriter, r *http.Request, face access.Face) {
	origin := h.origin(r)
	base, version := origin+"/"+h.tokens.TenantID(), "/"
	switch face {
	case access.FaceV2:
		version = "/v2.0/"
	case access.FaceADFS:
		base = origin + "/adfs"
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	answer(w, http.StatusOK, document{
		Issuer:                h.tokens.Issuer(origin, face),
		AuthorizationEndpoint: base + "/oauth2" + version + "authorize",
		TokenEndpoint:         base + "/oauth2" + version + "token",
		DeviceEndpoint:        base + "/oauth2" + version + "devicecode",
		JWKSURI:               base + "/discovery" + version + "keys",
		ResponseTypes:         []string{"code"},
		ResponseModes:         []string{"query", "form_post"},
		GrantTypes:            grants,
		SubjectTypes:          []string{"pairwise"},
		SigningAlgorithms:     []string{"RS256"},
		AuthMethods:           []string{"client_secret_post", "client_secret_basic", "private_key_jwt", "none"},
		AuthAlgorithms:        []string{"RS256", "PS256", "ES256"},
		ChallengeMethods:      []string{"S256"},
		Scopes:                []string{"openid", "profile", "email", "offline_access"},
		Claims:                []string{"aud", "iss", "iat", "nbf", "exp", "sub", "oid", "tid", "appid", "azp", "idtyp", "name", "nonce", "preferred_username", "scp", "upn", "ver"},
		CloudInstanceName:     strings.TrimPrefix(strings.TrimPrefix(origin, "https://"), "http://"),
	})
}

// instances tells a client that an authority is this server's.
type instances struct {
	TenantDiscoveryEndpoint string     `json:"tenant_discovery_endpoint"`
	APIVersion              string     `json:"api-version,omitempty"`
	Metadata                []metadata `json:"metadata,omitempty"`
}

type metadata struct {
	PreferredNetwork string   `json:"preferred_network"`
	PreferredCache   string   `json:"preferred_cache"`
	Aliases          []string `json:"aliases"`
}

// instance answers whether an authority is this server's.
// Source: spec/access.md section 3.6.
func (h *Handler) instance(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	version, endpoint, iss := q.Get("api-version"), q.Get("authorization_endpoint"), q.Get("issuer")
	bad := func(code string, number int, text string) {
		refuse(w, r, &refusal{status: http.StatusBadRequest, code: code, number: number, text: text})
	}
	asked, err := url.Parse(cmp.Or(endpoint, iss))
	switch {
	case version != "1.0" && version != "1.1":
		bad("invalid_request", 0, "The api-version '"+clip(version)+"' is not known. Use 1.0 or 1.1.")
	case (endpoint == "") == (iss == ""):
		bad("invalid_request", 900144, "The request must contain exactly one of the parameters 'authorization_endpoint' and 'issuer'.")
	case err != nil || !slices.Contains(h.tokens.Origins(), strings.ToLower(asked.Scheme+"://"+asked.Host)):
		bad("invalid_instance", 50049, "The authority is not of this server, which is '"+h.tokens.Origins()[0]+"'.")
	default:
		origin := strings.ToLower(asked.Scheme + "://" + asked.Host)
		found := instances{TenantDiscoveryEndpoint: origin + "/" + h.tokens.TenantID() + "/v2.0/.well-known/openid-configuration"}
		if version == "1.1" {
			host := strings.ToLower(asked.Host)
			found.APIVersion, found.Metadata = version, []metadata{{host, host, []string{host}}}
		}
		answer(w, http.StatusOK, found)
	}
}

// origin returns the origin that the request was sent to when it is one of ours,
// and the public one otherwise: MSAL wants issuer and authority to agree.
// Source: spec/access.md sections 3.1 and 14.6.
func (h *Handler) origin(r *http.Request) string {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	origins := h.tokens.Origins()
	if asked := scheme + strings.ToLower(r.Host); slices.Contains(origins, asked) {
		return asked
	}
	return origins[0]
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone if this fails
}
