package arm

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// maxAuditRead bounds how many records one page looks at: a page may hold fewer than it
// could, and a nextLink all the same.
const maxAuditRead = 20_000

// auditBody is a record of the audit log on the wire; this API is Carillon's own.
type auditBody struct {
	ID         string          `json:"id"`
	Name       string          `json:"name"` // the number
	Type       string          `json:"type"`
	Hash       string          `json:"hash"`       // SHA-256 of properties as they are stored: without space between members
	Properties json.RawMessage `json:"properties"` // an audit.Record
}

func auditOf(s audit.Stored) auditBody {
	name := strconv.FormatUint(s.Number, 10)
	return auditBody{
		ID: resource.Root.Extension("Carillon.Audit", "records", name).String(), Name: name,
		Type: "Carillon.Audit/records", Hash: s.Hash, Properties: s.Raw,
	}
}

// auditFilter says which records are wanted. What is not set asks for nothing.
type auditFilter struct {
	scope     resource.ID // what they are about, and below
	principal string      // object id, client id or name
	event     string
	from, to  time.Time
}

// auditFilterOf reads which records a request is about: those of its scope, and of them
// what the parameters resource, principal, event, from and to leave. from is included
// and to is not.
func auditFilterOf(r *request) (auditFilter, error) {
	f := auditFilter{scope: r.scope, principal: r.query.Get("principal"), event: r.query.Get("event")}
	var problems []*fault.Error
	if text := r.query.Get("resource"); text != "" {
		id, err := resource.ParseID(text)
		switch {
		case err != nil:
			problems = append(problems, fault.Field("resource", "The value '%.200s' of resource is not a resource id: %v.", text, err))
		case !r.scope.Contains(id):
			problems = append(problems, fault.Field("resource", "The resource '%s' does not lie in the scope '%s' that is listed.", id, r.scope))
		default:
			f.scope = id
		}
	}
	if f.event != "" && !slices.ContainsFunc(audit.Events, func(e audit.Event) bool { return strings.EqualFold(string(e), f.event) }) {
		problems = append(problems, fault.Field("event", "The event '%.60s' is not one of %s.", f.event, eventNames()))
	}
	var from, to *fault.Error
	f.from, from = r.time("from")
	f.to, to = r.time("to")
	return f, fault.Join(append(problems, from, to)...)
}

func eventNames() string {
	names := make([]string, len(audit.Events))
	for i, e := range audit.Events {
		names[i] = string(e)
	}
	return strings.Join(names, ", ")
}

func (f *auditFilter) wants(x audit.Stored) bool {
	if !f.scope.Equal(resource.Root) {
		id, err := resource.ParseID(x.Resource)
		if err != nil || !f.scope.Contains(id) {
			return false
		}
	}
	p := x.Principal
	return (f.event == "" || strings.EqualFold(f.event, string(x.Event))) &&
		(f.principal == "" || slices.ContainsFunc([]string{p.ObjectID, p.AppID, p.Name}, func(s string) bool { return strings.EqualFold(s, f.principal) })) &&
		(f.from.IsZero() || !x.Time.Before(f.from)) && (f.to.IsZero() || x.Time.Before(f.to))
}

// listAuditRecords lists records in the order they were stored.
func listAuditRecords(a *api, r *request) (answer, error) {
	f, unread := auditFilterOf(r)
	size, token, err := r.paging()
	if unread == nil {
		unread = err
	}
	after, err := strconv.ParseUint(token, 10, 64)
	if err != nil && token != "" && unread == nil {
		unread = fault.Field("$skipToken", "The $skipToken is not one that this server made: follow nextLink unchanged.")
	}
	records, err := a.Plane.AuditRecords(r.ctx, r.caller, r.scope, after)
	if err != nil {
		return answer{}, err
	}
	if unread != nil {
		return answer{}, unread
	}
	out := page{Value: []any{}}
	read := 0
	for x, err := range records {
		if err != nil {
			return answer{}, err
		}
		if len(out.Value) == size || read == maxAuditRead {
			out.NextLink = a.nextLink(r, strconv.FormatUint(after, 10))
			break
		}
		read++
		after = x.Place
		if f.wants(x) {
			out.Value = append(out.Value, auditOf(x))
		}
	}
	return ok(out), nil
}
