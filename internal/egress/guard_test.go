package egress

import (
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func parse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Source: spec/delivery.md section 9.5 rule 3.
func TestRefusedRanges(t *testing.T) {
	public := []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
		"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255",
		"192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:200::", "2001:4860:4860::8888",
		"2606:4700::1111", "2002:808:808::1", "::ffff:8.8.8.8",
	}
	special := []string{
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255",
		"169.254.0.0", "169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.255", "192.0.2.1", "192.88.99.1",
		"192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.255",
		"240.0.0.0", "255.255.255.255",
		"::", "::1", "::2", "::7f00:1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::a00:1", "64:ff9b::808:808",
		"64:ff9b:1::1", "100::1", "2001::1", "2001:1ff::1", "2001:db8::1", "2002:a00:1::1", "2002:7f00:1::", "2002:c0a8:101::9",
		"3fff::1", "5f00::1", "fc00::1", "fdff::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1",
	}
	metadata := []string{
		"169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254",
		"::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "64:ff9b::169.254.169.254",
	}
	g := New(Options{})
	everything := New(Options{AllowLoopback: true, Allow: prefixes("0.0.0.0/0", "::/0"), AllowHosts: []string{"x"}})
	decide := func(g *Guard, ip string) error {
		to := netip.AddrPortFrom(netip.MustParseAddr(ip), 443)
		return g.decide(to, to.String(), false, false)
	}
	for _, ip := range public {
		if err := decide(g, ip); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	for _, ip := range special {
		var refused *RefusedError
		if err := decide(g, ip); !errors.As(err, &refused) {
			t.Errorf("%s is let through", ip)
		} else if !strings.Contains(refused.Error(), "--allow-destination "+refused.Remedy) {
			t.Errorf("%s: %q does not name the flag", ip, refused)
		}
		if err := decide(everything, ip); err != nil {
			t.Errorf("%s, allowed by the operator: %v", ip, err)
		}
	}
	for _, ip := range metadata {
		for name, g := range map[string]*Guard{"default": g, "everything allowed": everything} {
			var refused *RefusedError
			if err := decide(g, ip); !errors.As(err, &refused) || refused.Remedy != "" {
				t.Errorf("%s, %s: %v", ip, name, err)
			}
		}
	}
}

func TestCheckURL(t *testing.T) {
	strict := New(Options{})
	local := New(Options{AllowLoopback: true})
	networks := New(Options{Allow: prefixes("10.1.0.0/16", "::ffff:10.2.0.0/112")})
	hosts := New(Options{AllowHosts: []string{"corp.example", "*.lab.example", "localhost"}})
	own := New(Options{AllowLoopback: true, Own: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7443")} }})
	tests := []struct {
		name string
		g    *Guard
		url  string
		want string // part of the error; "" for none
	}{
		{"https", strict, "https://hooks.example.org/in?code=s3cret", ""},
		{"https on any port", strict, "https://hooks.example.org:9999/in", ""},
		{"http to the world", strict, "http://hooks.example.org/in", "use https://; serve --allow-destination hooks.example.org allows it"},
		{"http to the world from a local server", local, "http://hooks.example.org/in", "use https://"},
		{"http to a public address", local, "http://8.8.8.8/", "use https://; serve --allow-destination 8.8.8.8 allows it"},
		{"another scheme", strict, "ftp://hooks.example.org/in", "must start with https://"},
		{"no scheme", strict, "hooks.example.org/in", "must start with https://"},
		{"no host", strict, "https:///in", "no host"},
		{"user information", strict, "https://me:s3cret@hooks.example.org/", "user information"},
		{"fragment", strict, "https://hooks.example.org/#s3cret", "fragment"},
		{"host beyond ASCII", strict, "https://bücher.example/", "ASCII"},
		{"space in the query", strict, "https://hooks.example.org/?s3cret=a b", "percent-encoded"},
		{"port 0", strict, "https://hooks.example.org:0/", "between 1 and 65535"},
		{"port too large", strict, "https://hooks.example.org:65536/", "between 1 and 65535"},
		{"loopback", strict, "https://127.0.0.1/", "--allow-destination 127.0.0.0/8"},
		{"localhost", strict, "https://LOCALHOST.:99/", "--allow-destination 127.0.0.0/8"},
		{"below localhost", strict, "https://a.localhost/", "--allow-destination 127.0.0.0/8"},
		{"IPv6 loopback", strict, "https://[::1]/", "--allow-destination ::1/128"},
		{"mapped loopback", strict, "https://[::ffff:127.0.0.1]/", "--allow-destination 127.0.0.0/8"},
		{"private", strict, "https://10.0.0.1/", "--allow-destination 10.0.0.0/8"},
		{"http to loopback, local", local, "http://127.0.0.1:8080/in", ""},
		{"http to localhost, local", local, "http://localhost:8080/in", ""},
		{"http to IPv6 loopback, local", local, "http://[::1]:8080/in", ""},
		{"private, local", local, "http://10.0.0.1/", "--allow-destination 10.0.0.0/8"},
		{"allowed network", networks, "http://10.1.2.3/", ""},
		{"allowed network given as mapped", networks, "http://10.2.2.3/", ""},
		{"network next to it", networks, "http://10.3.0.1/", "--allow-destination 10.0.0.0/8"},
		{"a name where networks are allowed", networks, "http://handler:8080/", ""},
		{"allowed host", hosts, "http://Corp.Example/", ""},
		{"below an allowed host", hosts, "http://a.b.corp.example/", ""},
		{"below a starred host", hosts, "http://a.lab.example/", ""},
		{"like an allowed host", hosts, "http://evilcorp.example/", "use https://"},
		{"allowed localhost", hosts, "http://localhost:80/", ""},
		{"ourselves", own, "https://127.0.0.1:7443/", "this server itself"},
		{"ourselves by name", own, "https://localhost:7443/", "this server itself"},
		{"our machine, another port", own, "https://127.0.0.1:7444/", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.g.CheckURL(parse(t, tt.url))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("CheckURL(%s) = %v, want %q", tt.url, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// listen returns the address of a listener that accepts and closes.
func listen(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestDialDecidesOnTheAddress(t *testing.T) {
	at := listen(t, "127.0.0.1:0")
	tests := []struct {
		name string
		o    Options
		addr string
		want string
	}{
		{"loopback refused", Options{}, at.String(), "--allow-destination 127.0.0.0/8"},
		{"loopback allowed", Options{AllowLoopback: true}, at.String(), ""},
		{"network allowed", Options{Allow: prefixes("127.0.0.0/8")}, at.String(), ""},
		{"mapped loopback refused", Options{}, "[::ffff:127.0.0.1]:1", "--allow-destination 127.0.0.0/8"},
		{"ourselves", Options{AllowLoopback: true, Own: func() []netip.AddrPort { return []netip.AddrPort{at} }}, at.String(), "this server itself"},
		{
			"ourselves on all addresses",
			Options{AllowLoopback: true, Own: func() []netip.AddrPort {
				return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())}
			}},
			at.String(), "this server itself",
		},
		{
			"ourselves by the unspecified address",
			Options{Allow: prefixes("0.0.0.0/0"), Own: func() []netip.AddrPort { return []netip.AddrPort{at} }},
			netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()).String(), "this server itself",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := New(tt.o).DialContext(t.Context(), "tcp", tt.addr)
			if conn != nil {
				_ = conn.Close()
			}
			var refused *RefusedError
			if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A refusal says all that an operator needs within the 200 bytes that are kept of an
// attempt, also where the name is as long as names of clusters are.
func TestRefusalFits(t *testing.T) {
	var asked atomic.Int32
	g := New(Options{})
	g.resolver = rebinding(&asked, "172.16.254.254")
	for _, host := range []string{"kafka-0.kafka-headless.production.svc.cluster.local.", strings.Repeat("a", 60) + ".kafka-headless.production.svc.cluster.local."} {
		_, err := g.DialClear(t.Context(), "tcp", host+":65535")
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Fatalf("%s: %v", host, err)
		}
		text := refused.Error()
		if !strings.Contains(text, "kafka-headless.production.svc.cluster.local.:65535 (172.16.254.254)") || !strings.HasSuffix(text, "; serve --allow-destination 172.16.0.0/12 allows it") || len(text) > 200 {
			t.Errorf("%d bytes: %s", len(text), text)
		}
	}
}

// A destination that may be reached and cannot be is named as it was dialled.
func TestDialNamesTheDestination(t *testing.T) {
	var asked atomic.Int32
	g := New(Options{AllowLoopback: true})
	g.resolver = rebinding(&asked, "127.0.0.1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	_, err = g.DialContext(t.Context(), "tcp", "broker.example.:"+port)
	var failed *DialError
	if !errors.As(err, &failed) || failed.Destination != "broker.example.:"+port || !errors.Is(err, syscall.ECONNREFUSED) || failed.Timeout() {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err = g.DialContext(ctx, "tcp", "127.0.0.1:"+port); !errors.As(err, &failed) || !failed.Timeout() {
		t.Errorf("no time: %v", err)
	}
}

func TestDialRefusesOtherNetworks(t *testing.T) {
	var refused *RefusedError
	if _, err := New(Options{AllowLoopback: true}).DialContext(t.Context(), "udp", "127.0.0.1:53"); !errors.As(err, &refused) {
		t.Errorf("udp: %v", err)
	}
	if _, err := New(Options{}).DialContext(t.Context(), "tcp", "no-port"); err == nil {
		t.Error("an address without port is no error")
	}
}

func TestDialClear(t *testing.T) {
	g := New(Options{AllowLoopback: true})
	at := listen(t, "127.0.0.1:0")
	conn, err := g.DialClear(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatalf("loopback: %v", err)
	}
	_ = conn.Close()
	var refused *RefusedError
	if _, err := g.DialClear(t.Context(), "tcp", "8.8.8.8:80"); !errors.As(err, &refused) || !strings.Contains(err.Error(), "use https://") {
		t.Errorf("a public address: %v", err)
	}
}

// rebinding answers each look-up of an A record with the next address of a list.
func rebinding(asked *atomic.Int32, answers ...string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, query); err != nil {
					return
				}
				answer := answerTo(query, func() netip.Addr {
					n := int(asked.Add(1)) - 1
					return netip.MustParseAddr(answers[min(n, len(answers)-1)])
				})
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

// answerTo makes a DNS answer: the address for an A question, nothing for others.
func answerTo(query []byte, address func() netip.Addr) []byte {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5 // root label, type, class
	isA := binary.BigEndian.Uint16(query[end-4:]) == 1
	out := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if isA {
		out[7] = 1
		ip := address().As4()
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		out = append(out, ip[:]...)
	}
	return out
}

// A name that resolves to an allowed address first and to a private one later is
// refused when it is about to be connected, by the bare dial as by the HTTP client.
// Loopback stands for a public address here. Source: spec/delivery.md section 11.
func TestAcceptance14NameThatMoves(t *testing.T) {
	var requests, asked atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer srv.Close()
	roots, err := Roots(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("example.com", port) // a name in the server's certificate
	g := New(Options{AllowLoopback: true, RootCAs: roots})
	g.resolver = rebinding(&asked, "127.0.0.1", "127.0.0.1", "10.0.0.1", "192.168.0.1", "169.254.169.254")
	if err := g.CheckURL(parse(t, "https://"+addr+"/")); err != nil {
		t.Fatalf("CheckURL: %v", err)
	}
	dial := func() error {
		conn, err := g.DialContext(t.Context(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	client := g.Client(5 * time.Second)
	get := func() error {
		defer client.CloseIdleConnections()
		resp, err := client.Get("https://" + addr + "/")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := dial(); err != nil {
		t.Errorf("first dial: %v", err)
	}
	if err := get(); err != nil {
		t.Errorf("first request: %v", err)
	}
	for _, step := range []struct {
		try  func() error
		want string
	}{{dial, addr + " (10.0.0.1) is refused: it is in the private network 10.0.0.0/8; serve --allow-destination 10.0.0.0/8 allows it"},
		{get, addr + " (192.168.0.1) is refused: it is in the private network 192.168.0.0/16; serve --allow-destination 192.168.0.0/16 allows it"}, {dial, addr + " (169.254.169.254) is refused: it is a cloud's metadata service"}, {get, "metadata service"}} {
		var refused *RefusedError
		if err := step.try(); !errors.As(err, &refused) || !strings.Contains(refused.Error(), step.want) {
			t.Errorf("look-up %d: %v, want %q", asked.Load(), err, step.want)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	g.hosts = []string{"com"} // the operator trusts the name, but metadata stays out of reach
	var refused *RefusedError
	if err := dial(); !errors.As(err, &refused) {
		t.Errorf("metadata by an allowed name: %v", err)
	}
}

func TestClient(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "here")
	}))
	defer srv.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	client := New(Options{AllowLoopback: true}).Client(5 * time.Second)
	defer client.CloseIdleConnections()
	resp, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "here" {
		t.Errorf("body %q", body)
	}
	resp, err = client.Get(srv.URL + "/away")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		t.Errorf("redirect: status %d, want 302", resp.StatusCode)
	}
	var refused *RefusedError
	if _, err := New(Options{}).Client(time.Second).Get(srv.URL); !errors.As(err, &refused) {
		t.Errorf("without loopback: %v", err)
	}
	if _, err := client.Get("ftp://127.0.0.1/"); err == nil {
		t.Error("ftp is no error")
	}
}

func TestClientTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	defer srv.Close()
	roots, err := Roots(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	if err != nil {
		t.Fatal(err)
	}
	client := New(Options{AllowLoopback: true, RootCAs: roots}).Client(5 * time.Second)
	defer client.CloseIdleConnections()
	resp, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if _, err := New(Options{AllowLoopback: true}).Client(5 * time.Second).Get(srv.URL); err == nil {
		t.Error("an unknown CA is trusted")
	}
	if _, err := Roots([]byte("no certificate")); err == nil {
		t.Error("roots that hold no certificate are no error")
	}
}

func TestParseDestinations(t *testing.T) {
	networks, hosts, err := ParseDestinations([]string{"10.0.0.0/8", " 10.1.2.3", "fd00::1", "corp.example", "*.lab.example"})
	if err != nil {
		t.Fatal(err)
	}
	if want := prefixes("10.0.0.0/8", "10.1.2.3/32", "fd00::1/128"); len(networks) != 3 || networks[1] != want[1] || networks[2] != want[2] {
		t.Errorf("networks %v", networks)
	}
	if len(hosts) != 2 || hosts[0] != "corp.example" {
		t.Errorf("hosts %v", hosts)
	}
	for _, bad := range []string{"", "10.0.0.0/33", "https://x", "a b", "host:80", "300.1"} {
		if _, _, err := ParseDestinations([]string{bad}); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}
