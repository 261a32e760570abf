// Package interop publishes and manages with Azure's own Go clients. It is a module of its own,
// so that the server does not depend on them.
package interop

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/messaging"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/eventgrid/azeventgrid"
)

const group = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local"

// server is the one that interop/run started.
type server struct {
	url     string
	options azcore.ClientOptions // with a transport that trusts the server's authority
	client  *http.Client
}

func newServer(t *testing.T) *server {
	t.Helper()
	pem, err := os.ReadFile(os.Getenv("CARILLON_CA"))
	if err != nil {
		t.Fatalf("start this by interop/run, which names a server: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}, Timeout: 30 * time.Second}
	s := &server{url: os.Getenv("CARILLON_URL"), client: client}
	s.options = azcore.ClientOptions{Transport: client, Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: s.url}}
	return s
}

// manage does a request of the management API that has to succeed.
func (s *server) manage(t *testing.T, method, path, version string, body, out any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path+"?api-version="+version, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+os.Getenv("CARILLON_TOKEN"))
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode > 299 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
}

// topic is one made for a test.
type topic struct{ id, endpoint, key string }

func (s *server) topic(t *testing.T, schema string) topic {
	t.Helper()
	made := topic{id: group + "/providers/Microsoft.EventGrid/topics/go-" + strings.ToLower(rand.Text()[:8])}
	var shown struct{ Properties struct{ Endpoint string } }
	var keys struct{ Key1 string }
	s.manage(t, "PUT", made.id, "2025-02-15", map[string]any{"location": "local", "properties": map[string]any{"inputSchema": schema}}, &shown)
	s.manage(t, "POST", made.id+"/listKeys", "2025-02-15", nil, &keys)
	made.endpoint, made.key = shown.Properties.Endpoint, keys.Key1
	return made
}

func event() []azeventgrid.Event {
	return []azeventgrid.Event{{
		ID: to.Ptr("g1"), EventType: to.Ptr("Shop.OrderPlaced"), Subject: to.Ptr("orders/1"), DataVersion: to.Ptr("1.0"),
		EventTime: to.Ptr(time.Now()), Data: map[string]int{"number": 1},
	}}
}

// wantStatus fails unless err is the answer with a status, 0 for success.
func wantStatus(t *testing.T, what string, err error, status int, code string) {
	t.Helper()
	answer := new(azcore.ResponseError)
	switch {
	case status == 0 && err == nil:
	case status == 0 || !errors.As(err, &answer) || answer.StatusCode != status || answer.ErrorCode != code:
		t.Errorf("%s: %v, want %d %s", what, err, status, code)
	}
}

func TestKey(t *testing.T) {
	s := newServer(t)
	grid, cloudEvents := s.topic(t, "EventGridSchema"), s.topic(t, "CloudEventSchemaV1_0")
	options := &azeventgrid.ClientOptions{ClientOptions: s.options}
	client, err := azeventgrid.NewClientWithSharedKeyCredential(grid.endpoint, azcore.NewKeyCredential(grid.key), options)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.PublishEvents(t.Context(), event(), nil)
	wantStatus(t, "Event Grid events", err, 0, "")
	if client, err = azeventgrid.NewClientWithSharedKeyCredential(cloudEvents.endpoint, azcore.NewKeyCredential(cloudEvents.key), options); err != nil {
		t.Fatal(err)
	}
	made, err := messaging.NewCloudEvent("/shop", "Shop.OrderPlaced", map[string]int{"number": 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.PublishCloudEvents(t.Context(), []messaging.CloudEvent{made}, nil)
	wantStatus(t, "CloudEvents", err, 0, "")
	if client, err = azeventgrid.NewClientWithSharedKeyCredential(grid.endpoint, azcore.NewKeyCredential(cloudEvents.key), options); err != nil {
		t.Fatal(err)
	}
	_, err = client.PublishEvents(t.Context(), event(), nil)
	wantStatus(t, "the key of another topic", err, http.StatusUnauthorized, "Unauthorized")
}

// signed makes a shared access signature; the client takes one, and makes none.
func signed(endpoint, key string, expires time.Time) string {
	raw, _ := base64.StdEncoding.DecodeString(key)
	text := fmt.Sprintf("r=%s&e=%s", url.QueryEscape(endpoint), url.QueryEscape(expires.UTC().Format(time.RFC3339)))
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(text))
	return text + "&s=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func TestSharedAccessSignature(t *testing.T) {
	s := newServer(t)
	at := s.topic(t, "EventGridSchema")
	for _, c := range []struct {
		what   string
		token  string
		status int
		code   string
	}{
		{"one that holds", signed(at.endpoint, at.key, time.Now().Add(time.Minute)), 0, ""},
		{"one that expired", signed(at.endpoint, at.key, time.Now().Add(-2*time.Second)), http.StatusUnauthorized, "Unauthorized"},
		{"one of another address", signed(s.url+"/topics/other/api/events", at.key, time.Now().Add(time.Minute)), http.StatusUnauthorized, "Unauthorized"},
		{"one without its form", "hunter2", http.StatusBadRequest, "BadRequest"},
	} {
		client, err := azeventgrid.NewClientWithSAS(at.endpoint, azcore.NewSASCredential(c.token), &azeventgrid.ClientOptions{ClientOptions: s.options})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.PublishEvents(t.Context(), event(), nil)
		wantStatus(t, c.what, err, c.status, c.code)
	}
}

func TestToken(t *testing.T) {
	s := newServer(t)
	at := s.topic(t, "EventGridSchema")
	s.manage(t, "PATCH", at.id, "2025-02-15", map[string]any{"properties": map[string]any{"disableLocalAuth": true}}, nil)
	var who struct{ AppID, Password, Tenant, ObjectID string }
	s.manage(t, "POST", "/providers/Carillon.Identity/principals", "2026-11-01", map[string]any{"name": "go-" + rand.Text()[:8]}, &who)
	credential, err := azidentity.NewClientSecretCredential(who.Tenant, who.AppID, who.Password,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: s.options, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := azeventgrid.NewClient(at.endpoint, credential, &azeventgrid.ClientOptions{ClientOptions: s.options})
	if err != nil {
		t.Fatal(err)
	}
	publish := func(ctx context.Context) error {
		_, err := client.PublishEvents(ctx, event(), nil)
		return err
	}
	wantStatus(t, "without a role", publish(t.Context()), http.StatusForbidden, "Forbidden")
	assignment := at.id + "/providers/Microsoft.Authorization/roleAssignments/" + newGUID()
	s.manage(t, "PUT", assignment, "2022-04-01", map[string]any{"properties": map[string]any{
		"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/d5a91429-5739-47e2-a06b-3470a27159e7", "principalId": who.ObjectID,
	}}, nil)
	wantStatus(t, "with EventGrid Data Sender", publish(t.Context()), 0, "")
	s.manage(t, "DELETE", assignment, "2022-04-01", nil, nil)
	wantStatus(t, "after it was taken away", publish(t.Context()), http.StatusForbidden, "Forbidden")
	byKey, err := azeventgrid.NewClientWithSharedKeyCredential(at.endpoint, azcore.NewKeyCredential(at.key), &azeventgrid.ClientOptions{ClientOptions: s.options})
	if err != nil {
		t.Fatal(err)
	}
	_, err = byKey.PublishEvents(t.Context(), event(), nil)
	wantStatus(t, "a key where tokens alone are taken", err, http.StatusUnauthorized, "Unauthorized")
}

// newGUID names a role assignment.
func newGUID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}
