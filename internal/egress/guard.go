// Package egress is the only way out: every outbound connection of Carillon is
// dialled here. It hides which addresses may be reached and when that is decided.
//
// Rules:
//   - The decision is made on the address that is about to be connected, after
//     the name was resolved, on every dial. What a name resolved to before does
//     not matter, so rebinding DNS gains nothing.
//   - Private, link-local and other special ranges are refused unless the
//     operator allowed them; nobody else can. Metadata services of clouds and our
//     own listeners are refused always.
//   - Without TLS only loopback and networks that the operator allowed are
//     reached, and loopback only where [Options] say so.
//   - No proxy is used and no redirect is followed.
//
// It does not judge what is sent, nor limit how often.
//
// Source: spec/delivery.md section 9.5.
package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say what a Guard lets through beyond public addresses.
type Options struct {
	AllowLoopback bool                    // 127.0.0.0/8 and ::1, also without TLS
	Allow         []netip.Prefix          // networks the operator allowed, also without TLS
	AllowHosts    []string                // host names the operator allowed, with everything below them, whatever they resolve to
	Own           func() []netip.AddrPort // addresses we listen on, never a destination; nil for none
	RootCAs       *x509.CertPool          // trusted for TLS; nil for the system's, see Roots
}

// Guard dials out. It is safe for concurrent use.
type Guard struct {
	loopback bool
	allow    []netip.Prefix
	hosts    []string
	own      func() []netip.AddrPort
	roots    *x509.CertPool
	resolver *net.Resolver // nil for the system's; a test has its own
}

// New returns a Guard with the given options.
func New(o Options) *Guard {
	g := &Guard{loopback: o.AllowLoopback, own: o.Own, roots: o.RootCAs}
	for _, p := range o.Allow {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		g.allow = append(g.allow, p.Masked())
	}
	for _, h := range o.AllowHosts {
		if h = plainHost(strings.TrimPrefix(strings.TrimPrefix(h, "*"), ".")); h != "" {
			g.hosts = append(g.hosts, h)
		}
	}
	return g
}

// ParseDestinations reads the operator's list of allowed destinations: networks
// ("10.0.0.0/8"), addresses ("10.1.2.3"), and host names that stand for
// themselves and everything below them ("corp.example").
func ParseDestinations(list []string) (networks []netip.Prefix, hosts []string, err error) {
	for _, item := range list {
		item = strings.TrimSpace(item)
		if p, err := netip.ParsePrefix(item); err == nil {
			networks = append(networks, p)
			continue
		}
		if a, err := netip.ParseAddr(item); err == nil {
			networks = append(networks, netip.PrefixFrom(a.WithZone(""), a.BitLen()))
			continue
		}
		if item == "" || strings.ContainsAny(item, "/:@?# ") || !strings.ContainsFunc(item, isLetter) {
			return nil, nil, fmt.Errorf("allowed destination %q is not a network (10.0.0.0/8), an address or a host name (corp.example)", item)
		}
		hosts = append(hosts, item)
	}
	return networks, hosts, nil
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// RefusedError says that a destination may not be reached. Its text is fit for
// whoever named the destination: it holds no path and no query. It seldom has more
// than the 200 bytes that are kept of a failed attempt.
type RefusedError struct {
	Destination string // host and port; for a name, with the address that was about to be connected
	Reason      string // such as "is in the private network 10.0.0.0/8"
	Remedy      string // the network or host that the operator could allow; "" when nothing helps
}

// Error returns what is refused, why, and which flag of the server allows it.
func (e *RefusedError) Error() string {
	text := "destination " + e.Destination + " is refused: it " + e.Reason
	if e.Remedy != "" {
		text += "; serve --allow-destination " + e.Remedy + " allows it"
	}
	return text
}

// DialError says that a destination, which may be reached, could not be.
type DialError struct {
	Destination string // host and port
	Err         error
}

func (e *DialError) Error() string { return "connect to " + e.Destination + ": " + e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// Timeout reports whether time ran out, for whoever asks a net.Error.
func (e *DialError) Timeout() bool {
	of, is := errors.AsType[net.Error](e.Err)
	return is && of.Timeout()
}

// CheckURL tells whether a URL could be a destination, so that whoever names it
// hears of a mistake at once: https on any port, http only to loopback and
// allowed networks, no user information, no fragment. It resolves no names:
// the dial decides. The error is a *RefusedError when the address is the reason.
func (g *Guard) CheckURL(u *url.URL) error {
	host := plainHost(u.Hostname())
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("the URL must start with https:// (http:// only for loopback and networks that the operator allowed)")
	case host == "":
		return fmt.Errorf("the URL has no host")
	case strings.ContainsFunc(host, func(r rune) bool { return r > '~' }):
		return fmt.Errorf("the host of the URL must be written in ASCII (xn--…)")
	case u.User != nil:
		return fmt.Errorf("the URL must not hold user information before the host")
	case u.Fragment != "" || u.RawFragment != "":
		return fmt.Errorf("the URL must not have a fragment (#)")
	case strings.ContainsFunc(u.RawQuery, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("the query of the URL must be percent-encoded")
	}
	port, err := portOf(u)
	if err != nil {
		return err
	}
	cleartext := u.Scheme == "http"
	destination := shown(net.JoinHostPort(host, strconv.Itoa(int(port))))
	named := g.hostAllowed(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		return g.decide(netip.AddrPortFrom(ip, port), destination, named, cleartext)
	}
	if isLocalhost(host) {
		return g.decide(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), destination, named, cleartext)
	}
	if cleartext && !named && len(g.allow) == 0 {
		refused := &RefusedError{Destination: destination, Reason: clearReason}
		if _, _, err := ParseDestinations([]string{host}); err == nil {
			refused.Remedy = host
		}
		return refused
	}
	return nil
}

const clearReason = "is reached without TLS, which is for loopback and allowed networks: use https://"

func portOf(u *url.URL) (uint16, error) {
	text := u.Port()
	if text == "" {
		if u.Scheme == "http" {
			return 80, nil
		}
		return 443, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("the port %q of the URL is not between 1 and 65535", text)
	}
	return uint16(n), nil
}

// DialTimeout bounds one dial, name look-up included.
const DialTimeout = 10 * time.Second

// DialContext connects to addr (host:port) over TCP when the guard lets it. What
// it returns is a bare connection: TLS is the caller's part, and a caller that
// goes without must use DialClear.
func (g *Guard) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dial(ctx, network, addr, false)
}

