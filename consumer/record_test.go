package consumer_test

import (
	"net/http"
	"net/http/httptest"
)

// record has a handler answer a request.
func record(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
