package issuer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	azureCLI     = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
	userPassword = "correct horse battery"
	verifier     = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // Source: RFC 7636, appendix B.
	redirectURI  = "http://localhost:8400"
)

// user makes a user with userPassword.
func (s *site) user(t *testing.T, name string) access.Principal {
	t.Helper()
	p, _, err := s.directory.CreateUser(t.Context(), name, userPassword, access.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// browser keeps cookies, and follows nothing by itself.
type browser struct {
	*site
	cookies map[string]string
	headers map[string]string
}

func (s *site) browser() *browser { return &browser{s, map[string]string{}, map[string]string{}} }

func (b *browser) do(method, target string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, publicOrigin+target, strings.NewReader(form.Encode()))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.RemoteAddr = "192.0.2.1:1234"
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for name, value := range b.headers {
		r.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, r)
	for _, c := range rec.Result().Cookies() {
		b.cookies[c.Name] = c.Value
	}
	return rec
}

var (
	formAction = regexp.MustCompile(`<form method="post" action="([^"]*)"`)
	hidden     = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// fillIn reads the form of a page: where it goes, and its hidden fields with those given.
func fillIn(t *testing.T, rec *httptest.ResponseRecorder, fields map[string]string) (string, url.Values) {
	t.Helper()
	m := formAction.FindStringSubmatch(rec.Body.String())
	if m == nil {
		t.Fatalf("no form in %d %s", rec.Code, rec.Body)
	}
	form := url.Values{}
	for _, h := range hidden.FindAllStringSubmatch(rec.Body.String(), -1) {
		form.Set(html.UnescapeString(h[1]), html.UnescapeString(h[2]))
	}
	for name, value := range fields {
		form.Set(name, value)
	}
	return html.UnescapeString(m[1]), form
}

func (b *browser) submit(t *testing.T, rec *httptest.ResponseRecorder, fields map[string]string) *httptest.ResponseRecorder {
	t.Helper()
	action, form := fillIn(t, rec, fields)
	return b.do(http.MethodPost, action, form)
}

func signInAs(name, password string) map[string]string {
	return map[string]string{"username": name, "password": password}
}

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorizeQuery is what az login opens.
func authorizeQuery(change map[string]string) string {
	q := url.Values{}
	all := map[string]string{
		"client_id": azureCLI, "response_type": "code", "redirect_uri": redirectURI, "scope": "https://management.core.windows.net//.default offline_access openid profile",
		"state": "s <&>", "code_challenge": challengeOf(verifier), "code_challenge_method": "S256", "nonce": "n", "client_info": "1", "prompt": "select_account",
	}
	maps.Copy(all, change)
	for name, value := range all {
		if value != "" {
			q.Set(name, value)
		}
	}
	return "/organizations/oauth2/v2.0/authorize?" + q.Encode()
}

// tokens is an answer of the token endpoint.
type tokens struct {
	success
	Error string `json:"error"`
	Text  string `json:"error_description"`
}

func (b *browser) token(t *testing.T, form map[string]string) (tokens, int) {
	t.Helper()
	values := url.Values{"client_id": {azureCLI}}
	for name, value := range form {
		values.Set(name, value)
	}
	rec := b.do(http.MethodPost, "/organizations/oauth2/v2.0/token", values)
	var got tokens
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return got, rec.Code
}

// code signs a user in and returns what the client is sent.
func (b *browser) code(t *testing.T, user string, change map[string]string) url.Values {
	t.Helper()
	rec := b.submit(t, b.do(http.MethodGet, authorizeQuery(change), nil), signInAs(user, userPassword))
	to, err := url.Parse(rec.Header().Get("Location"))
	if err != nil || rec.Code != http.StatusSeeOther || to.Scheme+"://"+to.Host != redirectURI {
		t.Fatalf("%d to %q: %s", rec.Code, to, rec.Body)
	}
	return to.Query()
}

func codeGrant(code string) map[string]string {
	return map[string]string{"grant_type": "authorization_code", "code": code, "redirect_uri": redirectURI, "code_verifier": verifier}
}

func (b *browser) signedIn(t *testing.T, user string) tokens {
	t.Helper()
	got, status := b.token(t, codeGrant(b.code(t, user, nil).Get("code")))
	if status != http.StatusOK {
		t.Fatalf("%d %+v", status, got)
	}
	return got
}

func refreshGrant(token string) map[string]string {
	return map[string]string{"grant_type": "refresh_token", "refresh_token": token, "scope": "https://management.azure.com/.default openid profile offline_access"}
}

func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// az login: the page, the code, and tokens that the client can keep an account by.
func TestAuthorizationCode(t *testing.T) {
	s := newSite(t)
	anna := s.user(t, "anna@example.org")
	b := s.browser()
	sent := b.code(t, "Anna@Example.org", nil)
	if sent.Get("state") != "s <&>" {
		t.Errorf("state %q", sent.Get("state"))
	}
	got, status := b.token(t, codeGrant(sent.Get("code")))
	if status != http.StatusOK || got.RefreshToken == "" || got.Scope != "https://management.core.windows.net//.default" {
		t.Fatalf("%d %+v", status, got)
	}
	caller, err := s.tokens.Validate(t.Context(), got.AccessToken, s.tokens.Management())
	if err != nil || caller.ObjectID != anna.ObjectID || caller.Type != access.User {
		t.Errorf("caller %+v, %v", caller, err)
	}
	for name, want := range map[string]any{"scp": "user_impersonation", "appid": azureCLI, "azp": azureCLI, "upn": "anna@example.org", "oid": anna.ObjectID, "idtyp": "user"} {
		if have := claimsOf(t, got.AccessToken)[name]; have != want {
			t.Errorf("access token: %s %v, want %v", name, have, want)
		}
	}
	for name, want := range map[string]any{"aud": azureCLI, "nonce": "n", "preferred_username": "anna@example.org", "oid": anna.ObjectID, "tid": s.tokens.TenantID()} {
		if have := claimsOf(t, got.IDToken)[name]; have != want {
			t.Errorf("id token: %s %v, want %v", name, have, want)
		}
	}
	if _, err := s.tokens.Validate(t.Context(), got.IDToken, s.tokens.Management()); err == nil {
		t.Error("an id token opens the management plane")
	}
	info, err := base64.RawURLEncoding.DecodeString(got.ClientInfo)
	if err != nil || string(info) != `{"uid":"`+anna.ObjectID+`","utid":"`+s.tokens.TenantID()+`"}` {
		t.Errorf("client info %s, %v", info, err)
	}
	if again, status := b.token(t, codeGrant(sent.Get("code"))); status != http.StatusBadRequest || again.Error != "invalid_grant" {
		t.Errorf("a code used twice: %d %+v", status, again)
	}
	for _, shown := range []string{userPassword, sent.Get("code"), got.RefreshToken, got.AccessToken} {
		if strings.Contains(s.log.String(), shown) {
			t.Errorf("the log shows %q", shown)
		}
	}
}

// A code is good for the client that began, with its verifier and redirect URI.
func TestAuthorizationCodeOfAnother(t *testing.T) {
	s := newSite(t)
	s.user(t, "anna")
	for name, change := range map[string]map[string]string{
		"verifier":       {"code_verifier": strings.Repeat("x", 43)},
		"short verifier": {"code_verifier": "x"},
		"redirect URI":   {"redirect_uri": redirectURI + "/"},
		"client":         {"client_id": "1950a258-227b-4e31-a9cf-717495945fc2"},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.browser()
			grant := codeGrant(b.code(t, "anna", nil).Get("code"))
			maps.Copy(grant, change)
			if got, status := b.token(t, grant); status != http.StatusBadRequest || got.Error != "invalid_grant" {
				t.Errorf("%d %+v", status, got)
			}
		})
	}
}

