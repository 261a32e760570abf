package ingest

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/fault"
)

// metrics count what the broker never sees.
type metrics struct {
	refused, receiveRefused *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "eventgrid_publish_refused_requests_total",
		Help: "Publish requests answered with an error, by its finer code.",
	}, []string{"code"}), receiveRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "carillon_receive_refused_requests_total",
		Help: "Requests of receivers answered with an error, by its finer code.",
	}, []string{"code"})}
	if r != nil {
		r.MustRegister(m.refused, m.receiveRefused)
	}
	return m
}

// refuse counts an error by its code; codes are a closed set.
func (m *metrics) refuse(err error) { count(m.refused, err) }

// refuseReceiver is refuse for requests of receivers.
func (m *metrics) refuseReceiver(err error) { count(m.receiveRefused, err) }

func count(refused *prometheus.CounterVec, err error) {
	code := "InternalServerError"
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code != "" {
		code = f.Code
	} else if errors.Is(err, context.Canceled) { // the publisher went away
		code = "Canceled"
	}
	refused.WithLabelValues(code).Inc()
}
