package resource

import (
	"net/netip"
	"strings"
)

// Ingress is from where events may be published to a topic. The zero one lets
// publishers in from anywhere.
type Ingress struct {
	Closed  bool     `json:"closed,omitempty"`  // from nowhere
	Allowed []string `json:"allowed,omitempty"` // networks, as they were given; none = anywhere
}

// MaxInboundIPRules bounds Ingress.Allowed.
const MaxInboundIPRules = 128

// ParseNetwork reads a network in CIDR notation, or one address.
func ParseNetwork(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Prefix{}, err
		}
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// Networks returns the networks that publishers may be in: nil for any, empty for
// none. One that cannot be read holds nobody.
func (in *Ingress) Networks() []netip.Prefix {
	if !in.Closed && len(in.Allowed) == 0 {
		return nil
	}
	networks := []netip.Prefix{}
	if in.Closed {
		return networks
	}
	for _, text := range in.Allowed {
		if n, err := ParseNetwork(text); err == nil {
			networks = append(networks, n)
		}
	}
	return networks
}
