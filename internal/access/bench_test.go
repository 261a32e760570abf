package access

import (
	"fmt"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

// A request with a known token: what every management call pays.
func BenchmarkValidate(b *testing.B) {
	w := newWorld(b)
	token := w.token(b, w.ownerCaller(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.tokens.Validate(b.Context(), token, w.tokens.management); err != nil {
			b.Fatal(err)
		}
	}
}

// A decision for a caller with one assignment among many of others.
func BenchmarkAllowed(b *testing.B) {
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			w := newWorld(b)
			for i := range others {
				w.grant(b, Caller{ObjectID: fmt.Sprintf("c1000000-0000-0000-0000-%012d", i)}, "Reader", testGroup)
			}
			c := w.principal(b, "c")
			w.grant(b, c, "EventGrid Contributor", testGroup)
			topic := resource.MustID(testTopic)
			b.ReportAllocs()
			for b.Loop() {
				if !w.strict.Allowed(c, "Microsoft.EventGrid/topics/write", topic) {
					b.Fatal("refused")
				}
			}
		})
	}
}
