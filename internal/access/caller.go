package access

import (
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// PrincipalType is the kind of a principal.
type PrincipalType string

// The principal types. Source: spec/access.md section 1.
const (
	User             PrincipalType = "User"
	ServicePrincipal PrincipalType = "ServicePrincipal"
	Group            PrincipalType = "Group"
)

// Caller is who a request comes from, as a token proved it. The zero Caller is
// nobody and may do nothing.
type Caller struct {
	ObjectID string // GUID of the principal, lower case
	TenantID string
	AppID    string // client id of an application
	Name     string
	Type     PrincipalType
	Groups   []string // object ids of the groups the principal is in, nested ones included
	Issuer   string   // of a foreign token; "" for one of this server
	TokenID  string   // the token's unique id, for the audit log
}

// Label is how messages name the caller: a user by name, an application by its
// client id. Source: spec/access.md section 11.
func (c Caller) Label() string {
	if c.Type == User || c.AppID == "" {
		return c.Name
	}
	return c.AppID
}

// Stamp returns the record of the caller having done something at a time. An
// application signs with its client id, a user with its name.
// Source: spec/management.md section 6, "systemData".
func (c Caller) Stamp(at time.Time) resource.Stamp {
	kind := "Application"
	if c.Type == User {
		kind = "User"
	}
	return resource.Stamp{By: c.Label(), Kind: kind, At: at}
}

// Identity returns the caller as records of requests name it.
func (c Caller) Identity() telemetry.Identity {
	return telemetry.Identity{ObjectID: c.ObjectID, Type: string(c.Type), Name: c.Name, AppID: c.AppID, TokenID: c.TokenID}
}

// ids returns the object ids whose assignments count for the caller.
func (c Caller) ids() []string {
	if c.ObjectID == "" {
		return nil
	}
	ids := make([]string, 0, 1+len(c.Groups))
	ids = append(ids, strings.ToLower(c.ObjectID))
	for _, g := range c.Groups {
		ids = append(ids, strings.ToLower(g))
	}
	return ids
}