// DialClear is DialContext for a connection that stays without TLS.
func (g *Guard) DialClear(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dial(ctx, network, addr, true)
}

func (g *Guard) dial(ctx context.Context, network, addr string, cleartext bool) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, &RefusedError{Destination: shown(addr), Reason: "is not reached over TCP"}
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	named := g.hostAllowed(plainHost(host))
	destination := shown(addr)
	_, err = netip.ParseAddr(host)
	byName := err != nil
	d := net.Dialer{
		Timeout:   DialTimeout,
		KeepAlive: 30 * time.Second,
		Resolver:  g.resolver,
		Control: func(_, connecting string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(connecting)
			if err != nil {
				return &RefusedError{Destination: destination, Reason: "has no address and port"}
			}
			at := destination
			if byName {
				at += " (" + to.Addr().Unmap().String() + ")"
			}
			return g.decide(to, at, named, cleartext)
		},
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		if refused, is := errors.AsType[*RefusedError](err); is {
			return nil, refused
		}
		return nil, &DialError{Destination: destination, Err: err}
	}
	return conn, nil
}

// shown is a host and a port as errors show them: of a very long name the end, so that
// there is place for the reason.
func shown(hostPort string) string {
	const most = 60
	if len(hostPort) <= most {
		return hostPort
	}
	return "…" + hostPort[len(hostPort)-most:]
}

// decide is the whole rule, for an address that is about to be connected.
func (g *Guard) decide(to netip.AddrPort, destination string, named, cleartext bool) error {
	ip := to.Addr().Unmap().WithZone("")
	if g.isOwn(ip, to.Port()) {
		return &RefusedError{Destination: destination, Reason: "is this server itself"}
	}
	if isMetadata(ip) {
		return &RefusedError{Destination: destination, Reason: "is a cloud's metadata service"}
	}
	if named || slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return nil
	}
	if ip.IsLoopback() && g.loopback {
		return nil
	}
	if r, ok := specialRange(ip); ok {
		return &RefusedError{Destination: destination, Reason: "is in " + r.name + " " + r.prefix.String(), Remedy: r.prefix.String()}
	}
	if cleartext {
		return &RefusedError{Destination: destination, Reason: clearReason, Remedy: ip.String()}
	}
	return nil
}

// isOwn tells whether we listen there ourselves. A listener on all addresses is
// met through any address of this machine.
func (g *Guard) isOwn(ip netip.Addr, port uint16) bool {
	if g.own == nil {
		return false
	}
	for _, own := range g.own() {
		if own.Port() != port {
			continue
		}
		at := own.Addr().Unmap().WithZone("")
		switch {
		case at == ip, ip.IsUnspecified(): // connecting to 0.0.0.0 reaches this machine
			return true
		case at.IsUnspecified() && (ip.IsLoopback() || isInterface(ip)):
			return true
		}
	}
	return false
}

func isInterface(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // cannot tell: the careful answer
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		at, ok := netip.AddrFromSlice(n.IP)
		return ok && at.Unmap() == ip
	})
}

func (g *Guard) hostAllowed(host string) bool {
	return slices.ContainsFunc(g.hosts, func(allowed string) bool {
		return host == allowed || strings.HasSuffix(host, "."+allowed)
	})
}

func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// plainHost brings a host name to the form in which names are compared.
func plainHost(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }
