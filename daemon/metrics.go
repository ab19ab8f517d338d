package daemon

import (
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pgqrs/pgqrsd/store"
)

// otherQueue is the label of queues that neither the configuration nor a
// handler names, so that a caller who makes queues cannot make time series.
const otherQueue = "other"

var settledOutcomes = []store.OutcomeKind{
	store.OutcomeDone, store.OutcomeRetry, store.OutcomeSnooze, store.OutcomeDiscard, store.OutcomeRelease,
	store.OutcomeWait, store.OutcomeCancel,
}

// metrics are what /metrics shows. docs/operations.md lists them.
type metrics struct {
	registry *prometheus.Registry

	messages  *prometheus.GaugeVec
	oldest    *prometheus.GaugeVec
	leased    *prometheus.CounterVec
	settled   *prometheus.CounterVec
	run, wait *prometheus.HistogramVec
	inFlight  *prometheus.GaugeVec
	unsettled *prometheus.GaugeVec
	lost      *prometheus.CounterVec
	steps     *prometheus.CounterVec
	stranded  *prometheus.CounterVec
	restarts  *prometheus.CounterVec
	batch     prometheus.Histogram
	database  prometheus.Gauge
	leader    prometheus.Gauge

	mu           sync.Mutex
	queues       map[string]*queueMetrics
	sampledNames map[string]bool
}

// queueMetrics are one queue's, looked up once.
type queueMetrics struct {
	leased, lost        prometheus.Counter
	steps, stranded     prometheus.Counter
	run, wait           prometheus.Observer
	inFlight, unsettled prometheus.Gauge
	settled             map[store.OutcomeKind]prometheus.Counter
}

func newMetrics(registry *prometheus.Registry, version string, s store.Store) *metrics {
	if registry == nil {
		registry = prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	seconds := prometheus.ExponentialBucketsRange(0.0005, 600, 20)
	m := &metrics{
		registry: registry,
		queues:   map[string]*queueMetrics{}, sampledNames: map[string]bool{},
		messages: gauge("pgqrsd_messages", "Messages in the database by queue and state, sampled.", "queue", "state"),
		oldest:   gauge("pgqrsd_oldest_ready_seconds", "How long the oldest ready message has waited, sampled.", "queue"),
		leased:   counter("pgqrsd_leased_total", "Messages that this daemon leased.", "queue"),
		settled:  counter("pgqrsd_settled_total", "Attempts whose outcome this daemon recorded.", "queue", "outcome"),
		run: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pgqrsd_run_seconds", Help: "How long attempts ran.", Buckets: seconds}, []string{"queue"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pgqrsd_wait_seconds", Help: "How long messages were on the queue before they were leased.", Buckets: seconds}, []string{"queue"}),
		inFlight:  gauge("pgqrsd_in_flight", "Jobs that handlers have.", "queue"),
		unsettled: gauge("pgqrsd_unsettled", "Results that are not recorded yet.", "queue"),
		lost:      counter("pgqrsd_leases_lost_total", "Attempts whose lease was lost before their outcome was recorded.", "queue"),
		steps:     counter("pgqrsd_steps_total", "Steps of workflow runs that this daemon recorded.", "queue"),
		stranded:  counter("pgqrsd_runs_without_handler_total", "Times that a leased run was put off because the handler does not carry on its version.", "queue"),
		restarts:  counter("pgqrsd_handler_restarts_total", "Restarts of handlers after a crash.", "handler"),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pgqrsd_settle_batch_size", Help: "Outcomes recorded in one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 12)}),
		database: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgqrsd_database_up", Help: "Whether the database answers."}),
		leader:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgqrsd_leader", Help: "Whether this daemon does the maintenance."}),
	}
	info := gauge("pgqrsd_build_info", "Always 1; the labels say what runs.", "version", "revision", "goversion")
	info.WithLabelValues(version, revision(), runtime.Version()).Set(1)
	if counter, ok := s.(store.StatementCounter); ok {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pgqrsd_store_statements_total", Help: "Statements sent to the database server.",
		}, func() float64 { return float64(counter.Statements()) }))
	}
	registry.MustRegister(m.messages, m.oldest, m.leased, m.settled, m.run, m.wait, m.inFlight,
		m.unsettled, m.lost, m.steps, m.stranded, m.restarts, m.batch, m.database, m.leader, info)
	return m
}

func revision() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// queue returns the queue's metrics, each at zero if it is new, so that rates
// are right from the first message on.
func (m *metrics) queue(name string) *queueMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q := m.queues[name]; q != nil {
		return q
	}
	q := &queueMetrics{
		leased: m.leased.WithLabelValues(name), lost: m.lost.WithLabelValues(name),
		steps: m.steps.WithLabelValues(name), stranded: m.stranded.WithLabelValues(name),
		run: m.run.WithLabelValues(name), wait: m.wait.WithLabelValues(name),
		inFlight: m.inFlight.WithLabelValues(name), unsettled: m.unsettled.WithLabelValues(name),
		settled: map[store.OutcomeKind]prometheus.Counter{},
	}
	for _, kind := range settledOutcomes {
		q.settled[kind] = m.settled.WithLabelValues(name, string(kind))
	}
	q.settled[store.OutcomeDelete] = q.settled[store.OutcomeDone] // done, and not retained
	m.queues[name] = q
	return q
}

// sampled replaces the sampled depths. Queues for which known is false are
// summed up as one.
func (m *metrics) sampled(samples []store.QueueMetrics, known func(string) bool) {
	sums := map[string]*store.QueueMetrics{}
	for _, s := range samples {
		name := s.Queue
		if !known(name) {
			name = otherQueue
		}
		sum := sums[name]
		if sum == nil {
			sum = &store.QueueMetrics{}
			sums[name] = sum
		}
		sum.Ready += s.Ready
		sum.Delayed += s.Delayed
		sum.Leased += s.Leased
		sum.Done += s.Done
		sum.Dead += s.Dead
		sum.Cancelled += s.Cancelled
		sum.OldestReady = max(sum.OldestReady, s.OldestReady)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.sampledNames {
		if sums[name] == nil { // deleted since
			m.messages.DeletePartialMatch(prometheus.Labels{"queue": name})
			m.oldest.DeleteLabelValues(name)
		}
	}
	clear(m.sampledNames)
	for name, s := range sums {
		m.sampledNames[name] = true
		for state, n := range map[store.State]int64{
			store.Ready: s.Ready, store.Delayed: s.Delayed, store.Leased: s.Leased,
			store.Done: s.Done, store.Dead: s.Dead, store.Cancelled: s.Cancelled,
		} {
			m.messages.WithLabelValues(name, string(state)).Set(float64(n))
		}
		m.oldest.WithLabelValues(name).Set(s.OldestReady.Seconds())
	}
}
