package issuer

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/telemetry"
)

// refusal is an OAuth error. Clients go by the code, people read the text.
// Source: spec/access.md section 3.5.
type refusal struct {
	status     int
	code       string
	number     int    // what Azure's texts call AADSTS followed by the number; 0 for none
	text       string // holds no secret
	retryAfter time.Duration
	challenge  string
	cause      error // for the log only; holds no secret either
}

type refusalBody struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
}

// refuse answers with an OAuth error and notes it in the request's record.
func refuse(w http.ResponseWriter, r *http.Request, e *refusal) {
	record := telemetry.RecordOf(r.Context())
	record.Add(slog.String("oauth_error", e.code), slog.Int("oauth_error_number", e.number))
	if e.cause != nil {
		record.SetError(e.cause)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.challenge != "" {
		h.Set("WWW-Authenticate", e.challenge)
	}
	body := refusalBody{
		Error: e.code, Codes: []int{}, Timestamp: time.Now().UTC().Format("2006-01-02 15:04:05Z"),
		TraceID: record.RequestID(), CorrelationID: correlation(r, record),
	}
	if body.TraceID == "" {
		body.TraceID = telemetry.NewID()
	}
	text := e.text
	if e.number != 0 {
		body.Codes = append(body.Codes, e.number)
		text = fmt.Sprintf("AADSTS%d: %s", e.number, e.text)
	}
	body.Description = fmt.Sprintf("%s Trace ID: %s Correlation ID: %s Timestamp: %s", text, body.TraceID, body.CorrelationID, body.Timestamp)
	answer(w, e.status, body)
}

// correlation returns the id that the client gave its request, for MSAL shows it.
// Source: spec/access.md section 3.3.
func correlation(r *http.Request, record *telemetry.Record) string {
	if id, err := uuid.Parse(r.Header.Get("client-request-id")); err == nil {
		return id.String()
	}
	if id := record.CorrelationID(); id != "" {
		return id
	}
	return telemetry.NewID()
}

// clip shortens what a caller sent for a message.
func clip(text string) string {
	const most = 100
	for i := range text {
		if i >= most {
			return text[:i] + "…"
		}
	}
	return text
}