// MSAL asks for form_post: the page hands the code over without a script.
func TestFormPost(t *testing.T) {
	s := newSite(t)
	s.user(t, "anna")
	b := s.browser()
	rec := b.submit(t, b.do(http.MethodGet, authorizeQuery(map[string]string{"response_mode": "form_post"}), nil), signInAs("anna", userPassword))
	action, form := fillIn(t, rec, nil)
	if action != redirectURI || form.Get("state") != "s <&>" || form.Has(formField) {
		t.Errorf("the form goes to %s with %v", action, form)
	}
	if got, status := b.token(t, codeGrant(form.Get("code"))); status != http.StatusOK {
		t.Errorf("%d %+v", status, got)
	}
	if csp := rec.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' "+redirectURI) || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script") {
		t.Errorf("policy %s", csp)
	}
}

func TestAuthorizeRefuses(t *testing.T) {
	s := newSite(t)
	tests := []struct {
		name   string
		change map[string]string
		want   string // error that the client is told; "" for a page that tells the user
	}{
		{"foreign redirect", map[string]string{"redirect_uri": "https://evil.example/"}, ""},
		{"path", map[string]string{"redirect_uri": "http://localhost:1/x"}, ""},
		{"no port", map[string]string{"redirect_uri": "http://localhost"}, ""},
		{"host that begins like ours", map[string]string{"redirect_uri": "http://localhost:80@evil.example"}, ""},
		{"no redirect", map[string]string{"redirect_uri": ""}, ""},
		{"unknown client", map[string]string{"client_id": "00000000-0000-0000-0000-000000000000"}, ""},
		{"no challenge", map[string]string{"code_challenge": ""}, "invalid_request"},
		{"plain challenge", map[string]string{"code_challenge_method": "plain"}, "invalid_request"},
		{"no method", map[string]string{"code_challenge_method": ""}, "invalid_request"},
		{"short challenge", map[string]string{"code_challenge": "x"}, "invalid_request"},
		{"implicit", map[string]string{"response_type": "id_token"}, "unsupported_response_type"},
		{"fragment", map[string]string{"response_mode": "fragment"}, "invalid_request"},
		{"no prompt", map[string]string{"prompt": "none"}, "login_required"},
		{"unknown resource", map[string]string{"scope": "https://vault.azure.net/.default"}, "invalid_scope"},
		{"long state", map[string]string{"state": strings.Repeat("x", maxParameter+1)}, "invalid_request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := s.browser().do(http.MethodGet, authorizeQuery(tt.change), nil)
			to, err := url.Parse(rec.Header().Get("Location"))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case tt.want == "" && (rec.Code != http.StatusBadRequest || to.String() != "" || formAction.MatchString(rec.Body.String())):
				t.Errorf("%d to %s: %s", rec.Code, to, rec.Body)
			case tt.want != "" && (rec.Code != http.StatusSeeOther || to.Query().Get("error") != tt.want || to.Query().Has("code")):
				t.Errorf("%d to %s", rec.Code, to)
			}
		})
	}
	b := s.browser()
	rec := b.submit(t, b.do(http.MethodGet, authorizeQuery(nil), nil), map[string]string{"cancel": "1"})
	if !strings.HasPrefix(rec.Header().Get("Location"), redirectURI+"?error=access_denied") {
		t.Errorf("cancelled: %d to %s", rec.Code, rec.Header().Get("Location"))
	}
}

