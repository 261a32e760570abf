package resource

import (
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// Kinds of delivery attributes. Source: spec/delivery.md section 6.
const (
	AttributeStatic  = "Static"
	AttributeDynamic = "Dynamic"
)

// Limits of delivery attributes. Event Grid documents number and value; the length
// of a name is ours. Source: spec/delivery.md section 6.
const (
	MaxDeliveryAttributes     = 10
	MaxDeliveryAttributeValue = 4096 // bytes
	MaxDeliveryAttributeName  = 256  // bytes
)

// DeliveryAttribute is a header of one's own on every delivery of an event
// subscription: the same text each time, or what a field of the event holds.
type DeliveryAttribute struct {
	Name        string `json:"name"`
	Type        string `json:"type"`                  // AttributeStatic or AttributeDynamic
	Value       string `json:"value,omitempty"`       // of a static one that is not secret
	SealedValue string `json:"sealedValue,omitempty"` // of a secret static one, sealed with AttributeOwner as associated data
	SourceField string `json:"sourceField,omitempty"` // of a dynamic one: the path of a field of the event, as filters name it
}

// Secret reports whether the value is one that is not shown.
func (a *DeliveryAttribute) Secret() bool { return a.SealedValue != "" }

// AttributeOwner is the associated data that the secret value of a delivery
// attribute is sealed with.
func (es *EventSubscription) AttributeOwner(name string) string {
	return es.UID.String() + "/deliveryAttributes/" + strings.ToLower(name)
}

// CheckAttributeName returns what is wrong with the name of a delivery attribute,
// nil if nothing is. Source: spec/delivery.md section 6; RFC 9110 section 5.6.2.
func CheckAttributeName(target, name string) *fault.Error {
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return fault.Field(target, "A delivery attribute needs a name: that of the header, for example X-Team.")
	case len(name) > MaxDeliveryAttributeName:
		return fault.Field(target, "The name of a delivery attribute has %d bytes; at most %d are allowed.", len(name), MaxDeliveryAttributeName)
	case strings.ContainsFunc(name, func(r rune) bool { return !isTokenRune(r) }):
		return fault.Field(target, "The name '%s' of a delivery attribute is not one of a header: use letters, digits and '-'.", name)
	case strings.HasPrefix(lower, "aeg-"):
		return fault.Field(target, "The name '%s' of a delivery attribute begins with aeg-, which is kept for the system: use another one, for example X-%s.", name, name[len("aeg-"):])
	case strings.HasPrefix(lower, "carillon-"):
		return fault.Field(target, "The name '%s' of a delivery attribute begins with carillon-, which is kept for the system: use another one.", name)
	case reservedHeader(lower):
		return fault.Field(target, "The header %s belongs to the request itself and cannot be a delivery attribute: use a name of your own, for example X-%s.", name, name)
	}
	return nil
}

// isTokenRune reports whether a header's name may hold r.
func isTokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// reservedHeader reports whether a header is the request's own: what frames the
// message, what a proxy acts on, and what tells of delivery and consent.
func reservedHeader(lower string) bool {
	switch lower {
	case "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive",
		"te", "trailer", "upgrade", "expect", "cookie", "origin":
		return true
	}
	return strings.HasPrefix(lower, "proxy-") || strings.HasPrefix(lower, "webhook-")
}

// HeaderValue reports whether a text can be the value of a header as it stands:
// printable ASCII that neither begins nor ends with a blank.
func HeaderValue(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return strings.TrimSpace(text) == text
}
