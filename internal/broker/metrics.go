package broker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/resource"
)

// metrics are the documented Event Grid metrics, counted in events. Per event
// subscription they are fields of its state; see collector.
// Source: spec/delivery.md section 8.1.
type metrics struct {
	duplicates, forgotten prometheus.Counter // of topics that leave out duplicates

	published, publishFailed, unmatched, matched, delivered prometheus.Counter
	publishLatency                                          prometheus.Histogram
	failed, deadLettered, dropped, warnings                 *prometheus.CounterVec
	written, writtenLate, writeFailed, evicted              prometheus.Counter // dead letters
	limitWaitsBy, limitWaitedBy                             *prometheus.CounterVec
	limitWaits, limitWaited                                 [len(limitNames)]prometheus.Counter // of them, bound
	attributesOmitted, clockJumps, received                 prometheus.Counter
	failedBy                                                [len(outcomeNames)]prometheus.Counter // of failed, bound
	processing                                              prometheus.Histogram                  // of webhooks, the one kind of destination there is
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, azure, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help + " Azure metric: " + azure + "."})
	}
	vector := func(name, azure, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help + " Azure metric: " + azure + "."}, []string{label})
	}
	m := &metrics{
		published:     counter("eventgrid_publish_success_total", "PublishSuccessCount", "Events accepted and stored."),
		publishFailed: counter("eventgrid_publish_fail_total", "PublishFailCount", "Valid events that could not be stored."),
		unmatched:     counter("eventgrid_unmatched_events_total", "UnmatchedEventCount", "Events that no event subscription wanted."),
		matched:       counter("eventgrid_matched_events_total", "MatchedEventCount", "Events matched, once for each event subscription."),
		delivered:     counter("eventgrid_delivery_success_total", "DeliverySuccessCount", "Events delivered, once for each event subscription."),
		publishLatency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "eventgrid_publish_success_latency_seconds", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
			Help: "Time from a validated publish request to its events being durable. Azure metric: PublishSuccessLatencyInMs.",
		}),
		failed:       vector("eventgrid_delivery_attempt_fail_total", "DeliveryAttemptFailCount", "Events whose delivery attempt failed.", "outcome"),
		deadLettered: vector("eventgrid_dead_lettered_events_total", "DeadLetteredCount", "Events dead-lettered.", "reason"),
		dropped:      vector("eventgrid_dropped_events_total", "DroppedEventCount", "Events dropped without a dead letter.", "reason"),
	}
	ours := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m.clockJumps = ours("carillon_clock_jumps_total", "Jumps of the wall clock by more than a minute.")
	m.written = ours("carillon_dead_letters_written_total", "Dead letters written to the store of their event subscription.")
	m.writtenLate = ours("carillon_dead_letters_written_late_total", "Those of them written more than 4 hours after they were given up: Azure would have dropped them.")
	m.writeFailed = ours("carillon_dead_letter_write_failures_total", "Failed attempts to write dead letters to a store.")
	m.evicted = ours("carillon_dead_letters_evicted_total", "Dead letters removed because all of them passed their quota.")
	m.duplicates = ours("carillon_publish_duplicates_total", "Events that were acknowledged and not stored again: their topic took them within its window.")
	m.forgotten = ours("carillon_publish_ids_forgotten_total", "Ids that a topic forgot before its window was over, for there were too many.")
	m.warnings = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "carillon_delivery_warnings_total", Help: "Warnings about an event subscription, that events were dead-lettered or dropped or its endpoint is gone: the first, and at most one in 10 minutes of each kind.",
	}, []string{"kind"})
	byLimit := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"limit"})
	}
	m.received = ours("carillon_received_events_total", "Events given to receivers, each time that they were.")
	m.limitWaitsBy = byLimit("carillon_delivery_limit_waits_total", "Requests that waited for the limit on requests of their event subscription, by what limits it.")
	m.limitWaitedBy = byLimit("carillon_delivery_limit_wait_seconds_total", "Time that event subscriptions with something to send waited for their limit on requests, by what limits them.")
	m.attributesOmitted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "carillon_delivery_attributes_omitted_total", Help: "Dynamic delivery attributes left out of a request, because the event has no such field or it is unfit for a header.",
	})
	processing := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "eventgrid_destination_processing_duration_seconds", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17),
		Help: "Time a destination took to answer an attempt. Azure metric: DestinationProcessingDurationInMs.",
	}, []string{"destination"})
	m.processing = processing.WithLabelValues(resource.DestinationWebHook).(prometheus.Histogram)
	for k, name := range limitNames {
		m.limitWaits[k], m.limitWaited[k] = m.limitWaitsBy.WithLabelValues(name), m.limitWaitedBy.WithLabelValues(name)
	}
	if r != nil {
		m.begin()
		r.MustRegister(m.limitWaitsBy, m.limitWaitedBy, m.received)
		r.MustRegister(m.clockJumps, m.written, m.writtenLate, m.writeFailed, m.evicted)
		r.MustRegister(processing, m.published, m.publishFailed, m.unmatched, m.matched, m.delivered, m.publishLatency, m.failed, m.deadLettered, m.dropped, m.warnings, m.duplicates, m.forgotten, m.attributesOmitted)
	}
	return m
}

