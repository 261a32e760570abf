package issuer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	grantClientCredentials = "client_credentials"
	maxForm                = 64 << 10
)

// request is what a client asked the token endpoint for.
type request struct {
	clientID string
	secret   secret.String
	basic    bool // the client identified itself by HTTP Basic
	audience string
}

// success is the answer of the v2 endpoint.
// Source: spec/access.md section 3.3.
type success struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
}

// successV1 is the answer of the v1 and AD FS endpoints, with numbers as strings.
// Source: spec/access.md section 3.3.
type successV1 struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    string `json:"expires_in"`
	ExtExpiresIn string `json:"ext_expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	AccessToken  string `json:"access_token"`
}

// token answers a token request.
func (h *Handler) token(w http.ResponseWriter, r *http.Request, face access.Face) {
	req, refused := h.read(w, r, face)
	if refused != nil {
		refuse(w, r, refused)
		return
	}
	principal, refused := h.authenticate(r, req)
	if refused != nil {
		refuse(w, r, refused)
		return
	}
	issued, err := h.tokens.Issue(access.Grant{
		Principal: principal, Audience: req.audience, Issuer: h.tokens.Issuer(h.origin(r), face), Lifetime: access.TokenLifetime,
	})
	if err != nil {
		telemetry.RecordOf(r.Context()).SetError(err)
		fault.Write(w, r, err)
		return
	}
	record := telemetry.RecordOf(r.Context())
	record.SetPrincipal(telemetry.Identity{ObjectID: principal.ObjectID, Type: string(principal.Type), Name: principal.Name, AppID: principal.AppID})
	if err := h.audit.TokenIssued(r.Context(), audit.Token{
		ID: issued.ID, ObjectID: principal.ObjectID, Audience: req.audience, Issued: issued.NotBefore, Expires: issued.Expires,
	}); err != nil {
		record.SetError(err)
		fault.Write(w, r, err)
		return
	}
	record.Add(slog.String("audience", req.audience), slog.String("token_id", issued.ID))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	seconds := int64(access.TokenLifetime.Seconds()) - 1 // what is left of it when the client reads this
	if face == access.FaceV2 {
		answer(w, http.StatusOK, success{"Bearer", seconds, seconds, issued.Token.Reveal()})
		return
	}
	left := strconv.FormatInt(seconds, 10)
	answer(w, http.StatusOK, successV1{
		TokenType: "Bearer", ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(issued.Expires.Unix(), 10), NotBefore: strconv.FormatInt(issued.NotBefore.Unix(), 10),
		Resource: req.audience, AccessToken: issued.Token.Reveal(),
	})
}

// read takes the request apart. Fields that it does not know are ignored, as the
// clients expect. Source: spec/access.md section 3.3.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, face access.Face) (request, *refusal) {
	form, refused := readForm(w, r)
	if refused != nil {
		return request{}, refused
	}
	grant := form.Get("grant_type")
	switch {
	case grant == "":
		return request{}, missing("grant_type")
	case grant != grantClientCredentials:
		return request{}, &refusal{status: http.StatusBadRequest, code: "unsupported_grant_type", number: 70003,
			text: "The grant type '" + clip(grant) + "' is not supported. Use '" + grantClientCredentials + "'."}
	}
	req := request{clientID: form.Get("client_id"), secret: secret.String(form.Get("client_secret"))}
	if refused := req.readBasic(r); refused != nil {
		return request{}, refused
	}
	switch {
	case req.clientID == "":
		return request{}, missing("client_id")
	case form.Get("client_assertion") != "":
		return request{}, &refusal{status: http.StatusUnauthorized, code: "invalid_client", number: 700027,
			text: "The application has no certificate that the client assertion could be verified with. Use a client secret."}
	case req.secret == "":
		return request{}, missing("client_secret")
	}
	req.audience, refused = h.audience(form, face)
	return req, refused
}

// readForm reads the body, and only it: a secret has no place in a URL.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, *refusal) {
	unreadable := func(cause error) *refusal {
		return &refusal{status: http.StatusBadRequest, code: "invalid_request", number: 900144, cause: cause,
			text: "The request body must be a form of the type application/x-www-form-urlencoded of at most 64 KiB."}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, unreadable(nil)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, unreadable(err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, unreadable(errors.New("the form is badly encoded")) // the error itself may show a secret
	}
	for _, field := range []string{"grant_type", "client_id", "client_secret", "client_assertion", "scope", "resource"} {
		if len(form[field]) > 1 {
			return nil, &refusal{status: http.StatusBadRequest, code: "invalid_request",
				text: "The request body holds the parameter '" + field + "' more than once."}
		}
	}
	return form, nil
}

// readBasic takes the client's id and secret from HTTP Basic, where both are
// url-encoded. Source: spec/access.md section 3.3.
func (req *request) readBasic(r *http.Request) *refusal {
	if r.Header.Get("Authorization") == "" {
		return nil
	}
	bad := func(text string) *refusal {
		return &refusal{status: http.StatusBadRequest, code: "invalid_request", text: text}
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return bad("The 'Authorization' header of a token request must be of the scheme 'Basic'.")
	}
	id, idErr := url.QueryUnescape(user)
	plain, plainErr := url.QueryUnescape(password)
	if idErr != nil || plainErr != nil {
		return bad("The client id and the client secret in the 'Authorization' header must be url-encoded.")
	}
	if req.secret != "" || req.clientID != "" && !strings.EqualFold(req.clientID, id) {
		return bad("The client must identify itself once: in the body or in the 'Authorization' header.")
	}
	req.clientID, req.secret, req.basic = id, secret.String(plain), true
	return nil
}

// audience turns scope (v2) or resource (v1) into the audience of the token. Each
// endpoint takes either, for MSAL sends scope to AD FS as well.
// Source: spec/access.md section 2.3.
func (h *Handler) audience(form url.Values, face access.Face) (string, *refusal) {
	scope, resource := form.Get("scope"), form.Get("resource")
	if resource != "" && (scope == "" || face != access.FaceV2) {
		if !h.audiences.Has(resource) {
			return "", &refusal{status: http.StatusBadRequest, code: "invalid_resource", number: 500011,
				text: "The resource '" + clip(resource) + "' was not found. " + h.knownAudiences()}
		}
		return resource, nil
	}
	if scope == "" {
		if face == access.FaceV2 {
			return "", missing("scope")
		}
		return "", missing("resource")
	}
	bad := func(why string) *refusal {
		return &refusal{status: http.StatusBadRequest, code: "invalid_scope", number: 70011,
			text: "The provided value for the input parameter 'scope' is not valid. " + why}
	}
	var asked []string
	for _, word := range strings.Fields(scope) {
		if !slices.Contains([]string{"openid", "profile", "offline_access", "email"}, strings.ToLower(word)) {
			asked = append(asked, word)
		}
	}
	if len(asked) != 1 {
		return "", bad(fmt.Sprintf("It must name exactly one resource followed by '/.default', and names %d.", len(asked)))
	}
	audience, ok := strings.CutSuffix(asked[0], "/.default")
	if !ok {
		return "", bad("The scope '" + clip(asked[0]) + "' does not end in '/.default'.")
	}
	if !h.audiences.Has(audience) {
		return "", bad("The resource '" + clip(audience) + "' is not known. " + h.knownAudiences())
	}
	return audience, nil
}

func (h *Handler) knownAudiences() string {
	return "Known are '" + h.tokens.Origins()[0] + "', '" + access.AudienceManagement + "' and '" + access.AudiencePublish + "'."
}

// authenticate finds the application and checks its secret. Failures are counted;
// who has too many is not looked at for a while.
func (h *Handler) authenticate(r *http.Request, req request) (access.Principal, *refusal) {
	from, client := addressOf(r.RemoteAddr), strings.ToLower(clip(req.clientID))
	if wait := h.failures.wait(from, client); wait > 0 {
		return access.Principal{}, &refusal{status: http.StatusTooManyRequests, code: "temporarily_unavailable", retryAfter: wait,
			text: "Too many failed attempts. Wait a minute and try again with the right client id and secret."}
	}
	principal, refused := h.identify(req)
	if refused != nil {
		h.failures.add(from, client)
		if req.basic && refused.status == http.StatusUnauthorized {
			refused.challenge = `Basic realm="` + h.tokens.TenantID() + `"`
		}
	}
	return principal, refused
}

func (h *Handler) identify(req request) (access.Principal, *refusal) {
	id, err := uuid.Parse(req.clientID)
	if err != nil { // not repeated: it may be a secret in the wrong place
		return access.Principal{}, &refusal{status: http.StatusBadRequest, code: "unauthorized_client", number: 700016,
			text: "The client id is not the identifier of an application, a GUID."}
	}
	unknown := &refusal{status: http.StatusBadRequest, code: "unauthorized_client", number: 700016,
		text: "Application with identifier '" + id.String() + "' was not found in the directory '" + h.tokens.TenantID() + "'."}
	p, ok := h.directory.PrincipalByApp(id.String())
	switch {
	case !ok:
		return access.Principal{}, unknown
	case !p.Enabled:
		unknown.cause = fmt.Errorf("principal %s is disabled", p.ObjectID)
		return access.Principal{}, unknown
	case !p.HasSecret(req.secret):
		return access.Principal{}, &refusal{status: http.StatusUnauthorized, code: "invalid_client", number: 7000215,
			text: "Invalid client secret provided.", cause: fmt.Errorf("principal %s: wrong client secret", p.ObjectID)}
	}
	return p, nil
}

func missing(field string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", number: 900144,
		text: "The request body must contain the following parameter: '" + field + "'."}
}