// A form counts only if this server showed it in the same browser.
func TestForgedForms(t *testing.T) {
	s := newSite(t)
	s.user(t, "anna")
	for name, forge := range map[string]func(*browser, url.Values){
		"no cookie":      func(b *browser, _ url.Values) { clear(b.cookies) },
		"another cookie": func(b *browser, _ url.Values) { b.cookies[formCookie] = strings.Repeat("A", 26) },
		"no token":       func(_ *browser, f url.Values) { f.Del(formField) },
		"another site":   func(b *browser, _ url.Values) { b.headers["Sec-Fetch-Site"] = "cross-site" },
		"another port":   func(b *browser, _ url.Values) { b.headers["Sec-Fetch-Site"] = "same-site" },
		"another origin": func(b *browser, _ url.Values) { b.headers["Origin"] = "https://evil.example" },
	} {
		t.Run(name, func(t *testing.T) {
			b := s.browser()
			action, form := fillIn(t, b.do(http.MethodGet, authorizeQuery(nil), nil), signInAs("anna", userPassword))
			forge(b, form)
			if rec := b.do(http.MethodPost, action, form); rec.Code != http.StatusForbidden || rec.Header().Get("Location") != "" {
				t.Errorf("%d to %s", rec.Code, rec.Header().Get("Location"))
			}
		})
	}
}

