package destination

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
)

// issuer is a token endpoint in fake time. It gives numbered tokens, or what answer
// says.
type issuer struct {
	asked  atomic.Int32
	life   time.Duration // of its tokens
	takes  time.Duration // until it answers
	answer func() (status int, body string)
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	n := i.asked.Add(1)
	select {
	case <-time.After(i.takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	status, body := 200, fmt.Sprintf(`{"access_token":"t%d","token_type":"Bearer","expires_in":%d}`, n, int(i.life.Seconds()))
	if i.answer != nil {
		if s, b := i.answer(); s != 0 {
			status, body = s, b
		}
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func tokensOf(i *issuer) *Tokens {
	return &Tokens{client: &http.Client{Transport: i, Timeout: tokenTime}, held: map[manage.TokenRequest]*heldToken{}}
}

var wanted = manage.TokenRequest{URL: "https://id.example/token", ClientID: "carillon", ClientSecret: "cl1ent-s3cret", Scope: "hooks"}

func (t *Tokens) text(ctx context.Context) string {
	token, err := t.get(ctx, wanted)
	if err != nil {
		return err.Error()
	}
	return token.Reveal()
}

func TestTokenIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		tokens := tokensOf(i)
		step := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			if got := tokens.text(t.Context()); got != want {
				t.Errorf("after %s: %s, want %s", after, got, want)
			}
		}
		step(0, "t1")
		step(54*time.Minute, "t1")
		step(2*time.Minute, "t2") // five minutes before its end
		// An issuer that fails is asked again every ten seconds while the token serves.
		i.answer = func() (int, string) { return 500, "" }
		step(56*time.Minute, "t2")
		step(time.Second, "t2")
		if n := i.asked.Load(); n != 3 {
			t.Errorf("asked %d times, want 3", n)
		}
		step(5*time.Minute, "no bearer token: the issuer answered 500")
		step(time.Second, "no bearer token: the issuer answered 500")
		if n := i.asked.Load(); n != 4 {
			t.Errorf("asked %d times, want 4", n)
		}
		i.answer = nil
		step(9*time.Second, "t5")
		// Another scope is another token.
		other := wanted
		other.Scope = "more"
		if token, err := tokens.get(t.Context(), other); err != nil || token.Reveal() != "t6" {
			t.Errorf("another scope: %s, %v", token.Reveal(), err)
		}
		time.Sleep(2 * time.Hour)
		other.Scope = "still more"
		if _, err := tokens.get(t.Context(), other); err != nil || len(tokens.held) != 1 {
			t.Errorf("%d tokens are kept after their end, %v", len(tokens.held), err)
		}
	})
}

// A token that lives for a minute is replaced at half of that.
func TestShortTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := tokensOf(&issuer{life: time.Minute})
		var got []string
		for range 4 {
			got = append(got, tokens.text(t.Context()))
			time.Sleep(20 * time.Second)
		}
		if s := strings.Join(got, " "); s != "t1 t1 t2 t2" {
			t.Errorf("got %s", s)
		}
	})
}

func TestTokenIsAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour, takes: 3 * time.Second}
		tokens := tokensOf(i)
		// Whose attempt ends takes the request along; the next in line asks anew.
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := tokens.get(short, wanted); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		for range 50 {
			wg.Go(func() {
				if got := tokens.text(t.Context()); got != "t2" {
					t.Errorf("got %s", got)
				}
			})
		}
		wg.Wait()
		if n := i.asked.Load(); n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
		// While it is replaced, the old one serves.
		time.Sleep(56 * time.Minute)
		began := time.Now()
		wg.Go(func() {
			if got := tokens.text(t.Context()); got != "t3" {
				t.Errorf("replaced by %s", got)
			}
		})
		synctest.Wait()
		if got := tokens.text(t.Context()); got != "t2" || time.Since(began) != 0 {
			t.Errorf("meanwhile %s, after %s", got, time.Since(began))
		}
		wg.Wait()
	})
}

func TestRefusedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := tokensOf(&issuer{life: time.Hour})
		first := secret.String(tokens.text(t.Context()))
		if tokens.refused(wanted, first) {
			t.Error("a new token is given up")
		}
		time.Sleep(refusedTime)
		if !tokens.refused(wanted, first) || tokens.text(t.Context()) != "t2" || !tokens.refused(wanted, first) || tokens.text(t.Context()) != "t2" {
			t.Error("a token that was refused is not replaced once")
		}
	})
}

