package destination

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/secret"
)

func signingKey(t testing.TB, text string) secret.SigningKey {
	t.Helper()
	k, err := secret.ParseSigningKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	symmetricKey  = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	asymmetricKey = "whsk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=" // 32 bytes of 7
)

// The headers of a signed request, with the test vectors of the fact sheet.
// Source: spec/delivery.md section 9.6.
func TestSignatureHeaders(t *testing.T) {
	now := time.Unix(1760000000, 0)
	const body = `{"type":"ml.model.registered","data":{"name":"m","version":"3"}}`
	const v1 = "v1,tgidHLSUzSC7Db3GEGfW1B+HjSUo6E5rf0F9OUgw+4g="
	const v1a = "v1a,ECHgfmaKDcVDTrh2okhC6jKuiQSjQRGFHQjFdwasUC1LdaClLa+82AdSOr0y4Pk1G+qIQVhQHTjtwkyqLNqtAQ=="
	a, b := signingKey(t, symmetricKey), signingKey(t, asymmetricKey)
	for _, tt := range []struct {
		name    string
		signers []Signer
		want    string
	}{
		{"one", []Signer{{Key: a}}, v1},
		{"two", []Signer{{Key: b}, {Key: a, Expires: now.Add(time.Second)}}, v1a + " " + v1},
		{"one of them expired", []Signer{{Key: b}, {Key: a, Expires: now}}, v1a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := "webhook-id: evt_0001\r\nwebhook-timestamp: 1760000000\r\nwebhook-signature: " + tt.want + "\r\n"
			if got := string(appendSignature(nil, tt.signers, "evt_0001", []byte(body), now)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// received is a request as a receiver verifies it.
type received struct{ id, timestamp, signature, body string }

// The id stays over retries, the time is the attempt's, and what is signed is what is
// sent, also of a body that is not copied behind its head.
func TestSignedDeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan received, 1)
		key := signingKey(t, symmetricKey)
		to := &httpServer{addr: "h:80", idle: newPool(), dial: pipeTo(func(r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got <- received{r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), r.Header.Get("webhook-signature"), string(body)}
		})}
		w := &Webhook{httpServer: to, signers: []Signer{{Key: key}}, head: []byte("POST / HTTP/1.1\r\nHost: h\r\n")}
		defer w.Close()
		send := func(r *broker.Request) received {
			t.Helper()
			if resp := w.Send(t.Context(), r); resp.Outcome != broker.Delivered {
				t.Fatalf("%+v", resp)
			}
			m := <-got
			if want := string(key.AppendSignature(nil, m.id, time.Now().Unix(), []byte(m.body))); m.signature != want {
				t.Errorf("signature %s, want %s", m.signature, want)
			}
			return m
		}
		single := request()
		first := send(single)
		time.Sleep(10 * time.Second)
		single.Count = 1
		second := send(single)
		if first.id != "0f5b1c9a" || second.id != first.id || second.timestamp == first.timestamp {
			t.Errorf("ids %s, %s at %s, %s", first.id, second.id, first.timestamp, second.timestamp)
		}
		batch := func(body string) received {
			return send(&broker.Request{Body: []byte(body), ContentType: "application/json; charset=utf-8", Hold: time.Minute})
		}
		big := `[{"id":"1"},"` + strings.Repeat("x", maxCopied) + `"]`
		if a, b, c := batch(big), batch(big), batch(`[{"id":"2"}]`); a.id != b.id || a.id == c.id || strings.Contains(a.id, ".") || len(a.id) != 32 {
			t.Errorf("ids of batches %s, %s, %s", a.id, b.id, c.id)
		}
	})
}

// pipeTo returns a dialer to a server that gives every request to serve and answers
// 200.
func pipeTo(serve func(*http.Request)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			r, err := http.ReadRequest(bufio.NewReader(server))
			if err != nil {
				return
			}
			serve(r)
			_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}()
		return client, nil
	}
}

func TestSignedHandshake(t *testing.T) {
	key := signingKey(t, asymmetricKey)
	got := make(chan received, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- received{r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), r.Header.Get("webhook-signature"), string(body)}
		_, _ = io.WriteString(w, `{"validationResponse":"`+testCode+`"}`)
	}))
	defer srv.Close()
	v := validation(event.EventGridSchema, srv.URL)
	v.Signing = []secret.SigningKey{key, signingKey(t, symmetricKey)}
	if result, err := NewHandshaker(loopback, nil).Validate(t.Context(), v); err != nil || !result.Validated {
		t.Fatalf("%+v, %v", result, err)
	}
	m := <-got
	at, err := strconv.ParseInt(m.timestamp, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	want := string(key.AppendSignature(nil, m.id, at, []byte(m.body))) + " " + string(v.Signing[1].AppendSignature(nil, m.id, at, []byte(m.body)))
	if m.signature != want || time.Since(time.Unix(at, 0)) > time.Minute {
		t.Errorf("signature %s, want %s", m.signature, want)
	}
	if _, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.Fields(m.signature)[0], "v1a,")); err != nil {
		t.Error(err)
	}
}
