package manage

import (
	"context"
	"iter"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/resource"
)

const actionAudit = "Carillon.Audit/records/read"

// AuditRecords returns the records of the audit log about a scope and what lies below
// it, oldest first, from behind a place on.
func (p *Plane) AuditRecords(ctx context.Context, caller access.Caller, scope resource.ID, after uint64) (iter.Seq2[audit.Stored, error], error) {
	if err := p.authorize(ctx, caller, actionAudit, scope); err != nil {
		return nil, err
	}
	return p.Audit.Records(ctx, after), nil
}
