package access

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
)

// maxMembers is the most principals that one group names.
const maxMembers = 5000

// CreateGroup makes a group without members. It signs in nowhere: the roles that are
// assigned to it count for its members.
func (d *Directory) CreateGroup(ctx context.Context, name string, by Caller) (Principal, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	if err := d.checkNewName(name); err != nil {
		return Principal{}, err
	}
	now := time.Now().UTC()
	p := Principal{
		ObjectID: uuid.NewString(), TenantID: d.TenantID(), Name: name, Type: Group,
		Enabled: true, ValidFrom: now.Truncate(time.Second), Created: by.Stamp(now),
	}
	_, err := d.principals.Create(ctx, p.ObjectID, p)
	return p, err
}

// SetMember puts a principal into a group or takes it out, and reports whether that
// changed anything. A member need not be in the directory: a foreign issuer may know it.
func (d *Directory) SetMember(ctx context.Context, group, member string, in bool) (p Principal, changed bool, err error) {
	id, err := uuid.Parse(member)
	if err != nil || len(member) != 36 {
		return p, false, fault.Field("member", "The member %q must be an object id, a GUID.", member)
	}
	member = id.String()
	p, err = d.changePrincipal(ctx, group, func(p *Principal) error {
		switch at := slices.Index(p.Members, member); {
		case p.Type != Group:
			return fault.New(fault.Invalid, "InvalidRequest", "Principal %q is a %s; only groups have members.", p.Name, p.Type)
		case member == p.ObjectID:
			return fault.Field("member", "A group cannot be a member of itself.")
		case (at >= 0) == in:
			return errUnchanged
		case !in:
			p.Members = slices.Delete(slices.Clone(p.Members), at, at+1)
		case len(p.Members) >= maxMembers:
			return fault.New(fault.Conflict, "GroupIsFull", "The group %q has %d members, the most there can be. Put groups into it instead.", p.Name, maxMembers)
		default:
			p.Members = append(slices.Clone(p.Members), member)
		}
		return nil
	})
	if err == errUnchanged { //nolint:errorlint // it is never wrapped
		p, _ = d.Principal(group)
		return p, false, nil
	}
	return p, err == nil, err
}

// errUnchanged says that a principal is as it should be.
var errUnchanged = fault.New(fault.Conflict, "Unchanged", "Nothing changes.")

// checkNewName returns why a principal cannot have a name. It needs changes.
func (d *Directory) checkNewName(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	for _, other := range d.Principals() {
		if strings.EqualFold(other.Name, name) {
			return fault.New(fault.Conflict, "PrincipalExists",
				"There is a principal named %q already, with object id %s. Choose another name or delete that one.", other.Name, other.ObjectID)
		}
	}
	return nil
}
