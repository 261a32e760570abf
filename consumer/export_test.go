package consumer

import (
	"net/http"
	"time"
)

// VerifySignature verifies a signature at a time.
func VerifySignature(keys []string, header http.Header, body []byte, now time.Time) error {
	var k signingKeys
	for _, key := range keys {
		if err := k.add(key); err != nil {
			return err
		}
	}
	return k.verify(header, body, now)
}

// SetNow sets the clock of a handler's checks.
func SetNow(h *Handler, now func() time.Time) { h.now = now }

// SetMemoryNow sets the clock of an inbox.
func SetMemoryNow(m *Memory, now func() time.Time) { m.now = now; m.new.began = now() }

// SetBodyTime sets how long a body may take.
func SetBodyTime(h *Handler, d time.Duration) { h.bodyTime = d }
