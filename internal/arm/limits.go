package arm

import (
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// limitsBody shows what the requests to a destination are kept to. This member is
// Carillon's own; it is absent where there is no limit.
type limitsBody struct {
	MaxRequestsPerMinute int `json:"maxRequestsPerMinute,omitempty"`
	MaxConcurrency       int `json:"maxConcurrency,omitempty"`
	// AllowedRequestsPerMinute is what the endpoint allowed in its handshake. It is
	// shown and not read.
	AllowedRequestsPerMinute int `json:"allowedRequestsPerMinute,omitempty"`
}

func limitsOf(s *resource.Settings) *limitsBody {
	b := limitsBody{MaxRequestsPerMinute: s.Limits.MaxRequestsPerMinute, MaxConcurrency: s.Limits.MaxConcurrency}
	if hook := s.Destination.WebHook; hook != nil {
		b.AllowedRequestsPerMinute = hook.AllowedRate
	}
	if b == (limitsBody{}) {
		return nil
	}
	return &b
}

// limitsChange reads the limits, nil when they are absent: clients that do not know
// them leave them as they are.
func limitsChange(p fields) *manage.LimitsChange {
	f, given := p.object("deliveryLimits")
	if !given {
		return nil
	}
	return &manage.LimitsChange{MaxRequestsPerMinute: f.integer("maxRequestsPerMinute"), MaxConcurrency: f.integer("maxConcurrency")}
}