// Who is not there, has no password, is disabled or mistypes is told the same.
func TestWrongPassword(t *testing.T) {
	s := newSite(t)
	s.user(t, "anna")
	off := s.user(t, "off")
	if _, err := s.directory.SetEnabled(t.Context(), off.ObjectID, false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.directory.CreateUser(t.Context(), "new", "", access.Caller{}); err != nil {
		t.Fatal(err)
	}
	for _, try := range [][2]string{{"anna", "wrong password"}, {"anna", ""}, {"off", userPassword}, {"new", userPassword}, {"nobody", userPassword}, {"ci", s.secret}} {
		b := s.browser()
		rec := b.submit(t, b.do(http.MethodGet, authorizeQuery(nil), nil), signInAs(try[0], try[1]))
		if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), wrongPassword) || strings.Contains(rec.Body.String(), userPassword) {
			t.Errorf("%s: %d %s", try[0], rec.Code, rec.Body)
		}
	}
	if strings.Contains(s.log.String(), userPassword) {
		t.Errorf("the log shows a password: %s", s.log)
	}
}

func TestPasswordsAreBraked(t *testing.T) {
	if _, err := signingKey(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.user(t, "anna")
		s.user(t, "ben")
		try := func(user, password string) int {
			b := s.browser()
			return b.submit(t, b.do(http.MethodGet, authorizeQuery(nil), nil), signInAs(user, password)).Code
		}
		for range failuresPerClient {
			if got := try("anna", "wrong"); got != http.StatusBadRequest {
				t.Fatalf("status %d", got)
			}
		}
		if got := try("ANNA", userPassword); got != http.StatusTooManyRequests {
			t.Errorf("after %d failures: %d", failuresPerClient, got)
		}
		if got := try("ben", userPassword); got != http.StatusSeeOther {
			t.Errorf("another user: %d", got)
		}
		time.Sleep(failureWindow) // fake time
		if got := try("anna", userPassword); got != http.StatusSeeOther {
			t.Errorf("a minute later: %d", got)
		}
	})
}

