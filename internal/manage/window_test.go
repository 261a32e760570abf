package manage

import (
	"context"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

// The window for duplicates is set by who knows it, and kept by who does not.
func TestDuplicateWindow(t *testing.T) {
	ctx := context.Background()
	at := id(topicsPrefix + "orders")
	change := func(minutes *int) TopicChange {
		return TopicChange{Tracked: Tracked{Location: "local"}, DuplicateWindow: minutes}
	}
	f := newFixture(t)
	for _, step := range []struct {
		name    string
		minutes *int
		put     bool
		want    int
		problem string
	}{
		{"created without", nil, true, 0, ""},
		{"put", number(10), true, 10, ""},
		{"put of a client that does not know it", nil, true, 10, ""},
		{"patch without", nil, false, 10, ""},
		{"too long", number(resource.MaxDuplicateWindow + 1), true, 10, "properties.duplicateDetectionWindowInMinutes: The value 1441"},
		{"negative", number(-1), false, 10, "properties.duplicateDetectionWindowInMinutes: The value -1"},
		{"patched", number(resource.MaxDuplicateWindow), false, resource.MaxDuplicateWindow, ""},
		{"off", number(0), true, 0, ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			set := f.PatchTopic
			if step.put {
				set = f.PutTopic
			}
			_, err := set(ctx, f.owner, at, change(step.minutes), Precondition{})
			if got := problems(err); step.problem != "" && !strings.HasPrefix(got, step.problem) || step.problem == "" && err != nil {
				t.Errorf("problems %q", got)
			}
			if item, err := f.Topic(ctx, f.owner, at); err != nil || item.Value.DuplicateWindow != step.want {
				t.Errorf("window %d, want %d; %v", item.Value.DuplicateWindow, step.want, err)
			}
		})
	}
	created, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+"other"), change(number(5)), Precondition{})
	if err != nil || created.Value.DuplicateWindow != 5 {
		t.Errorf("created with a window: %d, %v", created.Value.DuplicateWindow, err)
	}
}
