package egress

import "net/netip"

// addressRange is one range that is refused by default.
type addressRange struct {
	prefix netip.Prefix
	name   string
}

// refused are the ranges that no public handler has, in the order they are
// looked through; narrower ones come first.
// Source: spec/delivery.md section 9.5 rule 3; IANA special-purpose address registries.
var refused = parseRanges([][2]string{
	{"0.0.0.0/8", "the range for \"this network\""},
	{"10.0.0.0/8", "the private network"},
	{"100.64.0.0/10", "the shared address space of carriers"},
	{"127.0.0.0/8", "the loopback network"},
	{"169.254.0.0/16", "the link-local network"},
	{"172.16.0.0/12", "the private network"},
	{"192.0.0.0/24", "the range for protocol assignments"},
	{"192.0.2.0/24", "the range for documentation"},
	{"192.88.99.0/24", "the range for 6to4 relays"},
	{"192.168.0.0/16", "the private network"},
	{"198.18.0.0/15", "the range for benchmarks"},
	{"198.51.100.0/24", "the range for documentation"},
	{"203.0.113.0/24", "the range for documentation"},
	{"224.0.0.0/4", "the multicast range"},
	{"240.0.0.0/4", "the reserved range"}, // and broadcast
	{"::1/128", "the loopback network"},
	{"::/96", "the range for unspecified and IPv4-compatible addresses"},
	{"::ffff:0:0:0/96", "the range for IPv4-translated addresses"},
	{"64:ff9b::/96", "the NAT64 range"},
	{"64:ff9b:1::/48", "the local NAT64 range"},
	{"100::/64", "the discard range"},
	{"2001::/23", "the range for protocol assignments"}, // and Teredo
	{"2001:db8::/32", "the range for documentation"},
	{"3fff::/20", "the range for documentation"},
	{"5f00::/16", "the range for segment routing"},
	{"fc00::/7", "the private network"},
	{"fe80::/10", "the link-local network"},
	{"fec0::/10", "the site-local network"},
	{"ff00::/8", "the multicast range"},
})

// sixToFour addresses hold an IPv4 address, which decides.
var sixToFour = netip.MustParsePrefix("2002::/16")

// nat64 addresses hold an IPv4 address too; they are refused as a range, but may
// be allowed, and then must not lead to a metadata service.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// metadata are the addresses at which clouds give their machines credentials.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // most clouds
	netip.MustParseAddr("169.254.170.2"),   // task credentials of ECS
	netip.MustParseAddr("168.63.129.16"),   // Azure's host agent, a public address
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("fd00:ec2::254"),   // AWS over IPv6
}

func parseRanges(list [][2]string) []addressRange {
	out := make([]addressRange, len(list))
	for i, r := range list {
		out[i] = addressRange{netip.MustParsePrefix(r[0]), r[1]}
	}
	return out
}

// specialRange returns the refused range that ip is in. ip is unmapped.
func specialRange(ip netip.Addr) (addressRange, bool) {
	if sixToFour.Contains(ip) {
		if _, bad := specialRange(embedded(ip, 2)); bad {
			return addressRange{sixToFour, "the 6to4 range of a special network,"}, true
		}
		return addressRange{}, false
	}
	for _, r := range refused {
		if r.prefix.Contains(ip) {
			return r, true
		}
	}
	return addressRange{}, false
}

func isMetadata(ip netip.Addr) bool {
	switch {
	case sixToFour.Contains(ip):
		ip = embedded(ip, 2)
	case nat64.Contains(ip):
		ip = embedded(ip, 12)
	}
	for _, m := range metadata {
		if ip == m {
			return true
		}
	}
	return false
}

// embedded returns the IPv4 address that begins at a byte of an IPv6 one.
func embedded(ip netip.Addr, at int) netip.Addr {
	raw := ip.As16()
	return netip.AddrFrom4([4]byte(raw[at : at+4]))
}
