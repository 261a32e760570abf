package manage

import (
	"cmp"
	"errors"
	"strconv"
	"strings"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// LimitsChange is what a request says of the limits of deliveries. Nil leaves a limit
// as it is, on PUT as well: a tool that does not know limits takes none away. 0 does.
type LimitsChange struct {
	MaxRequestsPerMinute *int
	MaxConcurrency       *int
}

// limits returns the limits after a request.
func (v *checker) limits(present resource.DeliveryLimits, c *LimitsChange) resource.DeliveryLimits {
	if c == nil {
		return present
	}
	for _, l := range []struct {
		name  string
		asked *int
		most  int
		zero  string
		limit *int
	}{
		{"maxRequestsPerMinute", c.MaxRequestsPerMinute, resource.MaxRequestsPerMinute, "no limit", &present.MaxRequestsPerMinute},
		{"maxConcurrency", c.MaxConcurrency, resource.MaxConcurrency, "the default, " + strconv.Itoa(resource.DefaultConcurrency), &present.MaxConcurrency},
	} {
		switch {
		case l.asked == nil:
		case *l.asked < 0 || *l.asked > l.most:
			v.field("deliveryLimits."+l.name, "The value %d of %s is out of range: use 1 to %d, or 0 for %s.", *l.asked, l.name, l.most, l.zero)
		default:
			*l.limit = *l.asked
		}
	}
	return present
}

// askedRate is how many requests per minute a handshake asks for. Only the CloudEvents
// handshake asks; for the others it is 0, any number.
// Source: spec/delivery.md section 1.4.
func askedRate(s *resource.Settings) int {
	if s.DeliverySchema != event.CloudEventSchemaV1_0 {
		return 0
	}
	return cmp.Or(s.Limits.MaxRequestsPerMinute, handshakeRate)
}

// readRate reads the value of WebHook-Allowed-Rate: a number of requests per minute,
// or "*" for any, which is 0 here.
func readRate(value string) (perMinute int, ok bool) {
	value = strings.TrimSpace(value)
	if value == "*" {
		return 0, true
	}
	n, err := strconv.ParseUint(value, 10, 64) // the largest number when it is out of range
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return int(min(n, resource.MaxRequestsPerMinute)), n > 0
}

// answeredRate is the rate that an endpoint allows by its answer to OPTIONS. One that
// allows our origin and says nothing of a rate sets no limit, as Event Grid takes it;
// what cannot be read allows what was asked for.
// Source: spec/delivery.md section 1.4.
func answeredRate(value string, asked int) int {
	if value == "" {
		return 0
	}
	if n, ok := readRate(value); ok {
		return n
	}
	return asked
}

// calledBackRate is the rate that a call of the validation link allows: without a
// value the one that was asked for. Source: spec/delivery.md section 1.4.
func calledBackRate(value string, asked int) (int, error) {
	if value == "" || asked == 0 {
		return asked, nil
	}
	n, ok := readRate(value)
	if !ok {
		return 0, fault.New(fault.Invalid, "InvalidRequest", "The WebHook-Allowed-Rate '%.40s' is neither a whole number of requests per minute above 0 nor *. Open the link again with one of them, or without the header for %d.", value, asked)
	}
	return n, nil
}

// withAllowedRate is d with the rate that its endpoint allowed. The webhook of d is
// left as it is: others may read it.
func withAllowedRate(d resource.Destination, perMinute int) resource.Destination {
	if d.WebHook != nil && d.WebHook.AllowedRate != perMinute {
		hook := *d.WebHook
		hook.AllowedRate = perMinute
		d.WebHook = &hook
	}
	return d
}
