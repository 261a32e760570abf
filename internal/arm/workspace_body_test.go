package arm

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// TestBodyOfTheObject puts bodies that speak of the object in the path, of
// another one, or of nothing that can be read. What is refused makes nothing.
func TestBodyOfTheObject(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		names      string // what the answer has to name
	}{
		{"its own name and type", `{"name":"R","type":"microsoft.machinelearningservices/Workspaces/experiments/runs","properties":{}}`, 201, ""},
		{"another name", `{"name":"other","properties":{}}`, 400, "'other'"},
		{"another type", `{"type":"Microsoft.MachineLearningServices/workspaces/models","properties":{}}`, 400, "'Microsoft.MachineLearningServices/workspaces/experiments/runs'"},
		{"another id", `{"id":"/subscriptions/s","properties":{}}`, 400, "'/subscriptions/s'"},
		{"a name that is no text", `{"name":5}`, 400, "member name is a number"},
		{"a tag that is not UTF-8", "{\"properties\":{\"tags\":{\"a\":\"\xff\"}}}", 400, "not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				got := l.do("scientist", "PUT", "experiments/e/runs/r", c.body)
				text, _ := io.ReadAll(got.Body)
				if got.StatusCode != c.status || !strings.Contains(string(text), c.names) {
					t.Errorf("PUT = %d %s; want %d and %q in it", got.StatusCode, text, c.status, c.names)
				}
				again := l.do("reader", "GET", "experiments/e/runs/r", "")
				if there := again.StatusCode == http.StatusOK; there != (c.status == 201) {
					t.Errorf("GET afterwards = %d", again.StatusCode)
				}
				if c.status == 201 { // what an answer says can be put back
					if back := l.do("scientist", "PUT", "experiments/e/runs/r", string(text)); back.StatusCode != http.StatusOK {
						t.Errorf("PUT of the answer = %d, want 200", back.StatusCode)
					}
				}
			})
		})
	}
}
