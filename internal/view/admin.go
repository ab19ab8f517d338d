package view

import "github.com/pgqrs/pgqrsd/store"

// SystemStats is a store.SystemStats.
type SystemStats struct {
	Backend   string `json:"backend"`
	Queues    int64  `json:"queues"`
	Ready     int64  `json:"ready"`
	Delayed   int64  `json:"delayed"`
	Leased    int64  `json:"leased"`
	Done      int64  `json:"done"`
	Dead      int64  `json:"dead"`
	Cancelled int64  `json:"cancelled"`
	// RunsWaitingForVersion are delayed too.
	RunsWaitingForVersion int64 `json:"runs_waiting_for_version"`
	// RunsWaitingForHandler are ready too: no daemon serves their workflow.
	RunsWaitingForHandler int64        `json:"runs_waiting_for_handler"`
	Workers               WorkerCounts `json:"workers"`
	SchemaVersion         int64        `json:"schema_version"`
}

// WorkerCounts counts workers by state.
type WorkerCounts struct {
	Ready     int64 `json:"ready"`
	Suspended int64 `json:"suspended"`
	Stopped   int64 `json:"stopped"`
}

// WorkerStats is a store.WorkerStats.
type WorkerStats struct {
	Queue                     string  `json:"queue"`
	Ready                     int64   `json:"ready"`
	Suspended                 int64   `json:"suspended"`
	Stopped                   int64   `json:"stopped"`
	Leased                    int64   `json:"leased"`
	OldestHeartbeatAgeSeconds float64 `json:"oldest_heartbeat_age_seconds"`
}

// HealthReport is a store.HealthReport.
type HealthReport struct {
	Healthy      int64    `json:"healthy"`
	Stale        int64    `json:"stale"`
	Suspended    int64    `json:"suspended"`
	Stopped      int64    `json:"stopped"`
	StaleWorkers []Worker `json:"stale_workers"`
}

// GivenBack is a store.GivenBack.
type GivenBack struct {
	Workers int64 `json:"workers"`
	Ready   int64 `json:"ready"`
	Dead    int64 `json:"dead"`
}

// OfSystemStats shows the whole system.
func OfSystemStats(backend string, s store.SystemStats) SystemStats {
	return SystemStats{
		Backend: backend, Queues: s.Queues, Ready: s.Ready, Delayed: s.Delayed, Leased: s.Leased,
		Done: s.Done, Dead: s.Dead, Cancelled: s.Cancelled, RunsWaitingForVersion: s.Stranded, RunsWaitingForHandler: s.Unserved,
		Workers: WorkerCounts{
			Ready: s.Workers[store.WorkerReady], Suspended: s.Workers[store.WorkerSuspended], Stopped: s.Workers[store.WorkerStopped],
		},
		SchemaVersion: s.SchemaVersion,
	}
}

// OfWorkerStats shows a queue's workers.
func OfWorkerStats(s store.WorkerStats) WorkerStats {
	return WorkerStats{
		Queue: s.Queue, Ready: s.Ready, Suspended: s.Suspended, Stopped: s.Stopped, Leased: s.Leased,
		OldestHeartbeatAgeSeconds: s.OldestHeartbeatAge.Seconds(),
	}
}

// OfHealthReport shows the fleet's health.
func OfHealthReport(r store.HealthReport) HealthReport {
	return HealthReport{
		Healthy: r.Healthy, Stale: r.Stale, Suspended: r.Suspended, Stopped: r.Stopped,
		StaleWorkers: Each(r.StaleWorkers, OfWorker),
	}
}

// OfGivenBack shows what was taken from workers.
func OfGivenBack(g store.GivenBack) GivenBack {
	return GivenBack{Workers: g.Workers, Ready: g.Ready, Dead: g.Dead}
}
