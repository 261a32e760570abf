package driftjob

import "github.com/prometheus/client_golang/prometheus"

// metrics say what becomes of drift runs that the server computes.
type metrics struct {
	ended    *prometheus.CounterVec
	duration prometheus.Histogram
}

// The outcomes that are counted.
const (
	outcomeDrift   = "drift"
	outcomeNoDrift = "noDrift"
	outcomeUntold  = "noVerdict"
	outcomeFailed  = "failed"
)

func newMetrics(r prometheus.Registerer, waiting, running func() float64) *metrics {
	m := &metrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_drift_runs_total", Help: "Drift runs that the server computed: drift, noDrift, noVerdict (too few rows, or none), or failed.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "carillon_drift_run_seconds", Help: "How long it took to compute a drift run.", Buckets: []float64{0.1, 1, 5, 15, 60, 300, 1800},
		}),
	}
	for _, outcome := range []string{outcomeDrift, outcomeNoDrift, outcomeUntold, outcomeFailed} {
		m.ended.WithLabelValues(outcome)
	}
	if r != nil {
		r.MustRegister(m.ended, m.duration,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "carillon_drift_runs_waiting", Help: "Drift runs that wait to be computed."}, waiting),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "carillon_drift_runs_running", Help: "Drift runs that are being computed."}, running))
	}
	return m
}
