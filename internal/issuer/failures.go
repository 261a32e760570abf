package issuer

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits on failed attempts. The count of one application is kept per address, so
// that a stranger cannot lock an application out, and the one of an address is
// wider, because many applications can share it.
// Source: spec/access.md section 14.2.
const (
	failureWindow         = time.Minute
	failuresPerClient     = 10
	failuresPerAddress    = 100
	failuresPerUser       = 100 // from everywhere: who guesses from many addresses
	failuresRemembered    = 10_000
	addressBitsV6Together = 64 // one subscriber's
)

// failures counts failed attempts within a window that begins with the first.
type failures struct {
	perClient, perAddress int // how many are too many; 0 for no limit

	mu     sync.Mutex
	counts map[attempt]*count
}

// attempt is who failed: an address, or an application from an address.
type attempt struct {
	address netip.Addr
	client  string
}

type count struct {
	since time.Time
	n     int
}

// wait returns how long an address must wait before it may try again for a client,
// 0 when it need not.
func (f *failures) wait(address netip.Addr, client string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	var wait time.Duration
	for key, most := range f.limits(address, client) {
		if c := f.counts[key]; c != nil && c.n >= most {
			wait = max(wait, c.since.Add(failureWindow).Sub(now))
		}
	}
	return wait
}

// add counts one failure.
func (f *failures) add(address netip.Addr, client string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.counts == nil || len(f.counts) >= failuresRemembered {
		f.forget(now)
	}
	for key := range f.limits(address, client) {
		c := f.counts[key]
		if c == nil || now.Sub(c.since) >= failureWindow {
			c = &count{since: now}
			f.counts[key] = c
		}
		c.n++
	}
}

// forget drops the windows that are over, and all of them when that is not enough:
// memory stays bounded whoever knocks.
func (f *failures) forget(now time.Time) {
	for key, c := range f.counts {
		if now.Sub(c.since) >= failureWindow {
			delete(f.counts, key)
		}
	}
	if f.counts == nil || len(f.counts) >= failuresRemembered {
		f.counts = map[attempt]*count{}
	}
}

// forgive takes back one failure that turned out to be none.
func (f *failures) forgive(address netip.Addr, client string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.limits(address, client) {
		if c := f.counts[key]; c != nil && c.n > 0 {
			c.n--
		}
	}
}

func (f *failures) limits(address netip.Addr, client string) map[attempt]int {
	limits := map[attempt]int{}
	if f.perAddress > 0 {
		limits[attempt{address: address}] = f.perAddress
	}
	if f.perClient > 0 {
		limits[attempt{address: address, client: client}] = f.perClient
	}
	return limits
}

// addressOf returns the address of a request's peer; IPv6 addresses of one network
// count as one.
func addressOf(remote string) netip.Addr {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(addressBitsV6Together); err == nil {
			a = p.Addr()
		}
	}
	return a
}
