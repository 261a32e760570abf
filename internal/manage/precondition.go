package manage

import (
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// Precondition holds the values of If-Match and If-None-Match of a request, ""
// where it had none. Source: spec/management.md section 8.4.
type Precondition struct {
	IfMatch     string
	IfNoneMatch string
}

// Check compares the precondition with the entity tag (without quotes) of what
// exists; etag is "" when nothing does.
func (c Precondition) Check(etag string) error {
	if c.IfMatch != "" && !tagListed(c.IfMatch, etag) {
		if etag == "" {
			return fault.New(fault.PreconditionFailed, "PreconditionFailed", "The request wants an existing resource (If-Match: %s), and there is none.", c.IfMatch)
		}
		return fault.New(fault.PreconditionFailed, "PreconditionFailed",
			"The resource has changed: its etag is \"%s\", the request has If-Match: %s. Read it again and repeat the change.", etag, c.IfMatch)
	}
	if c.IfNoneMatch != "" && tagListed(c.IfNoneMatch, etag) {
		return fault.New(fault.PreconditionFailed, "PreconditionFailed",
			"The resource exists with etag \"%s\", the request has If-None-Match: %s.", etag, c.IfNoneMatch)
	}
	return nil
}

// tagListed reports whether a header's list of entity tags names etag.
func tagListed(header, etag string) bool {
	if etag == "" {
		return false
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || strings.Trim(strings.TrimPrefix(tag, "W/"), `"`) == etag {
			return true
		}
	}
	return false
}
