package resource

// DeliveryLimits are what an event subscription's requests to its destination are
// kept to. They count requests, whatever each of them holds: a batch is one.
type DeliveryLimits struct {
	MaxRequestsPerMinute int `json:"maxRequestsPerMinute,omitempty"` // 1 to MaxRequestsPerMinute; 0 = no limit
	MaxConcurrency       int `json:"maxConcurrency,omitempty"`       // 1 to MaxConcurrency; 0 = DefaultConcurrency
}

// Bounds of DeliveryLimits. So many requests are more than one handler gets from a
// server.
const (
	MaxRequestsPerMinute = 6_000_000
	MaxConcurrency       = 128
	DefaultConcurrency   = 64
)

// RequestsPerMinute is how many requests the destination gets in any minute: what
// the event subscription is limited to or what the endpoint allowed in its handshake,
// whichever is less. 0 = as many as there are. allowed says which of the two it is.
func (es *EventSubscription) RequestsPerMinute() (n int, allowed bool) {
	n = es.Limits.MaxRequestsPerMinute
	if w := es.Destination.WebHook; w != nil && w.AllowedRate != 0 && (n == 0 || w.AllowedRate < n) {
		return w.AllowedRate, true
	}
	return n, false
}
