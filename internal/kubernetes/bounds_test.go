package kubernetes

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/carillon-events/carillon/internal/resource"
)

// A server that answers without end, packed or in pages, costs a bounded piece of memory
// and an error.
func TestAnswersWithoutEnd(t *testing.T) {
	page := func(items, padding int) string {
		one := `{"kind":"InferenceService","apiVersion":"serving.kserve.io/v1beta1","metadata":{"name":"a","annotations":{"a":"` + strings.Repeat("x", padding) + `"}}}`
		return `{"kind":"List","apiVersion":"v1","metadata":{"continue":"more","resourceVersion":"1"},"items":[` + one + strings.Repeat(","+one, items-1) + `]}`
	}
	small, large := page(5000, 0), page(4, 1<<20)
	empty := `{"kind":"List","apiVersion":"v1","metadata":{"continue":"more","resourceVersion":"1"},"items":[]}`
	answers := map[string]func(w http.ResponseWriter){
		"objects": func(w http.ResponseWriter) { _, _ = io.WriteString(w, small) },
		"bytes":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, large) },
		"pages":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, empty) },
		"one answer": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			for piece := make([]byte, 1<<20); ; {
				if _, err := packed.Write(piece); err != nil {
					return
				}
			}
		},
		"one refusal": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusForbidden)
			for piece := make([]byte, 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		},
	}
	for name, want := range map[string]string{"objects": errLargeList.Error(), "bytes": errLargeList.Error(), "pages": errManyPages.Error(), "one answer": errLargeAnswer.Error(), "one refusal": errLargeAnswer.Error()} {
		t.Run(name, func(t *testing.T) {
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				answers[name](w)
			}))
			defer api.Close()
			var d net.Dialer
			s := New(Config{Store: resource.NewStore(resource.NewMemoryKV()), Dial: d.DialContext, DialClear: d.DialContext})
			client, err := s.connect(&resource.Cluster{Server: api.URL}, "")
			if err != nil {
				t.Fatal(err)
			}
			var l listing
			if name == "bytes" { // after pages that take their time to read
				l.bytes = mostListed - 10<<20
			}
			err, token := error(nil), "more"
			for pages := 0; err == nil && pages <= mostPages; pages++ {
				_, err = l.list(klog.NewContext(t.Context(), logr.Discard()), client.Resource(kinds[0].resource), metav1.ListOptions{Continue: token})
				token = fmt.Sprint(pages)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}
