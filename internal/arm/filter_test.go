package arm

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

// TestRefusedFilterChangesNothing refuses updates of a living event subscription, in
// each form it can hang on a source. What is shown, its ETag, and what the broker
// delivers by, generation included, stay; an update that is taken afterwards counts
// as the first.
func TestRefusedFilterChangesNothing(t *testing.T) {
	const (
		version = "?api-version=2025-02-15"
		target  = `"target":"properties.filter.advancedFilters[1].values[0]"`
		bad     = `{"advancedFilters":[{"operatorType":"IsNotNull","key":"id"},{"operatorType":"NumberInRange","key":"data.n","values":[[2,1]]}]}`
		good    = `{"advancedFilters":[{"operatorType":"NumberInRange","key":"data.n","values":[[1,2]]}]}`
	)
	for _, tt := range []struct{ name, path string }{
		{"on a workspace", wsID + "/providers/Microsoft.EventGrid/eventSubscriptions/living"},
		{"on a topic", grids + "/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/living"},
		{"under a topic", grids + "/topics/orders/eventSubscriptions/living"},
		{"on a system topic", grids + "/systemTopics/default/providers/Microsoft.EventGrid/eventSubscriptions/living"},
		{"under a system topic", grids + "/systemTopics/default/eventSubscriptions/living"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStack(t)
			s.must("owner", "PUT", grids+"/topics/orders"+version, `{"location":"local"}`)
			s.must("owner", "PUT", tt.path+version, hookBody)
			before, live := s.must("owner", "GET", tt.path+version, ""), s.living(t)
			for method, body := range map[string]string{
				"PUT":   strings.Replace(hookBody, `{"properties":{`, `{"properties":{"labels":["x"],"filter":`+bad+`,`, 1),
				"PATCH": `{"properties":{"labels":["x"],"filter":` + bad + `}}`,
			} {
				w := s.do("owner", method, tt.path+version, body)
				if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), target) {
					t.Errorf("%s: %d %s, want 400 about %s", method, w.Code, w.Body, target)
				}
			}
			after := s.must("owner", "GET", tt.path+version, "")
			if after.Body.String() != before.Body.String() || after.Header().Get("ETag") != before.Header().Get("ETag") {
				t.Errorf("the refused updates made it %s\nout of %s", after.Body, before.Body)
			}
			if now := s.living(t); !reflect.DeepEqual(now, live) {
				t.Errorf("the broker has %+v, had %+v", now, live)
			}
			s.must("owner", "PATCH", tt.path+version, `{"filter":`+good+`}`)
			if now := s.living(t); now.FilterGeneration != live.FilterGeneration+1 || len(now.Filter.AdvancedFilters) != 1 {
				t.Errorf("after an update that was taken the broker has generation %d, %+v", now.FilterGeneration, now.Filter)
			}
		})
	}
}

// living returns the one event subscription that the broker has.
func (s *stack) living(t *testing.T) resource.EventSubscription {
	t.Helper()
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	if len(s.broker.live) != 1 {
		t.Fatalf("the broker has %d event subscriptions", len(s.broker.live))
	}
	for _, es := range s.broker.live {
		return es
	}
	panic("unreachable")
}
