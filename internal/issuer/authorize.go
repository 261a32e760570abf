package issuer

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	codeLifetime = 5 * time.Minute
	maxCodes     = 10_000
	maxParameter = 4 << 10 // bytes of state or nonce, which go back as they came
)

// signIn is what a user is to sign in for.
type signIn struct {
	client   string
	audience string
	scope    string // the one that names the audience, as it was asked for
	refresh  bool   // a refresh token is wanted
	nonce    string
}

// code is an authorization code that was given out.
type code struct {
	signIn
	redirect  string
	challenge []byte // SHA-256 of the verifier
	by        signedIn
	expires   time.Time
}

// signedIn is a user who proved who it is, and when. Whatever ends the user's tokens ends
// what was not fetched yet, too.
type signedIn struct {
	user string // object id
	at   time.Time
}

// signedInNow returns the proof of a user that has just been read from the directory.
func signedInNow(user access.Principal) signedIn {
	at := time.Now()
	if at.Before(user.ValidFrom) { // of the second that has begun
		at = user.ValidFrom
	}
	return signedIn{user.ObjectID, at}
}

// stillSignedIn returns the user, if the proof counts.
func (h *Handler) stillSignedIn(p signedIn) (access.Principal, bool) {
	user, ok := h.directory.Principal(p.user)
	return user, ok && user.Enabled && !p.at.Before(user.ValidFrom)
}

// codes are the authorization codes that nobody has used yet. They are kept in memory: who
// loses one signs in again.
type codes struct {
	mu   sync.Mutex
	open map[string]code
}

func (c *codes) add(granted code) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.open == nil || len(c.open) >= maxCodes {
		for text, old := range c.open {
			if now.After(old.expires) {
				delete(c.open, text)
			}
		}
		if c.open == nil || len(c.open) >= maxCodes {
			c.open = map[string]code{}
		}
	}
	text := rand.Text() + rand.Text()
	granted.expires = now.Add(codeLifetime)
	c.open[text] = granted
	return text
}

// take uses a code up, whoever brings it.
func (c *codes) take(text string) (code, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	granted, ok := c.open[text]
	delete(c.open, text)
	return granted, ok && time.Now().Before(granted.expires)
}

// authorization is a request of the authorization endpoint that was read.
type authorization struct {
	signIn
	name      string // of the client
	redirect  string
	state     string
	post      bool // response_mode form_post
	challenge []byte
	hint      string
}

var (
	challengeForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	verifierForm  = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)
)

// readAuthorization reads a request. A problem is told to the user until the redirect URI
// is known to be good, and after that to the client.
// Source: RFC 6749, section 4.1.2.1; RFC 7636, section 4.4.1.
func (h *Handler) readAuthorization(r *http.Request, face access.Face) (a authorization, problem string, refused *refusal) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return a, "The address is badly encoded.", nil
	}
	for _, name := range []string{"client_id", "redirect_uri", "response_type", "response_mode", "scope", "resource", "state", "nonce", "code_challenge", "code_challenge_method"} {
		if len(q[name]) > 1 {
			return a, "The address holds the parameter " + name + " more than once.", nil
		}
	}
	known := false
	if a.client, a.name, known = publicClient(q.Get("client_id")); !known {
		return a, "No application that users sign in at has the client id" + guid(q.Get("client_id")) + ".", nil
	}
	if a.redirect = q.Get("redirect_uri"); !isRedirect(a.redirect) {
		return a, "The redirect URI '" + clip(a.redirect) + "' is not of this machine. Use http://localhost and a port.", nil
	}
	a.state, a.nonce, a.hint = q.Get("state"), q.Get("nonce"), clip(q.Get("login_hint"))
	bad := func(code, text string) (authorization, string, *refusal) {
		return a, "", &refusal{code: code, text: text}
	}
	switch mode := q.Get("response_mode"); {
	case len(a.state) > maxParameter || len(a.nonce) > maxParameter:
		a.state = ""
		return bad("invalid_request", "The state or the nonce is too long.")
	case mode == "form_post":
		a.post = true
	case mode != "" && mode != "query":
		return bad("invalid_request", "The response mode '"+clip(mode)+"' is not supported. Use query or form_post.")
	}
	switch challenge := q.Get("code_challenge"); {
	case q.Get("response_type") != "code":
		return bad("unsupported_response_type", "The response type '"+clip(q.Get("response_type"))+"' is not supported. Use code.")
	case challenge == "":
		return bad("invalid_request", "A code challenge is needed (PKCE).")
	case q.Get("code_challenge_method") != "S256" || !challengeForm.MatchString(challenge):
		return bad("invalid_request", "The code challenge must be one of the method S256.")
	case strings.EqualFold(q.Get("prompt"), "none"):
		return bad("login_required", "A user has to sign in.")
	default:
		a.challenge, err = base64.RawURLEncoding.DecodeString(challenge)
		if err != nil {
			return bad("invalid_request", "The code challenge must be one of the method S256.")
		}
	}
	if refused := h.readSignIn(&a.signIn, q, face); refused != nil {
		return a, "", refused
	}
	return a, "", nil
}

