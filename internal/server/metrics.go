package server

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// newCertificateMetrics registers when certificates end, and returns what counts pairs
// that were refused.
func newCertificateMetrics(r prometheus.Registerer, certs func() *certificates) (failed func()) {
	for label, pick := range map[string]func(*certificates) float64{
		"server":    func(c *certificates) float64 { at, _ := c.ends(); return float64(at.Unix()) },
		"authority": func(c *certificates) float64 { _, at := c.ends(); return float64(at.Unix()) },
	} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "carillon_certificate_expiry_timestamp_seconds", Help: "When a certificate that the server shows ends, in seconds since 1970.",
			ConstLabels: prometheus.Labels{"certificate": label},
		}, func() float64 {
			if c := certs(); c != nil {
				return pick(c)
			}
			return 0
		}))
	}
	refused := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carillon_certificate_refused_total", Help: "Pairs of --tls-certificate and --tls-key that were refused; the one from before is served.",
	})
	r.MustRegister(refused)
	return refused.Inc
}

// newDistrusted registers what counts servers to which no connections are kept, and returns
// what counts and logs one.
func newDistrusted(r prometheus.Registerer, log *slog.Logger) func(server string) {
	count := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carillon_distrusted_servers_total", Help: "Times that no connection was kept any more, for an hour, to a server of a destination that sent something no request had asked for.",
	})
	r.MustRegister(count)
	return func(server string) {
		count.Inc()
		log.Warn("a server sends what no request asked for: each attempt connects anew for an hour", "server", server)
	}
}
