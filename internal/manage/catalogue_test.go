package manage

import (
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

// TestTopicTypesWithoutASource: the catalogue has topic types that az names in its lists
// and nothing here raises; it says so of them, and of no other.
func TestTopicTypesWithoutASource(t *testing.T) {
	raised := []string{resource.TopicTypeCustom, resource.TopicTypeDomain, resource.TopicTypeWorkspace}
	for _, tt := range TopicTypes() {
		if said := strings.HasSuffix(tt.Description, "No source here raises them."); said == slices.Contains(raised, tt.Name) {
			t.Errorf("%s: %s", tt.Name, tt.Description)
		}
	}
}