// readSignIn reads what a client asks for a user.
func (h *Handler) readSignIn(s *signIn, form url.Values, face access.Face) *refusal {
	var refused *refusal
	if s.audience, refused = h.audience(form, face); refused != nil {
		return refused
	}
	s.scope = s.audience + "/.default"
	for _, word := range strings.Fields(form.Get("scope")) {
		switch {
		case strings.EqualFold(word, "offline_access"):
			s.refresh = true
		case strings.HasSuffix(word, "/.default"):
			s.scope = word
		}
	}
	return nil
}

// authorize answers at the authorization endpoint: it shows the page to sign in at, and
// sends who has signed in back to the client with a code.
func (h *Handler) authorize(w http.ResponseWriter, r *http.Request, face access.Face) {
	a, problem, refused := h.readAuthorization(r, face)
	switch {
	case problem != "":
		telemetry.RecordOf(r.Context()).Add(slog.String("sign_in", "bad request"))
		showBare(w, http.StatusBadRequest, page{Title: "This cannot be signed in to", Message: problem})
		return
	case refused != nil:
		telemetry.RecordOf(r.Context()).Add(slog.String("oauth_error", refused.code))
		h.sendBack(w, r, a, url.Values{"error": {refused.code}, "error_description": {refused.text}})
		return
	}
	form := page{
		Title: "Sign in", Message: a.name + " on this machine wants to act for you. Go on only if you have just started it.",
		Action: r.URL.RequestURI(), to: a.redirect,
		Fields: userFields(a.hint), Buttons: []button{{Text: "Sign in"}, {Name: "cancel", Value: "1", Text: "Cancel"}},
	}
	if r.Method != http.MethodPost {
		h.show(w, r, http.StatusOK, form)
		return
	}
	sent, ok := h.readSent(w, r, form)
	if !ok {
		return
	}
	if sent.Get("cancel") != "" {
		h.sendBack(w, r, a, url.Values{"error": {"access_denied"}, "error_description": {"The user cancelled."}})
		return
	}
	user, ok := h.checkSignIn(w, r, sent, form)
	if !ok {
		return
	}
	text := h.codes.add(code{signIn: a.signIn, redirect: a.redirect, challenge: a.challenge, by: signedInNow(user)})
	h.sendBack(w, r, a, url.Values{"code": {text}})
}

// sendBack sends the browser back to the client.
func (h *Handler) sendBack(w http.ResponseWriter, r *http.Request, a authorization, answer url.Values) {
	if a.state != "" {
		answer.Set("state", a.state)
	}
	if a.post {
		p := page{Title: "Go on", Message: "Hand the result over to " + a.name + " on this machine.", Action: a.redirect, to: a.redirect, Buttons: []button{{Text: "Continue"}}}
		for _, name := range []string{"code", "error", "error_description", "state"} {
			if answer.Has(name) {
				p.Fields = append(p.Fields, field{Name: name, Type: "hidden", Value: answer.Get(name)})
			}
		}
		showBare(w, http.StatusOK, p)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, a.redirect+"?"+answer.Encode(), http.StatusSeeOther)
}