// collector shows the figures of the chosen event subscriptions, and what the whole
// node has open.
type collector struct {
	b                                                                    *Broker
	chosen                                                               chosen
	open, matched, delivered, failed, deadLettered, dropped, openBy, lag *prometheus.Desc
	unmatchedBytes, limitWaited, parked                                  *prometheus.Desc
}

func newCollector(b *Broker) *collector {
	labels := []string{"event_subscription"}
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		b:              b,
		chosen:         chosen{most: b.cfg.MetricsEventSubscriptions},
		open:           desc("carillon_open_deliveries", "Deliveries that are not settled.", nil),
		unmatchedBytes: desc("carillon_dispatch_backlog_bytes", "Bytes of committed frames that are not matched yet.", nil),
		parked:         desc("carillon_parked_deliveries", "Deliveries that are not settled and whose events are parked: they do not hold the log.", nil),
		openBy:         desc("carillon_event_subscription_open_deliveries", "Deliveries that are not settled, by event subscription.", labels),
		lag:            desc("carillon_event_subscription_lagging", "1 while the event subscription is read for from the log.", labels),
		matched:        desc("carillon_event_subscription_matched_events_total", "Events matched, by event subscription.", labels),
		delivered:      desc("carillon_event_subscription_delivered_events_total", "Events delivered, by event subscription.", labels),
		failed:         desc("carillon_event_subscription_failed_attempts_total", "Events whose attempt failed, by event subscription.", labels),
		deadLettered:   desc("carillon_event_subscription_dead_lettered_events_total", "Events dead-lettered, by event subscription.", labels),
		limitWaited:    desc("carillon_event_subscription_limit_wait_seconds_total", "Time it waited for its limit on requests with something to send, by event subscription.", labels),
		dropped:        desc("carillon_event_subscription_dropped_events_total", "Events dropped without a dead letter, by event subscription.", labels),
	}
}

// Describe sends the descriptions.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.open, c.unmatchedBytes, c.parked, c.openBy, c.lag, c.matched, c.delivered, c.failed, c.deadLettered, c.dropped, c.limitWaited} {
		ch <- d
	}
}

// Collect sends the present figures.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.open, float64(c.b.open.Load()))
	gauge(c.unmatchedBytes, float64(c.b.queue.bytes.Load()))
	gauge(c.parked, float64(c.b.Parked().Deliveries))
	for _, s := range c.chosen.of(c.b.all()) {
		st := s.status()
		lagging := 0.0
		if st.Lagging {
			lagging = 1
		}
		gauge(c.openBy, float64(st.Open), st.EventSubscription)
		gauge(c.lag, lagging, st.EventSubscription)
		for d, v := range map[*prometheus.Desc]uint64{
			c.matched: st.Matched, c.delivered: st.Delivered, c.failed: st.FailedAttempts, c.deadLettered: st.DeadLettered, c.dropped: st.Dropped,
		} {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), st.EventSubscription)
		}
		ch <- prometheus.MustNewConstMetric(c.limitWaited, prometheus.CounterValue, st.LimitWaitSeconds, st.EventSubscription)
	}
}
