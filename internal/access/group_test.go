package access

import (
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Who is put into a group has its roles with the next request, and who is taken out has
// not: directly, nested, and with a token that was made before.
func TestGroupMembers(t *testing.T) {
	w := newWorld(t)
	by, c := w.ownerCaller(t), w.principal(t, "member")
	outer, err := w.directory.CreateGroup(t.Context(), "outer", by)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := w.directory.CreateGroup(t.Context(), "inner", by)
	if err != nil {
		t.Fatal(err)
	}
	w.grant(t, Caller{ObjectID: outer.ObjectID}, "Reader", testGroup)
	token := w.token(t, c)
	reads := func() bool {
		t.Helper()
		caller, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
		if err != nil {
			t.Fatal(err)
		}
		return w.strict.Allowed(caller, "Microsoft.EventGrid/topics/read", resource.MustID(testTopic))
	}
	for _, tt := range []struct {
		group, member string
		in            bool
		changed, want bool
	}{
		{inner.ObjectID, c.ObjectID, true, true, false},
		{outer.ObjectID, inner.ObjectID, true, true, true},
		{outer.ObjectID, inner.ObjectID, true, false, true},
		{inner.ObjectID, c.ObjectID, false, true, false},
		{outer.ObjectID, c.ObjectID, true, true, true},
		{outer.ObjectID, c.ObjectID, false, true, false},
		{outer.ObjectID, c.ObjectID, false, false, false},
		{outer.ObjectID, uuid.NewString(), true, true, false},
	} {
		_, changed, err := w.directory.SetMember(t.Context(), tt.group, tt.member, tt.in)
		if err != nil || changed != tt.changed || reads() != tt.want {
			t.Errorf("%+v: changed %v, reads %v, %v", tt, changed, reads(), err)
		}
	}
	_, _, err = w.directory.SetMember(t.Context(), c.ObjectID, inner.ObjectID, true)
	wantFault(t, err, fault.Invalid, "InvalidRequest")
	_, _, err = w.directory.SetMember(t.Context(), inner.ObjectID, inner.ObjectID, true)
	wantFault(t, err, fault.Invalid, "InvalidRequest")
	_, _, err = w.directory.SetMember(t.Context(), inner.ObjectID, "ci", true)
	wantFault(t, err, fault.Invalid, "InvalidRequest")
	_, _, err = w.directory.SetMember(t.Context(), uuid.NewString(), c.ObjectID, true)
	wantFault(t, err, fault.NotFound, "PrincipalNotFound")
	_, err = w.directory.CreateGroup(t.Context(), "INNER", by)
	wantFault(t, err, fault.Conflict, "PrincipalExists")
}