func userFields(name string) []field {
	return []field{
		{Name: "username", Label: "User name", Type: "text", Value: name, Autocomplete: "username", Focus: name == ""},
		{Name: "password", Label: "Password", Type: "password", Autocomplete: "current-password", Focus: name != ""},
	}
}

// readSent reads a form that one of our pages sent; if it is none, the page is shown again.
func (h *Handler) readSent(w http.ResponseWriter, r *http.Request, again page) (url.Values, bool) {
	form, refused := readForm(w, r)
	if refused == nil && h.sameForm(r, form.Get(formField)) {
		return form, true
	}
	again.Problem = staleForm
	h.show(w, r, http.StatusForbidden, again)
	return nil, false
}

// showTooMany shows a page again to who failed too often.
func (h *Handler) showTooMany(w http.ResponseWriter, r *http.Request, wait time.Duration, again page) {
	again.Problem = "There were too many failed attempts. Wait a minute and try again."
	w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
	h.show(w, r, http.StatusTooManyRequests, again)
}

const wrongPassword = "The user name or the password is wrong."

// checkSignIn checks user name and password of a form. If they are wrong, the page is shown
// again; failures count as they do at the token endpoint, and for a user name from
// everywhere.
func (h *Handler) checkSignIn(w http.ResponseWriter, r *http.Request, sent url.Values, again page) (access.Principal, bool) {
	name, password := strings.TrimSpace(sent.Get("username")), secret.String(sent.Get("password"))
	from, who := addressOf(r.RemoteAddr), "user "+strings.ToLower(clip(name))
	if wait := max(h.failures.wait(from, who), h.users.wait(netip.Addr{}, who)); wait > 0 {
		h.showTooMany(w, r, wait, again)
		return access.Principal{}, false
	}
	record := telemetry.RecordOf(r.Context())
	// It counts before it is known: many tries at once are many.
	h.failures.add(from, who)
	h.users.add(netip.Addr{}, who)
	user, ok, err := h.directory.SignIn(r.Context(), name, password)
	if err != nil {
		record.SetError(err)
		fault.Write(w, r, err)
		return user, false
	}
	if !ok {
		record.Add(slog.String("sign_in", "wrong user name or password"))
		for i := range again.Fields {
			if again.Fields[i].Name == "username" {
				again.Fields[i].Value = clip(name)
			}
		}
		again.Problem = wrongPassword
		h.show(w, r, http.StatusBadRequest, again)
		return user, false
	}
	h.failures.forgive(from, who)
	h.users.forgive(netip.Addr{}, who)
	record.SetPrincipal(identity(user))
	record.Add(slog.String("sign_in", "ok"))
	return user, true
}

func identity(p access.Principal) telemetry.Identity {
	return telemetry.Identity{ObjectID: p.ObjectID, Type: string(p.Type), Name: p.Name, AppID: p.AppID}
}

// redeemCode uses an authorization code. Source: RFC 6749, section 4.1.3; RFC 7636, section 4.6.
func (h *Handler) redeemCode(req request) (access.Principal, signIn, *refusal) {
	invalid := func(why string) (access.Principal, signIn, *refusal) {
		return access.Principal{}, signIn{}, &refusal{status: http.StatusBadRequest, code: "invalid_grant", number: 70008,
			text: "The provided authorization code has expired, was used, or is of another client.", cause: fmt.Errorf("authorization code: %s", why)}
	}
	granted, ok := h.codes.take(req.code)
	sum := sha256.Sum256([]byte(req.verifier))
	switch {
	case !ok:
		return invalid("unknown, used or expired")
	case granted.client != req.clientID:
		return invalid("of another client")
	case granted.redirect != req.redirect:
		return invalid("another redirect URI")
	case !verifierForm.MatchString(req.verifier) || subtle.ConstantTimeCompare(sum[:], granted.challenge) != 1:
		return invalid("the code verifier is wrong")
	}
	user, ok := h.stillSignedIn(granted.by)
	if !ok {
		return invalid("the user is gone or disabled, or its tokens were ended")
	}
	return user, granted.signIn, nil
}
