package servertest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/arm"
)

// publisher sends one event to a topic through both doors: over clear HTTP/1.1, which
// plain requests have a lane for, and over TLS. Both have to answer the same.
type publisher struct {
	s    *Server
	path string
	body string
}

// answer is what a publisher was told.
type answer struct {
	status          int
	code, challenge string
	body            string
}

func (p *publisher) send(t *testing.T, header string) answer {
	t.Helper()
	var answers []answer
	for _, door := range []string{p.s.HTTP(), p.s.URL} {
		r, err := http.NewRequest("POST", door+p.path, strings.NewReader(p.body))
		if err != nil {
			t.Fatal(err)
		}
		if name, value, ok := strings.Cut(header, ": "); ok {
			r.Header.Set(name, value)
		}
		resp, err := p.s.Client.HTTP.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var body struct {
			Error struct {
				Code    string
				Details []struct{ Code string }
			}
		}
		a := answer{status: resp.StatusCode, challenge: resp.Header.Get("WWW-Authenticate"), body: string(raw)}
		if resp.StatusCode != http.StatusOK {
			if err := json.Unmarshal(raw, &body); err != nil || len(body.Error.Details) != 1 {
				t.Fatalf("%s: %s %q: %v", door, resp.Status, raw, err)
			}
			a.code = body.Error.Code + "/" + body.Error.Details[0].Code
		}
		answers = append(answers, a)
	}
	if answers[0] != answers[1] {
		t.Errorf("over http %v, over https %v", answers[0], answers[1])
	}
	return answers[0]
}

// want sends and holds the answer against a status and its codes, and a 401 against
// having a challenge.
func (p *publisher) want(t *testing.T, what, header string, status int, code string) answer {
	t.Helper()
	a := p.send(t, header)
	if a.status != status || a.code != code {
		t.Errorf("%s: %d %s, want %d %s: %s", what, a.status, a.code, status, code, a.body)
	}
	if challenged := strings.HasPrefix(a.challenge, `Bearer authorization_uri="`+p.s.URL+`/`); challenged != (status == http.StatusUnauthorized) {
		t.Errorf("%s: %d with the challenge %q", what, a.status, a.challenge)
	}
	return a
}

// sas signs a token for an address.
func sas(resource, expiry, key string) string {
	raw, _ := base64.StdEncoding.DecodeString(key)
	text := "r=" + url.QueryEscape(resource) + "&e=" + url.QueryEscape(expiry)
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(text))
	return text + "&s=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// TestPublishingCredentials publishes with every credential, and takes each away
