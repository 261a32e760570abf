package server

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
)

func TestParseDoor(t *testing.T) {
	for _, test := range []struct {
		text, planes string
		named        bool // the plane ops
		problem      string
	}{
		{"127.0.0.1:7443", "publish,management,issuer,ops,mlflow", false, ""},
		{"0.0.0.0:443,planes=publish", "publish", false, ""},
		{"[::1]:0,planes=ops, Management", "management,ops", true, ""},
		{"127.0.0.1:1,planes=publish,management,issuer,ops", "publish,management,issuer,ops", true, ""},
		{"127.0.0.1", "", false, "is not HOST:PORT"},
		{":7443", "", false, "names no host"},
		{"127.0.0.1:1,planes=", "", false, `the plane "" is not one of publish,management,issuer,ops,mlflow`},
		{"127.0.0.1:1,planes=publish,portal", "", false, `the plane "portal" is not one of`},
		{"127.0.0.1:1,publish", "", false, `stands "publish", and not planes=`},
	} {
		d, err := parseDoor(test.text)
		switch {
		case test.problem != "":
			if err == nil || !strings.Contains(err.Error(), test.problem) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%s: %v, want a problem with %q", test.text, err, test.problem)
			}
		case err != nil || d.planes.String() != test.planes || d.named.has(planeOps) != test.named:
			t.Errorf("%s: %s, open ops %t, %v", test.text, d.planes, d.named.has(planeOps), err)
		}
	}
	for want, listen := range map[string][]string{
		"":                                     {"127.0.0.1:1,planes=management", "127.0.0.1:2,planes=publish"},
		"no listener has the plane management": {"127.0.0.1:1,planes=publish", "127.0.0.1:2,planes=ops"},
	} {
		_, problems := (&Config{Listen: listen}).doors()
		if err := errors.Join(problems...); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", listen, err, want)
		}
	}
}

// TestPlanes asks every plane of every kind of listener, from this machine and from
// another one.
func TestPlanes(t *testing.T) {
	certs, _ := newCertificates(t, makePair(t, certificateEnd(), "carillon.example"), func() {})
	says := func(word string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(word)) })
	}
	paths := []struct{ path, word string }{
		{"/topics/orders/api/events", "published"}, {"/subscriptions", "managed"}, {"/common/oauth2/v2.0/token", "issued"}, {"/metrics", "measured"},
		{"/healthz", "ok\n"}, {"/readyz", `"ready":true`}, {"/nothing", "managed"}, {"/eventsubscriptions/x/validate", "managed"},
	}
	for _, test := range []struct {
		listen, peer string
		answers      []string // by path: the word of its plane, "" for 421, or a status
	}{
		{"0.0.0.0:1", "127.0.0.1:9", []string{"published", "managed", "issued", "measured", "ok\n", "reasons", "managed", "managed"}},
		{"0.0.0.0:1", "192.0.2.1:9", []string{"published", "managed", "issued", "401", "ok\n", "reasons", "managed", "managed"}},
		{"0.0.0.0:1,planes=publish", "127.0.0.1:9", []string{"published", "", "", "", "ok\n", "{\"ready\":true}\n", "", ""}},
		{"0.0.0.0:1,planes=publish,issuer", "192.0.2.1:9", []string{"published", "", "issued", "", "ok\n", "{\"ready\":true}\n", "", ""}},
		{"0.0.0.0:1,planes=management", "192.0.2.1:9", []string{"", "managed", "", "", "ok\n", "{\"ready\":true}\n", "managed", "managed"}},
		{"0.0.0.0:1,planes=ops", "192.0.2.1:9", []string{"", "", "", "measured", "ok\n", "reasons", "", ""}},
		{"0.0.0.0:1,planes=publish,management,issuer,ops", "192.0.2.1:9", []string{"published", "managed", "issued", "measured", "ok\n", "reasons", "managed", "managed"}},
	} {
		d, err := parseDoor(test.listen)
		if err != nil {
			t.Fatal(err)
		}
		f := &front{
			door: d, publish: says("published"), management: says("managed"), identity: says("issued"), metrics: says("measured"), certificates: certs,
			authenticate: func(*http.Request) (access.Caller, error) {
				return access.Caller{}, fault.New(fault.Unauthenticated, "AuthenticationFailed", "Who are you?")
			},
			reasons: func() []string { return nil }, warnings: func() []string { return nil }, parked: func() (p broker.Parked) { return p },
		}
		for i, p := range paths {
			r := httptest.NewRequest("POST", "https://localhost:1"+p.path, strings.NewReader("{}"))
			r.RemoteAddr = test.peer
			w := httptest.NewRecorder()
			f.ServeHTTP(w, r)
			switch want := test.answers[i]; {
			case want == "":
				if w.Code != http.StatusMisdirectedRequest || !strings.Contains(w.Body.String(), "PlaneNotServed") {
					t.Errorf("%s at %s from %s: %d %s, want 421", p.path, test.listen, test.peer, w.Code, w.Body)
				}
			case want == "401":
				if w.Code != http.StatusUnauthorized {
					t.Errorf("%s at %s from %s: %d %s, want 401", p.path, test.listen, test.peer, w.Code, w.Body)
				}
			case w.Code != 200 || !strings.Contains(w.Body.String(), want):
				t.Errorf("%s at %s from %s: %d %s, want %q", p.path, test.listen, test.peer, w.Code, w.Body, want)
			}
		}
	}
}

// TestOneDoorOfTwo finds the second address taken: the first is free again.
func TestOneDoorOfTwo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := first.Addr().String()
	_ = first.Close()
	if _, err := open([]door{{address: address}, {address: taken.Addr().String()}}); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Fatalf("a taken address: %v", err)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Errorf("the first address is still held: %v", err)
	} else {
		_ = again.Close()
	}
}