func TestIssuersAnswers(t *testing.T) {
	long := strings.Repeat("x", maxToken+1)
	const ok = `"token_type":"Bearer","access_token":"t"`
	for _, tt := range []struct {
		name    string
		status  int
		body    string
		outcome broker.Outcome
		text    string // of the token, or of the failure behind its beginning
	}{
		{"token", 200, `{` + ok + `,"expires_in":3599}`, broker.Delivered, "t"},
		{"life as a string", 200, `{` + ok + `,"expires_in":"3599"}`, broker.Delivered, "t"},
		{"no life", 200, `{` + ok + `}`, broker.Delivered, "t"},
		{"no life at all", 200, `{` + ok + `,"expires_in":0}`, broker.GenericError, "the issuer's expires_in is not a number of seconds"},
		{"no number", 200, `{` + ok + `,"expires_in":"s3cret"}`, broker.GenericError, "the issuer's expires_in is not a number of seconds"},
		{"type in another case", 200, `{"token_type":"bearer","access_token":"t"}`, broker.Delivered, "t"},
		{"another type", 200, `{"token_type":"s3cret","access_token":"t"}`, broker.GenericError, "the issuer's token is not of the type Bearer"},
		{"no token", 200, `{"token_type":"Bearer"}`, broker.GenericError, "the issuer's answer has no access_token that fits a header"},
		{"a line in the token", 200, `{"access_token":"s3cret\r\nX: y"}`, broker.GenericError, "the issuer's answer has no access_token that fits a header"},
		{"long token", 200, `{"access_token":"` + long + `"}`, broker.GenericError, "the issuer's answer has no access_token that fits a header"},
		{"no JSON", 200, "s3cret", broker.GenericError, "the issuer's answer is not the JSON of a token"},
		{"wrong secret", 401, `{"error":"invalid_client","error_description":"s3cret"}`, broker.GenericError, "the issuer answered 401 (invalid_client)"},
		{"a code of its own", 400, `{"error":"s3cret"}`, broker.GenericError, "the issuer answered 400"},
		{"redirect", 302, "s3cret", broker.GenericError, "the issuer answered 302"},
		{"busy", 503, "s3cret", broker.Busy, "the issuer answered 503"},
		{"too many", 429, `{"error":"temporarily_unavailable"}`, broker.Busy, "the issuer answered 429 (temporarily_unavailable)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tokens := tokensOf(&issuer{answer: func() (int, string) { return tt.status, tt.body }})
			token, err := tokens.get(t.Context(), wanted)
			if err == nil {
				if token.Reveal() != tt.text {
					t.Errorf("token %s, want %s", token.Reveal(), tt.text)
				}
				return
			}
			failed, ok := errors.AsType[*tokenError](err)
			if !ok || failed.Outcome != tt.outcome || failed.Detail != "no bearer token: "+tt.text || failed.Status != 0 {
				t.Errorf("%v, want %v: %s", err, tt.outcome, tt.text)
			}
		})
	}
}

// oauth is a real token endpoint that looks at its clients.
func oauth(t *testing.T) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.PostForm.Get("grant_type") != "client_credentials" ||
			r.PostForm.Get("client_id") != "carillon" || r.PostForm.Get("client_secret") != "cl1ent-s3cret" || r.PostForm.Get("scope") != "hooks" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, n)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

func TestDeliveryWithToken(t *testing.T) {
	url, asked := oauth(t)
	var valid atomic.Value // the token that the handler takes
	valid.Store("Bearer t1")
	var requests atomic.Int32
	handler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Authorization") != valid.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer handler.Close()
	tokens := NewTokens(loopback, nil)
	r := wanted
	r.URL = url
	w := newWebhook(t, WebhookConfig{URL: handler.URL, Credentials: manage.Credentials{Token: &r}, Tokens: tokens})
	send := func(want broker.Outcome, tokensAsked, requestsSent int32) {
		t.Helper()
		requests.Store(0)
		if got := w.Send(t.Context(), request()); got.Outcome != want || asked.Load() != tokensAsked || requests.Load() != requestsSent {
			t.Errorf("%+v; %d tokens asked for, %d requests sent", got, asked.Load(), requests.Load())
		}
	}
	send(broker.Delivered, 1, 1)
	send(broker.Delivered, 1, 1)
	// The handler takes another one now. Ours is new: it is not given up.
	valid.Store("Bearer t2")
	send(broker.Unauthorized, 1, 1)
	aged := func() {
		tokens.mu.Lock()
		defer tokens.mu.Unlock()
		tokens.held[r].since = time.Now().Add(-refusedTime)
	}
	aged()
	send(broker.Delivered, 2, 2)
	// Once within an attempt, however long it goes on.
	valid.Store("Bearer never")
	aged()
	send(broker.Unauthorized, 3, 2)
}

