package ingest

import (
	"net/http"
	"net/netip"

	"github.com/carillon-events/carillon/internal/fault"
)

// admit refuses a request from a network that the topic takes nothing from. The
// address is that of the connection, or what a trusted proxy says of it.
// Source: spec/access.md section 13.
func admit(r *http.Request, topic *Topic) error {
	if topic.From == nil {
		return nil
	}
	if len(topic.From) == 0 {
		return fault.New(fault.Forbidden, codeForbidden, "Public network access to this %s is off (publicNetworkAccess is Disabled), and there is no other: set it to Enabled, with inboundIpRules for the networks that may publish.", topic.noun())
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	from := peer.Addr().Unmap().WithZone("")
	if err == nil {
		for _, network := range topic.From {
			if network.Contains(from) {
				return nil
			}
		}
	}
	return fault.New(fault.Forbidden, codeForbidden, "This %s takes no events from the address %s: none of its inboundIpRules holds it.", topic.noun(), from)
}
