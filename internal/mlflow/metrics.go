package mlflow

import "github.com/prometheus/client_golang/prometheus"

// metrics say whether the attached servers are read.
type metrics struct {
	rounds   *prometheus.CounterVec
	looks    *prometheus.CounterVec
	webhooks *prometheus.CounterVec
	requests prometheus.Counter
	events   prometheus.Counter
}

func newMetrics(r prometheus.Registerer, lag func() float64) *metrics {
	m := &metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_mlflow_rounds_total", Help: "Rounds in which an MLflow server was asked for what is new: ok, failed, or refused for its credentials.",
		}, []string{"outcome"}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_mlflow_looks_total", Help: "Runs, models and experiments of MLflow servers looked at by themselves, beside the rounds: ok, or failed and left to a round that reads everything.",
		}, []string{"outcome"}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_mlflow_webhooks_total", Help: "Calls of MLflow servers: taken, repeated, ignored since they raise no event, or refused.",
		}, []string{"outcome"}),
		requests: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_mlflow_requests_total", Help: "Requests to MLflow servers."}),
		events:   prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_mlflow_events_total", Help: "Events raised by what was seen at MLflow servers."}),
	}
	for _, outcome := range []string{callTaken, callRepeated, callIgnored, callRefused} {
		m.webhooks.WithLabelValues(outcome)
	}
	for _, outcome := range []string{"ok", "failed", "refused"} {
		m.rounds.WithLabelValues(outcome)
	}
	for _, outcome := range []string{"ok", "failed"} {
		m.looks.WithLabelValues(outcome)
	}
	if r != nil {
		r.MustRegister(m.rounds, m.looks, m.webhooks, m.requests, m.events, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "carillon_mlflow_lag_seconds", Help: "For how long the MLflow server that was not read whole for longest has not been; 0 without one.",
		}, lag))
	}
	return m
}

func (m *metrics) round(requests, events int) {
	m.requests.Add(float64(requests))
	m.events.Add(float64(events))
}

// proxyMetrics say what passes through a Proxy.
type proxyMetrics struct {
	requests *prometheus.CounterVec
	observed *prometheus.CounterVec
}

func newProxyMetrics(r prometheus.Registerer, intents func() float64) *proxyMetrics {
	m := &proxyMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_mlflow_proxy_requests_total", Help: "Requests passed on to MLflow servers: of the kind whose answers are read (watched) or not (passed), and their answers by class of status, or none.",
		}, []string{"class", "answer"}),
		observed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carillon_mlflow_proxy_observed_total", Help: "Changes that passed the proxy: told by their answers, or asked for since these were unclear.",
		}, []string{"how"}),
	}
	for _, class := range []string{"watched", "passed"} {
		for _, answer := range answerClasses {
			m.requests.WithLabelValues(class, answer)
		}
	}
	for _, how := range []string{"told", "asked"} {
		m.observed.WithLabelValues(how)
	}
	if r != nil {
		r.MustRegister(m.requests, m.observed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "carillon_mlflow_proxy_intents", Help: "Changes that were passed on and whose outcome is not recorded yet.",
		}, intents))
	}
	return m
}

// answerClasses are the classes of answers, by the first digit of the status.
var answerClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// request counts a request, with status 0 where nobody answered.
func (m *proxyMetrics) request(c change, status int) {
	class := "passed"
	if c != nothing {
		class = "watched"
	}
	m.requests.WithLabelValues(class, answerClasses[min(max(status/100, 0), len(answerClasses)-1)]).Inc()
}
