package openlineage

import (
	"context"
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/fault"
)

// metrics count what producers send.
type metrics struct {
	reports *prometheus.CounterVec
	events  prometheus.Counter
	refused *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_openlineage_reports_total", Help: "OpenLineage events that were taken, by their type: none for those of jobs and datasets.",
		}, []string{"type"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_openlineage_events_total", Help: "Events raised by what OpenLineage events said."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_openlineage_refused_requests_total", Help: "Requests with OpenLineage events that were answered with an error, by its code.",
		}, []string{"code"}),
	}
	for name := range meanings {
		m.reports.WithLabelValues(label(name))
	}
	if r != nil {
		r.MustRegister(m.reports, m.events, m.refused)
	}
	return m
}

func label(eventType string) string {
	if eventType == "" {
		return "none"
	}
	return strings.ToLower(eventType)
}

func (m *metrics) took(eventType string, events int) {
	m.reports.WithLabelValues(label(eventType)).Inc()
	m.events.Add(float64(events))
}

// refuse counts an error by its code; codes are a closed set.
func (m *metrics) refuse(err error) {
	code := "InternalServerError"
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code != "" {
		code = f.Code
	} else if errors.Is(err, context.Canceled) { // the producer went away
		code = "Canceled"
	}
	m.refused.WithLabelValues(code).Inc()
}
