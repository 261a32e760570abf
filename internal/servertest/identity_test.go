package servertest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/server"
)

// trusting is an HTTP client that trusts the server's authority.
func (s *Server) trusting(t *testing.T) *http.Client {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
}

// whoAmI asks a server who a token belongs to.
func (s *Server) whoAmI(t *testing.T, token string) (me struct{ ObjectID, Issuer string }, status int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+arm.WhoAmIPath+"?api-version="+arm.Version, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := s.trusting(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	_ = json.NewDecoder(answer.Body).Decode(&me) // an error has another body
	return me, answer.StatusCode
}

// tokenFrom asks a server's token endpoint.
func (s *Server) tokenFrom(t *testing.T, form url.Values) (token string, status int, body string) {
	t.Helper()
	answer, err := s.trusting(t).PostForm(s.URL+"/common/oauth2/v2.0/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.Unmarshal(raw, &got)
	return got.AccessToken, answer.StatusCode, string(raw)
}

// TestAnotherServerAsProvider: the tokens of one server open another that trusts it, by
// what is assigned there, and stand for the secret of one of its principals.
func TestAnotherServerAsProvider(t *testing.T) {
	idp := New(t)
	var trainer struct{ AppID, ObjectID, Password, Tenant string }
	idp.Must("POST", arm.PrincipalsPath, map[string]any{"name": "trainer"}, &trainer)
	issuer := idp.URL + "/" + trainer.Tenant + "/v2.0"
	file := filepath.Join(t.TempDir(), "providers.yaml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf("providers:\n- issuer: %s\n  audiences: ['%s']\n  principalType: ServicePrincipal\n", issuer, access.AudienceManagement)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(t, func(c *server.Config) { c.IdentityProviders, c.DestinationCA = file, filepath.Join(idp.Dir, "ca.pem") })

	signIn := url.Values{"grant_type": {"client_credentials"}, "client_id": {trainer.AppID}, "client_secret": {trainer.Password}, "scope": {access.AudienceManagement + "/.default"}}
	token, status, body := idp.tokenFrom(t, signIn)
	if status != http.StatusOK {
		t.Fatal(body)
	}
	me, status := s.whoAmI(t, token)
	if want := access.ForeignObjectID(issuer, trainer.ObjectID); status != http.StatusOK || me.ObjectID != want || me.Issuer != issuer {
		t.Fatalf("%d %+v, want object id %s", status, me, want)
	}
	if _, status := s.whoAmI(t, idp.Token); status != http.StatusUnauthorized { // signed from the directory: another issuer
		t.Errorf("a token that is not of the issuer: %d", status)
	}
	foreign := arm.Client{BaseURL: s.URL, Token: token, HTTP: s.trusting(t)}
	_, err := foreign.Do(t.Context(), "GET", Group, nil, nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "authorization") {
		t.Errorf("without a role: %v", err)
	}
	role := Group + "/providers/Microsoft.Authorization/roleAssignments/6c0d5a6e-0000-0000-0000-000000000001"
	s.Must("PUT", role, map[string]any{"properties": map[string]any{"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/" + access.RoleReader, "principalId": me.ObjectID}}, nil)
	if _, err := foreign.Do(t.Context(), "GET", Group, nil, nil, nil, nil); err != nil {
		t.Errorf("with a role: %v", err)
	}

	var app struct{ AppID, ObjectID string }
	s.Must("POST", arm.PrincipalsPath, map[string]any{"name": "trainer-here"}, &app)
	assertion := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {app.AppID}, "scope": {access.AudienceManagement + "/.default"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {token},
	}
	if _, status, body := s.tokenFrom(t, assertion); status != http.StatusBadRequest || !strings.Contains(body, "AADSTS70021") {
		t.Errorf("no federated credential: %d %s", status, body)
	}
	s.Must("PUT", arm.PrincipalsPath+"/"+app.ObjectID+"/federatedCredentials/idp",
		map[string]any{"issuer": issuer, "subject": trainer.ObjectID, "audiences": []string{access.AudienceManagement}}, nil)
	own, status, body := s.tokenFrom(t, assertion)
	if status != http.StatusOK {
		t.Fatal(body)
	}
	if me, status := s.whoAmI(t, own); status != http.StatusOK || me.ObjectID != app.ObjectID || me.Issuer != "" {
		t.Errorf("%d %+v", status, me)
	}

	// The provider revokes: its own tokens end with its key.
	idp.Must("POST", arm.RotateKeysPath, map[string]any{"revoke": true}, nil)
	if _, status := idp.whoAmI(t, token); status != http.StatusUnauthorized {
		t.Errorf("after the key was revoked: %d", status)
	}
	s.Must("POST", arm.PrincipalsPath+"/"+app.ObjectID+"/disable", nil, nil)
	if _, status := s.whoAmI(t, own); status != http.StatusUnauthorized {
		t.Errorf("disabled: %d", status)
	}
	s.hides(t, trainer.Password, token, own)
}

// TestKillWhileKeysRotate: whenever the process is killed, one key signs afterwards, and
// what was signed before holds.
func TestKillWhileKeysRotate(t *testing.T) {
	s := New(t)
	signed := []string{s.Token}
	rotations := 0
	for range 4 {
		rotating, first, done := *s.Client, make(chan struct{}), make(chan int, 1)
		go func() {
			n := 0
			for {
				if _, err := rotating.Do(t.Context(), "POST", arm.RotateKeysPath, nil, map[string]any{}, nil, nil); err != nil {
					done <- n
					return
				}
				if n++; n == 1 {
					close(first)
				}
			}
		}()
		select {
		case <-first: // a key is quickly made on one machine, and slowly on another
		case n := <-done:
			t.Fatalf("nobody can rotate after %d times", n)
		}
		<-time.After(time.Duration(rand.IntN(400)) * time.Millisecond)
		s.Kill()
		rotations += <-done
		s.Restart()
		signed = append(signed, s.Token)
		for i, token := range signed {
			if _, status := s.whoAmI(t, token); status != http.StatusOK {
				t.Fatalf("token %d of %d: %d after %d rotations", i+1, len(signed), status, rotations)
			}
		}
	}
	t.Logf("%d rotations", rotations)
}
