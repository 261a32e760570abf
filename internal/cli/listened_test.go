package cli

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
)

// asked is a server as a function.
type asked func(r *http.Request, body string) (status int, answer string)

func (f asked) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	status, answer := f(r, string(body))
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

// What a listener made is put off while it runs. A server that is away meanwhile is asked
// again; one that says no is not.
func TestListenHoldsItsLease(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status func(asked int) int // of the renewals
		within time.Duration
		want   int // renewals
	}{
		{"a day", func(int) int { return 200 }, 24*time.Hour - time.Second, 47},
		{"away for a while", func(n int) int {
			if n <= 3 {
				return 503
			}
			return 200
		}, time.Hour, 4},
		{"not allowed any more", func(int) int { return 403 }, 24 * time.Hour, 1},
		{"deleted", func(int) int { return 404 }, 24 * time.Hour, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				renewals := 0
				l := leased(t, func(r *http.Request, body string) (int, string) {
					if r.Method != http.MethodPatch || !strings.HasPrefix(body, `{"properties":{"expirationTimeUtc":"`) {
						t.Errorf("asked %s %s", r.Method, body)
					}
					renewals++
					status := tt.status(renewals)
					return status, `{"error":{"code":"X","message":"Y."}}`
				})
				l.ends = leaseEnd()
				ctx, cancel := context.WithTimeout(t.Context(), tt.within)
				defer cancel()
				l.hold(ctx)
				if renewals != tt.want {
					t.Errorf("%d renewals, want %d", renewals, tt.want)
				}
			})
		})
	}
}

// An event subscription that came to its end while the machine slept is made anew; one that
// was deleted before its end is not.
func TestListenAfterSleep(t *testing.T) {
	for _, tt := range []struct {
		name string
		left time.Duration
		puts int
	}{{"slept", -time.Minute, 1}, {"deleted", time.Minute, 0}, {"joined for good", 0, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			puts := 0
			l := leased(t, func(r *http.Request, _ string) (int, string) {
				if r.Method == http.MethodPut {
					puts++
					if r.Header.Get("If-None-Match") != "*" {
						t.Error("it may replace another one")
					}
				}
				if puts > 0 {
					return http.StatusOK, `{}`
				}
				return http.StatusNotFound, `{"error":{"code":"ResourceNotFound","message":"Y."}}`
			})
			if tt.left != 0 {
				l.ends = time.Now().Add(tt.left)
			}
			if there := l.there(t.Context()); there != (tt.puts > 0) || puts != tt.puts {
				t.Errorf("it is there: %t; it was made %d times", there, puts)
			}
		})
	}
}

func leased(t *testing.T, server asked) *listened {
	t.Helper()
	l := &listened{app: &app{stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}, path: "/es", name: "mine", properties: map[string]any{}}
	client := arm.NewClient("http://127.0.0.1", "t", nil)
	client.HTTP = &http.Client{Transport: server}
	l.server = &remote{client}
	return l
}