// Refresh tokens are used once; one that comes back later ends the session.
func TestRefresh(t *testing.T) {
	if _, err := signingKey(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.user(t, "anna")
		b := s.browser()
		first := b.signedIn(t, "anna")
		second, status := b.token(t, refreshGrant(first.RefreshToken))
		if status != http.StatusOK || second.RefreshToken == "" || second.RefreshToken == first.RefreshToken || second.IDToken == "" {
			t.Fatalf("%d %+v", status, second)
		}
		if _, err := s.tokens.Validate(t.Context(), second.AccessToken, s.tokens.Management()); err != nil {
			t.Error(err)
		}
		// Another audience by the same session.
		grant := refreshGrant(second.RefreshToken)
		grant["scope"] = "https://eventgrid.azure.net/.default"
		third, status := b.token(t, grant)
		if status != http.StatusOK {
			t.Fatalf("%d %+v", status, third)
		}
		if _, err := s.tokens.Validate(t.Context(), third.AccessToken, s.tokens.Publishing()); err != nil {
			t.Error(err)
		}
		// Two processes of one client at once.
		if again, status := b.token(t, refreshGrant(second.RefreshToken)); status != http.StatusOK || again.RefreshToken == third.RefreshToken {
			t.Errorf("a moment later: %d %+v", status, again)
		}
		wrong := refreshGrant(third.RefreshToken)
		wrong["client_id"] = "1950a258-227b-4e31-a9cf-717495945fc2"
		if got, status := b.token(t, wrong); status != http.StatusBadRequest || got.Error != "invalid_grant" {
			t.Errorf("at another client: %d %+v", status, got)
		}
		bad := refreshGrant(third.RefreshToken)
		bad["scope"] = "https://vault.azure.net/.default"
		if got, status := b.token(t, bad); status != http.StatusBadRequest || got.Error != "invalid_scope" {
			t.Errorf("unknown resource: %d %+v", status, got)
		}
		time.Sleep(2 * time.Minute) // fake time
		if got, status := b.token(t, refreshGrant(second.RefreshToken)); status != http.StatusBadRequest || got.Error != "invalid_grant" {
			t.Errorf("used again: %d %+v", status, got)
		}
		if got, status := b.token(t, refreshGrant(third.RefreshToken)); status != http.StatusBadRequest || got.Error != "invalid_grant" {
			t.Errorf("the session goes on after that: %d %+v", status, got)
		}
		if n := len(s.directory.Sessions(claimsOf(t, first.AccessToken)["oid"].(string))); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		last := b.signedIn(t, "anna")
		time.Sleep(access.SessionLifetime) // fake time
		if got, status := b.token(t, refreshGrant(last.RefreshToken)); status != http.StatusBadRequest || got.Error != "invalid_grant" {
			t.Errorf("after %s: %d %+v", access.SessionLifetime, status, got)
		}
	})
}

// What ends a user's tokens ends the refresh tokens with them, and a new sign-in goes.
func TestRevocation(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *site, access.Principal){
		"revoked": func(t *testing.T, s *site, u access.Principal) {
			if _, err := s.directory.RevokeTokens(t.Context(), u.ObjectID); err != nil {
				t.Fatal(err)
			}
		},
		"disabled": func(t *testing.T, s *site, u access.Principal) {
			for _, on := range []bool{false, true} {
				if _, err := s.directory.SetEnabled(t.Context(), u.ObjectID, on); err != nil {
					t.Fatal(err)
				}
			}
		},
		"password reset": func(t *testing.T, s *site, u access.Principal) {
			_, link, err := s.directory.ResetPassword(t.Context(), u.ObjectID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.directory.SetPassword(t.Context(), u.ObjectID, link, userPassword); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			anna := s.user(t, "anna")
			b := s.browser()
			got := b.signedIn(t, "anna")
			code := b.code(t, "anna", nil).Get("code")
			d := b.device(t)
			b.submit(t, b.submit(t, b.do(http.MethodGet, devicePath, nil), map[string]string{"user_code": d.UserCode}), signInAs("anna", userPassword))
			end(t, s, anna)
			for _, grant := range []map[string]string{codeGrant(code), deviceGrant(d.DeviceCode)} { // proved, and not fetched
				if again, status := b.token(t, grant); status != http.StatusBadRequest || again.Error != "invalid_grant" {
					t.Errorf("%s holds: %d %+v", grant["grant_type"], status, again)
				}
			}
			if _, err := s.tokens.Validate(t.Context(), got.AccessToken, s.tokens.Management()); err == nil {
				t.Error("the access token holds")
			}
			if again, status := b.token(t, refreshGrant(got.RefreshToken)); status != http.StatusBadRequest || again.Error != "invalid_grant" {
				t.Errorf("the refresh token holds: %d %+v", status, again)
			}
			anew := b.signedIn(t, "anna")
			if _, err := s.tokens.Validate(t.Context(), anew.AccessToken, s.tokens.Management()); err != nil {
				t.Error(err)
			}
			if _, status := b.token(t, refreshGrant(anew.RefreshToken)); status != http.StatusOK {
				t.Errorf("a new session does not hold: %d", status)
			}
		})
	}
}