func TestDeliveryWithoutToken(t *testing.T) {
	url, _ := oauth(t)
	handler := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was sent something") }))
	defer handler.Close()
	wrong := wanted
	wrong.URL, wrong.ClientSecret = url, "s3cret"
	closed := wanted
	closed.URL = "http://127.0.0.1:1/"
	own := manage.TokenRequest{Audience: "api://hooks"}
	tokens := NewTokens(loopback, func(string, string) (Token, error) { return Token{}, errors.New("s3cret") })
	for _, tt := range []struct {
		name string
		r    manage.TokenRequest
		want broker.Response
	}{
		{"wrong secret", wrong, broker.Response{Outcome: broker.GenericError, Detail: "no bearer token: the issuer answered 401 (invalid_client)"}},
		{"nobody there", closed, broker.Response{Outcome: broker.SocketError, Detail: "no bearer token: the issuer: 127.0.0.1:1: the connection was refused"}},
		{"own issuer", own, broker.Response{Outcome: broker.GenericError, Detail: "no bearer token: this server could not make one"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWebhook(t, WebhookConfig{URL: handler.URL, Credentials: manage.Credentials{Token: &tt.r}, Tokens: tokens})
			if got := w.Send(t.Context(), request()); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			v := validation(event.EventGridSchema, handler.URL)
			v.Credentials.Token = &tt.r
			_, err := NewHandshaker(loopback, tokens).Validate(t.Context(), v)
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Kind != fault.Invalid || f.Target != tokenField || f.Message != "The endpoint was asked nothing: "+tt.want.Detail+"." {
				t.Errorf("handshake: %v", err)
			}
		})
	}
	refused := wanted
	refused.URL = "https://10.1.2.3/token"
	w := newWebhook(t, WebhookConfig{URL: handler.URL, Credentials: manage.Credentials{Token: &refused}, Tokens: tokens})
	if got := w.Send(t.Context(), request()); got.Outcome != broker.SocketError || !strings.Contains(got.Detail, "10.1.2.3:443 is refused: it is in") {
		t.Errorf("an issuer that must not be reached: %+v", got)
	}
}

// Both handshakes carry the token.
func TestHandshakeWithToken(t *testing.T) {
	url, _ := oauth(t)
	for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
		t.Run(schema.String(), func(t *testing.T) {
			handler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer t") {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("WebHook-Allowed-Origin", "*")
				_, _ = io.WriteString(w, `{"validationResponse":"`+testCode+`"}`)
			}))
			defer handler.Close()
			v := validation(schema, handler.URL)
			r := wanted
			r.URL = url
			v.Credentials.Token = &r
			if result, err := NewHandshaker(loopback, NewTokens(loopback, nil)).Validate(t.Context(), v); err != nil || !result.Validated {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
}

// Whatever an issuer answers, what becomes a header fits one, and what is told of a
// failure is ours.
func FuzzReadToken(f *testing.F) {
	for _, answer := range []string{
		`{"access_token":"t","token_type":"Bearer","expires_in":3599}`, `{"access_token":"t","expires_in":"1e99"}`, `{"access_token":"\u0000"}`,
		`{"access_token":"t","expires_in":-1}`, `{"expires_in":{}}`, `[]`, "",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		asked := time.Now()
		token, err := readToken(answer, asked)
		if err != nil {
			if token.Text != "" || !strings.HasPrefix(err.Detail, "no bearer token: the issuer's ") {
				t.Errorf("%q: %s", answer, err.Detail)
			}
			return
		}
		header := string(appendHeader(nil, "Authorization", "Bearer "+token.Text.Reveal()))
		if header != "Authorization: Bearer "+token.Text.Reveal()+"\r\n" || !token.Expires.After(asked) || token.Expires.Sub(asked) > maxLife {
			t.Errorf("%q gives %q until %s", answer, header, token.Expires)
		}
	})
}