// again: what was changed holds for the next request. No credential is in the log.
// Source: spec/events.md sections 8.4 to 8.6, spec/access.md section 13.
func TestPublishingCredentials(t *testing.T) {
	s := New(t)
	const unauthorized = "Unauthorized/Unauthorized"
	topic := Group + "/providers/Microsoft.EventGrid/topics/guarded"
	var shown struct{ Properties struct{ Endpoint string } }
	s.Must("PUT", topic, map[string]any{"location": "local"}, &shown)
	patch := func(properties map[string]any) {
		t.Helper()
		s.Must("PATCH", topic, map[string]any{"properties": properties}, nil)
	}
	p := &publisher{s, "/topics/guarded/api/events", eventBody(1, 1)}
	if shown.Properties.Endpoint != s.URL+p.path {
		t.Fatalf("the endpoint is %s", shown.Properties.Endpoint)
	}
	var keys struct{ Key1, Key2 string }
	s.Must("POST", topic+"/listKeys", nil, &keys)
	secrets := []string{keys.Key1, keys.Key2}
	later, earlier := time.Now().UTC().Add(time.Hour).Format("1/2/2006 3:04:05 PM"), time.Now().UTC().Add(-time.Second).Format("1/2/2006 3:04:05 PM")
	token := func(key, expiry string) string {
		made := sas(shown.Properties.Endpoint+"?api-version=2018-01-01", expiry, key)
		secrets = append(secrets, made[strings.Index(made, "&s=")+3:])
		return made
	}

	p.want(t, "no credential", "", 401, unauthorized)
	for i, key := range []string{keys.Key1, keys.Key2} {
		name := fmt.Sprintf("key%d", i+1)
		p.want(t, name, "aeg-sas-key: "+key, 200, "")
		p.want(t, "SAS of "+name, "aeg-sas-token: "+token(key, later), 200, "")
		p.want(t, "SAS of "+name+" as Authorization", "Authorization: SharedAccessSignature "+token(key, later), 200, "")
		p.want(t, "SAS of "+name+" that expired", "aeg-sas-token: "+token(key, earlier), 401, unauthorized)
	}
	p.want(t, "SAS of no form", "aeg-sas-token: hunter2", 400, "BadRequest/InvalidSas")
	p.want(t, "SAS of another topic", "aeg-sas-token: "+sas(s.URL+"/topics/other/api/events", later, keys.Key1), 401, unauthorized)

	old, oldSAS := keys.Key1, token(keys.Key1, later)
	s.Must("POST", topic+"/regenerateKey", map[string]any{"keyName": "key1"}, &keys)
	p.want(t, "key1 that was replaced", "aeg-sas-key: "+old, 401, unauthorized)
	p.want(t, "SAS of a key that was replaced", "aeg-sas-token: "+oldSAS, 401, unauthorized)
	p.want(t, "new key1", "aeg-sas-key: "+keys.Key1, 200, "")
	p.want(t, "SAS of the new key1", "aeg-sas-token: "+token(keys.Key1, later), 200, "")
	p.want(t, "key2, which stayed", "aeg-sas-key: "+keys.Key2, 200, "")

	ci := s.newPrincipal(t, "ci")
	secrets = append(secrets, ci.Password)
	bearer := "Authorization: Bearer " + s.tokenOf(t, ci, "https://eventgrid.azure.net/.default")
	secrets = append(secrets, bearer[len(bearer)-60:])
	p.want(t, "token without a role", bearer, 403, "Forbidden/Forbidden")
	assignment := Group + "/providers/Microsoft.Authorization/roleAssignments/" + uuid.NewString()
	s.Must("PUT", assignment, map[string]any{"properties": map[string]any{
		"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/d5a91429-5739-47e2-a06b-3470a27159e7", "principalId": ci.ObjectID,
	}}, nil)
	p.want(t, "token with EventGrid Data Sender", bearer, 200, "")
	p.want(t, "token for the management plane", "Authorization: Bearer "+s.tokenOf(t, ci, "https://management.azure.com/.default"), 401, unauthorized)
	p.want(t, "no token", "Authorization: Bearer hunter2", 401, unauthorized)
	p.want(t, "scheme that is not known", "Authorization: Basic aHVudGVyMg==", 401, unauthorized)

	patch(map[string]any{"disableLocalAuth": true})
	for what, header := range map[string]string{"key": "aeg-sas-key: " + keys.Key1, "SAS": "aeg-sas-token: " + token(keys.Key2, later), "nothing": ""} {
		if a := p.want(t, what+" with disableLocalAuth", header, 401, unauthorized); !strings.Contains(a.body, "disableLocalAuth") {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	p.want(t, "token with disableLocalAuth", bearer, 200, "")
	s.Kill()
	s.Restart()
	p.want(t, "key after a restart", "aeg-sas-key: "+keys.Key1, 401, unauthorized)
	p.want(t, "token after a restart", bearer, 200, "")
	s.Must("DELETE", assignment, nil, nil)
	p.want(t, "token whose role was taken away", bearer, 403, "Forbidden/Forbidden")
	patch(map[string]any{"disableLocalAuth": false})
	p.want(t, "key once more", "aeg-sas-key: "+keys.Key1, 200, "")

	for _, c := range []struct {
		name       string
		properties map[string]any
		status     int
		code       string
	}{
		{"foreign network", map[string]any{"inboundIpRules": []any{map[string]any{"ipMask": "10.0.0.0/8", "action": "Allow"}}}, 403, "Forbidden/Forbidden"},
		{"a network among others", map[string]any{"inboundIpRules": []any{map[string]any{"ipMask": "10.0.0.0/8"}, map[string]any{"ipMask": "127.0.0.1"}}}, 200, ""},
		{"no public access", map[string]any{"publicNetworkAccess": "Disabled"}, 403, "Forbidden/Forbidden"},
		{"public access again", map[string]any{"publicNetworkAccess": "Enabled"}, 200, ""},
	} {
		patch(c.properties)
		p.want(t, c.name, "aeg-sas-key: "+keys.Key1, c.status, c.code)
	}

	log := s.Log()
	for _, secret := range append(secrets, keys.Key1) {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %.8s…", secret)
		}
	}
	if !strings.Contains(log, `"principal":"`+ci.ObjectID+`"`) {
		t.Error("the log does not name the principal that may not publish")
	}
}

// client is a principal as it was shown once.
type client struct{ AppID, Password, Tenant, ObjectID string }

func (s *Server) newPrincipal(t *testing.T, name string) (c client) {
	t.Helper()
	s.Must("POST", arm.PrincipalsPath, map[string]any{"name": name}, &c)
	return c
}

// tokenOf asks the issuer for a token.
func (s *Server) tokenOf(t *testing.T, c client, scope string) string {
	t.Helper()
	resp, err := http.PostForm(s.HTTP()+"/"+c.Tenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {c.AppID}, "client_secret": {c.Password}, "scope": {scope},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Token == "" {
		t.Fatalf("token for %s: %s, %v", scope, resp.Status, err)
	}
	return body.Token
}
