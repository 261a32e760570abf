package issuer

import (
	"encoding/base64"
	"encoding/json"
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
	grantCode              = "authorization_code"
	grantRefresh           = "refresh_token"
	grantDevice            = "urn:ietf:params:oauth:grant-type:device_code"

	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	maxForm       = 64 << 10
)

var grants = []string{grantClientCredentials, grantCode, grantRefresh, grantDevice}

// request is what a client asked the token endpoint for.
type request struct {
	grant     string
	clientID  string
	secret    secret.String
	basic     bool          // the client identified itself by HTTP Basic
	assertion secret.String // of the client, in place of a secret
	signIn                  // what the token is wanted for; of a code or device code, unless it is asked for anew

	code, redirect, verifier string        // of grantCode
	refreshToken             secret.String // of grantRefresh
	deviceCode               string        // of grantDevice
}

// success is the answer of the v2 endpoint.
// Source: spec/access.md section 3.3.
type success struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
	forUser
}

// forUser is what the answer to a user's sign-in holds besides. The az command line
// stores no account without id token and client info.
// Source: spec/access.md section 3.4.
type forUser struct {
	Scope        string `json:"scope,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	ClientInfo   string `json:"client_info,omitempty"`
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
	forUser
}

// token answers a token request.
func (h *Handler) token(w http.ResponseWriter, r *http.Request, face access.Face) {
	req, refused := h.read(w, r, face)
	if refused != nil {
		refuse(w, r, refused)
		return
	}
	principal, refused := h.authenticate(r, &req)
	if refused != nil {
		refuse(w, r, refused)
		return
	}
	record := telemetry.RecordOf(r.Context())
	record.SetPrincipal(identity(principal))
	issued, user, err := h.issue(r, face, principal, &req)
	if f, _ := errors.AsType[*fault.Error](err); f != nil && f.Kind == fault.Unauthenticated {
		h.failures.add(addressOf(r.RemoteAddr), req.client)
		refuse(w, r, &refusal{status: http.StatusBadRequest, code: "invalid_grant", number: 70008, text: f.Message, cause: f.Err})
		return
	}
	if err != nil {
		record.SetError(err)
		fault.Write(w, r, err)
		return
	}
	record.Add(slog.String("audience", req.audience), slog.String("token_id", issued.ID))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	seconds := int64(access.TokenLifetime.Seconds()) - 1 // what is left of it when the client reads this
	if face == access.FaceV2 {
		answer(w, http.StatusOK, success{"Bearer", seconds, seconds, issued.Token.Reveal(), user})
		return
	}
	left := strconv.FormatInt(seconds, 10)
	answer(w, http.StatusOK, successV1{
		TokenType: "Bearer", ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(issued.Expires.Unix(), 10), NotBefore: strconv.FormatInt(issued.NotBefore.Unix(), 10),
		Resource: req.audience, AccessToken: issued.Token.Reveal(), forUser: user,
	})
}

// issue makes the tokens of a principal that has proved who it is. A refresh token is
// used up only now, so that a request that is wrong otherwise costs none.
func (h *Handler) issue(r *http.Request, face access.Face, p access.Principal, req *request) (issued access.Issued, user forUser, err error) {
	var refresh secret.String
	switch {
	case req.grant == grantRefresh:
		if owner, ok := h.directory.RefreshOwner(req.refreshToken); ok {
			telemetry.RecordOf(r.Context()).SetPrincipal(identity(owner)) // of the change
		}
		p, refresh, err = h.directory.Refresh(r.Context(), req.refreshToken, req.client)
	case req.refresh && req.grant != grantClientCredentials:
		refresh, err = h.directory.StartSession(r.Context(), p, req.client)
	}
	if err != nil {
		return issued, user, err
	}
	g := access.Grant{Principal: p, Audience: req.audience, Issuer: h.tokens.Issuer(h.origin(r), face), Lifetime: access.TokenLifetime, ClientID: req.client}
	if issued, err = h.tokens.Issue(g); err != nil {
		return issued, user, err
	}
	err = h.audit.TokenIssued(r.Context(), audit.Token{
		ID: issued.ID, ObjectID: p.ObjectID, Audience: req.audience, Issued: issued.NotBefore, Expires: issued.Expires,
	})
	if err != nil || p.Type != access.User {
		return issued, user, err
	}
	id, err := h.tokens.IssueID(g, req.nonce)
	if err != nil {
		return issued, user, err
	}
	info, err := json.Marshal(map[string]string{"uid": p.ObjectID, "utid": p.TenantID})
	if err != nil {
		return issued, user, fmt.Errorf("encode client info: %w", err)
	}
	return issued, forUser{Scope: req.scope, RefreshToken: refresh.Reveal(), IDToken: id.Reveal(), ClientInfo: base64.RawURLEncoding.EncodeToString(info)}, nil
}

// read takes the request apart. Fields that it does not know are ignored, as the
// clients expect. Source: spec/access.md section 3.3.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, face access.Face) (request, *refusal) {
	form, refused := readForm(w, r)
	if refused != nil {
		return request{}, refused
	}
	req := request{
		grant: form.Get("grant_type"), clientID: form.Get("client_id"), secret: secret.String(form.Get("client_secret")), assertion: secret.String(form.Get("client_assertion")),
		code: form.Get("code"), redirect: form.Get("redirect_uri"), verifier: form.Get("code_verifier"),
		refreshToken: secret.String(form.Get("refresh_token")), deviceCode: form.Get("device_code"),
	}
	if req.deviceCode == "" {
		req.deviceCode = form.Get("code") // as older clients of Azure call it
	}
	switch {
	case req.grant == "":
		return request{}, missing("grant_type")
	case !slices.Contains(grants, req.grant):
		return request{}, &refusal{status: http.StatusBadRequest, code: "unsupported_grant_type", number: 70003,
			text: "The grant type '" + clip(req.grant) + "' is not supported. Use one of '" + strings.Join(grants, "', '") + "'."}
	}
	if refused := req.readBasic(r); refused != nil {
		return request{}, refused
	}
	if req.clientID == "" {
		return request{}, missing("client_id")
	}
	if req.grant != grantClientCredentials {
		return req, h.readForUser(&req, form, face)
	}
	switch {
	case req.assertion != "" && form.Get("client_assertion_type") != assertionType:
		return request{}, badRequest("The client_assertion_type of a client assertion must be '" + assertionType + "'.")
	case req.assertion != "" && req.secret != "":
		return request{}, badRequest("The client must prove itself once: by a secret or by an assertion.")
	case req.assertion == "" && req.secret == "":
		return request{}, missing("client_secret")
	}
	req.audience, refused = h.audience(form, face)
	return req, refused
}

// readForUser is read for the grants of public clients, which act for a user.
func (h *Handler) readForUser(req *request, form url.Values, face access.Face) *refusal {
	id, _, known := publicClient(req.clientID)
	if !known {
		return notPublic(req.clientID)
	}
	req.clientID, req.client = id, id
	for grant, fields := range map[string][]string{grantCode: {"code", "redirect_uri", "code_verifier"}, grantRefresh: {"refresh_token"}} {
		for _, field := range fields {
			if req.grant == grant && form.Get(field) == "" {
				return missing(field)
			}
		}
	}
	if req.grant == grantDevice && req.deviceCode == "" {
		return missing("device_code")
	}
	if req.grant == grantRefresh || form.Get("scope") != "" || form.Get("resource") != "" {
		return h.readSignIn(&req.signIn, form, face)
	}
	return nil
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
	for _, field := range []string{
		"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "resource",
		"code", "redirect_uri", "code_verifier", "refresh_token", "device_code", "user_code", "username", "password",
	} {
		if len(form[field]) > 1 {
			return nil, badRequest("The request body holds the parameter '" + field + "' more than once.")
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
	user, password, ok := r.BasicAuth()
	if !ok {
		return badRequest("The 'Authorization' header of a token request must be of the scheme 'Basic'.")
	}
	id, idErr := url.QueryUnescape(user)
	plain, plainErr := url.QueryUnescape(password)
	if idErr != nil || plainErr != nil {
		return badRequest("The client id and the client secret in the 'Authorization' header must be url-encoded.")
	}
	if req.secret != "" || req.clientID != "" && !strings.EqualFold(req.clientID, id) {
		return badRequest("The client must identify itself once: in the body or in the 'Authorization' header.")
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

// authenticate finds out whose token is asked for: the application that proves itself,
// or the user who signed in. Failures are counted; who has too many is not looked at for
// a while.
func (h *Handler) authenticate(r *http.Request, req *request) (access.Principal, *refusal) {
	from, client := addressOf(r.RemoteAddr), strings.ToLower(clip(req.clientID))
	if wait := h.failures.wait(from, client); wait > 0 {
		return access.Principal{}, &refusal{status: http.StatusTooManyRequests, code: "temporarily_unavailable", retryAfter: wait,
			text: "Too many failed attempts. Wait a minute and try again with the right client id and secret."}
	}
	principal, refused := h.redeem(r, req)
	if refused != nil && refused.number != pollNumber {
		h.failures.add(from, client)
		if req.basic && refused.status == http.StatusUnauthorized {
			refused.challenge = `Basic realm="` + h.tokens.TenantID() + `"`
		}
	}
	return principal, refused
}

// redeem finds out whose token a grant is for. A refresh token is looked at when all else
// is well, by issue.
func (h *Handler) redeem(r *http.Request, req *request) (p access.Principal, refused *refusal) {
	var granted signIn
	switch req.grant {
	case grantClientCredentials:
		return h.identifyApplication(r, req)
	case grantRefresh:
		return p, nil
	case grantCode:
		p, granted, refused = h.redeemCode(*req)
	case grantDevice:
		p, granted, refused = h.pollDevice(*req)
	}
	if req.audience == "" { // the client did not say again what it is for
		req.signIn = granted
	} else {
		req.refresh, req.nonce = req.refresh || granted.refresh, granted.nonce
	}
	return p, refused
}

// identifyApplication returns the application that a client id is of, if it proves to be
// that: by a secret, a certificate, or the token of another issuer.
func (h *Handler) identifyApplication(r *http.Request, req *request) (access.Principal, *refusal) {
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
	case req.assertion != "":
		if err := h.tokens.VerifyAssertion(r.Context(), p, req.assertion.Reveal()); err != nil {
			refused := &refusal{status: http.StatusUnauthorized, code: "invalid_client", number: 700027, text: "The client assertion is not valid.", cause: fmt.Errorf("principal %s: %w", p.ObjectID, err)}
			if problem, _ := errors.AsType[*access.AssertionProblem](err); problem != nil && problem.Federated {
				refused.status, refused.number = http.StatusBadRequest, 70021
				refused.text = "The client assertion proves no federated credential of the application: issuer, subject and audience must match one exactly, and the signature must hold."
			}
			return access.Principal{}, refused
		}
	case !p.HasSecret(req.secret):
		return access.Principal{}, &refusal{status: http.StatusUnauthorized, code: "invalid_client", number: 7000215,
			text: "Invalid client secret provided.", cause: fmt.Errorf("principal %s: wrong client secret", p.ObjectID)}
	}
	return p, nil
}

// badRequest refuses a request that cannot be understood.
func badRequest(text string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", text: text}
}

func missing(field string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", number: 900144,
		text: "The request body must contain the following parameter: '" + field + "'."}
}
