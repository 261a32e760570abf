package resource

import (
	"fmt"
	"testing"
)

func TestNetworks(t *testing.T) {
	for _, c := range []struct {
		in   Ingress
		want string
		any  bool
	}{
		{Ingress{}, "[]", true},
		{Ingress{Closed: true}, "[]", false},
		{Ingress{Closed: true, Allowed: []string{"10.0.0.0/8"}}, "[]", false},
		{Ingress{Allowed: []string{"10.1.2.3/8", "192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"}}, "[10.1.2.3/8 192.0.2.1/32 192.0.2.2/32 2001:db8::1/128]", false},
		{Ingress{Allowed: []string{"of a newer version"}}, "[]", false},
	} {
		got := c.in.Networks()
		if fmt.Sprint(got) != c.want || (got == nil) != c.any {
			t.Errorf("%v is %v, want %s, any %v", c.in, got, c.want, c.any)
		}
	}
}
