package engine

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the engine's counters; handles are bound once.
type metrics struct {
	frames, records, bytes prometheus.Counter
	commit                 prometheus.Histogram
	refused, restarts      prometheus.Counter

	registerer prometheus.Registerer // nil for none
	registered []prometheus.Collector
}

// newMetrics registers the engine's metrics; sizes are read from e at scrape.
func newMetrics(r prometheus.Registerer, e *Engine) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "carillon", Subsystem: "engine", Name: name, Help: help})
	}
	m := &metrics{
		frames:   counter("frames_total", "Frames stored in the event log."),
		records:  counter("records_total", "Records stored in the event log."),
		bytes:    counter("frame_bytes_total", "Bytes of the frames stored in the event log."),
		refused:  counter("refused_total", "Appends refused because the log is over its quota or the disk is nearly full."),
		restarts: counter("store_restarts_total", "Restarts of the store because it did not ack any more."),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "carillon", Subsystem: "engine", Name: "commit_seconds",
			Help:    "Time from sending a frame until it is stored at the configured durability.",
			Buckets: prometheus.ExponentialBuckets(0.000125, 2, 16),
		}),
	}
	m.registerer = r
	if r == nil {
		return m, nil
	}
	gauge := func(name, help string, read func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "carillon", Subsystem: "engine", Name: name, Help: help},
			func() float64 { return float64(read()) })
	}
	p := e.partition
	for _, c := range []prometheus.Collector{
		m.frames, m.records, m.bytes, m.refused, m.restarts, m.commit,
		gauge("log_bytes", "Bytes the event log holds.", func() int64 { return p.Usage().Bytes }),
		gauge("log_above_floor_bytes", "Bytes of the event log that someone still needs.", func() int64 { return p.Usage().AboveFloor }),
		gauge("log_quota_bytes", "Bytes the event log may hold above its floor.", func() int64 { return p.Usage().Quota }),
		gauge("disk_free_bytes", "Bytes of the data directory's disk that are free, besides the reserve file.", func() int64 { return e.disk.free.Load() }),
		gauge("disk_space", "Space on the disk: 0 ample, 1 low (publishing and changes are refused), 2 out (the reserve file is given up).", func() int64 { return int64(e.disk.space()) }),
		gauge("damaged_pieces", "Pieces of stored data that the disk damaged, kept in DIR/damaged until somebody removes them.", e.dir.damagedPieces),
		gauge("journal_bytes", "Bytes the delivery journal holds.", func() int64 { return p.journal.Bytes() }),
		gauge("park_bytes", "Bytes the park holds: copies of events that wait for a retry and would hold the log.", func() int64 { return p.park.Bytes() }),
	} {
		if err := r.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

// unregister makes room for the next engine of the same process.
func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}
