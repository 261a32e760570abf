package server

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"strings"
)

// behind makes requests that a trusted proxy forwards look as they looked to it: the
// address is that of the client, and one that came by https is one over TLS, which
// ended there. What other peers say of themselves in these headers counts for nothing.
type behind struct {
	proxies []netip.Prefix
	next    http.Handler
}

// throughProxies returns next behind the proxies; without any it is next itself.
func throughProxies(proxies []netip.Prefix, next http.Handler) http.Handler {
	if len(proxies) == 0 {
		return next
	}
	return &behind{proxies, next}
}

func (b *behind) trusts(peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	for _, p := range b.proxies {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// ServeHTTP answers one request. The lane and net/http make each request anew, so it
// is changed in place.
func (b *behind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && b.trusts(peer.Addr()) {
		if r.TLS == nil && !strings.EqualFold(last(r.Header.Values("X-Forwarded-Proto")), "http") {
			r.TLS = &tls.ConnectionState{}
		}
		r.RemoteAddr = netip.AddrPortFrom(b.client(peer.Addr(), r.Header.Values("X-Forwarded-For")), 0).String()
	}
	b.next.ServeHTTP(w, r)
}

// client returns the nearest address that is not a trusted proxy's. Each proxy adds
// its peer at the end, so what stands before that is hearsay.
func (b *behind) client(peer netip.Addr, forwarded []string) netip.Addr {
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop := strings.TrimSpace(hops[i])
		addr, err := netip.ParseAddr(strings.Trim(hop, "[]"))
		if with, withPort := netip.ParseAddrPort(hop); withPort == nil {
			addr, err = with.Addr(), nil
		}
		if err != nil {
			return peer
		}
		if peer = addr; !b.trusts(addr) {
			return peer
		}
	}
	return peer
}

func last(values []string) string {
	all := strings.Split(strings.Join(values, ","), ",")
	return strings.TrimSpace(all[len(all)-1])
}