func deviceGrant(code string) map[string]string {
	return map[string]string{"grant_type": grantDevice, "device_code": code}
}

func (b *browser) device(t *testing.T) deviceAnswer {
	t.Helper()
	rec := b.do(http.MethodPost, "/organizations/oauth2/v2.0/devicecode", url.Values{"client_id": {azureCLI}, "scope": {"https://management.azure.com/.default offline_access openid profile"}})
	var d deviceAnswer
	if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil || rec.Code != http.StatusOK || d.DeviceCode == "" {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return d
}

// az login --use-device-code: the device polls, the user signs in elsewhere.
func TestDeviceCode(t *testing.T) {
	if _, err := signingKey(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		anna := s.user(t, "anna")
		b := s.browser()
		d := b.device(t)
		if !regexp.MustCompile(`^[`+userLetters+`]{4}-[`+userLetters+`]{4}$`).MatchString(d.UserCode) || !strings.Contains(d.Message, d.UserCode) || d.VerificationURI != publicOrigin+devicePath || d.Interval != 5 {
			t.Errorf("answer %+v", d)
		}
		poll := func(want string) tokens {
			t.Helper()
			got, status := b.token(t, deviceGrant(d.DeviceCode))
			if got.Error != want || want != "" && status != http.StatusBadRequest || want == "" && status != http.StatusOK {
				t.Errorf("poll: %d %+v, want %q", status, got, want)
			}
			return got
		}
		for range 2 * failuresPerClient { // polls are no failures
			time.Sleep(deviceInterval) // fake time
			poll("authorization_pending")
		}
		poll("slow_down")
		time.Sleep(2 * deviceInterval) // fake time
		poll("authorization_pending")

		if rec := b.submit(t, b.do(http.MethodGet, devicePath, nil), map[string]string{"user_code": "BBBB-BBBB"}); rec.Code != http.StatusBadRequest {
			t.Errorf("unknown code: %d", rec.Code)
		}
		second := b.submit(t, b.do(http.MethodGet, devicePath, nil), map[string]string{"user_code": " " + strings.ToLower(d.UserCode)})
		if !strings.Contains(second.Body.String(), "Microsoft Azure CLI on the device that shows the code "+d.UserCode) {
			t.Errorf("second page %s", second.Body)
		}
		if rec := b.submit(t, second, signInAs("anna", "wrong")); rec.Code != http.StatusBadRequest || !formAction.MatchString(rec.Body.String()) {
			t.Errorf("wrong password: %d", rec.Code)
		}
		if rec := b.submit(t, second, signInAs("anna", userPassword)); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "You are signed in") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		got := poll("")
		caller, err := s.tokens.Validate(t.Context(), got.AccessToken, s.tokens.Management())
		if err != nil || caller.ObjectID != anna.ObjectID || got.RefreshToken == "" || got.IDToken == "" || got.ClientInfo == "" {
			t.Errorf("%+v, %v; %+v", caller, err, got)
		}
		poll("invalid_grant")

		d = b.device(t)
		second = b.submit(t, b.do(http.MethodGet, devicePath+"?user_code="+d.UserCode, nil), map[string]string{"user_code": d.UserCode})
		b.submit(t, second, map[string]string{"cancel": "1"})
		poll("authorization_declined")
		d = b.device(t)
		time.Sleep(deviceLifetime + time.Second) // fake time
		poll("expired_token")
	})
}

func TestDevicesAreBounded(t *testing.T) {
	var d devices
	for i := range devicesOfAddress {
		if code, _ := d.add(signIn{}, addressOf("192.0.2.1:1")); code == "" {
			t.Fatalf("refused after %d", i)
		}
	}
	if code, _ := d.add(signIn{}, addressOf("192.0.2.1:1")); code != "" {
		t.Error("no bound for one address")
	}
	if code, _ := d.add(signIn{}, addressOf("192.0.2.2:1")); code == "" {
		t.Error("one address shuts another out")
	}
}

