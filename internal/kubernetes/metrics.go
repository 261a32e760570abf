package kubernetes

import "github.com/prometheus/client_golang/prometheus"

// metrics say whether the attached clusters are followed.
type metrics struct {
	watches *prometheus.CounterVec
	events  prometheus.Counter
}

func newMetrics(r prometheus.Registerer, failing func() float64) *metrics {
	m := &metrics{
		watches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_kubernetes_watches_total", Help: "Watches that were begun at Kubernetes clusters: ok or failed.",
		}, []string{"outcome"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_kubernetes_events_total", Help: "Events raised by what was seen in Kubernetes clusters."}),
	}
	for _, outcome := range []string{"ok", "failed"} {
		m.watches.WithLabelValues(outcome)
	}
	if r != nil {
		r.MustRegister(m.watches, m.events, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "carillon_kubernetes_failing_clusters", Help: "Attached Kubernetes clusters that are not followed at the moment.",
		}, failing))
	}
	return m
}