// A sign-in link sets a password once, and only one that will do.
func TestSetPassword(t *testing.T) {
	s := newSite(t)
	p, link, err := s.directory.CreateUser(t.Context(), "anna@example.org", "", access.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	b := s.browser()
	at := passwordPath + "?" + url.Values{"user": {p.ObjectID}, "link": {link.Reveal()}}.Encode()
	set := func(password, again string) *httptest.ResponseRecorder {
		return b.submit(t, b.do(http.MethodGet, at, nil), map[string]string{"password": password, "again": again})
	}
	for _, try := range []struct{ name, password, again, want string }{
		{"short", "eleven char", "eleven char", "at least 12"},
		{"name", "x" + p.Name + "x", "x" + p.Name + "x", "name of the user"},
		{"differ", userPassword, userPassword + "x", "differ"},
	} {
		if rec := set(try.password, try.again); rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), try.want) {
			t.Errorf("%s: %d %s", try.name, rec.Code, rec.Body)
		}
	}
	if rec := set(userPassword, userPassword); rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if rec := set("another password", "another password"); rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), "was used or has expired") {
		t.Errorf("used twice: %d %s", rec.Code, rec.Body)
	}
	b.signedIn(t, p.Name)
	if text := s.log.String(); strings.Contains(text, link.Reveal()) || strings.Contains(text, userPassword) {
		t.Errorf("the log shows a secret: %s", text)
	}
}

// A link that nobody used in time opens nothing.
func TestSignInLinkExpires(t *testing.T) {
	if _, err := signingKey(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		p, link, err := s.directory.CreateUser(t.Context(), "anna", "", access.Caller{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(access.SignInLinkLifetime) // fake time
		if _, err := s.directory.SetPassword(t.Context(), p.ObjectID, link, secret.String(userPassword)); err == nil {
			t.Error("an expired link holds")
		}
	})
}

// Whatever is taken for a redirect URI leads to this machine.
func FuzzRedirect(f *testing.F) {
	for _, seed := range []string{redirectURI, "http://127.0.0.1:1/", "http://[::1]:65535", "http://localhost:80@evil.example", "http://localhost:1#", "http://localhost:99999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		if !isRedirect(uri) {
			return
		}
		u, err := url.Parse(uri)
		if err != nil || u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" || u.Port() == "" {
			t.Fatalf("%q is taken: %+v, %v", uri, u, err)
		}
		if h := u.Hostname(); h != "localhost" && h != "127.0.0.1" && h != "::1" {
			t.Errorf("%q leads to %s", uri, h)
		}
	})
}

// Whatever the address holds, a browser is sent nowhere but to this machine.
func FuzzAuthorize(f *testing.F) {
	f.Add(strings.SplitN(authorizeQuery(nil), "?", 2)[1])
	f.Add("client_id=" + azureCLI + "&redirect_uri=http://localhost:1&state=%0d%0aX: y")
	f.Add("%zz&client_id=;")
	keys, err := signingKey()
	if err != nil {
		f.Fatal(err)
	}
	h, _ := newHandler(f, keys)
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, publicOrigin+"/common/oauth2/v2.0/authorize", nil)
		r.URL.RawQuery, r.RequestURI = query, "/common/oauth2/v2.0/authorize?"+query
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if to := rec.Header().Get("Location"); to != "" {
			base, _, _ := strings.Cut(to, "?")
			if !isRedirect(base) {
				t.Errorf("sent to %q", to)
			}
		}
		if strings.ContainsAny(rec.Header().Get("Content-Security-Policy"), "\r\n;,") && strings.Count(rec.Header().Get("Content-Security-Policy"), ";") != 4 {
			t.Errorf("policy %q", rec.Header().Get("Content-Security-Policy"))
		}
	})
}
