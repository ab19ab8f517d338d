package bench

// Report is what a run measured, and under which conditions. What a mode does
// not measure is absent from the JSON.
type Report struct {
	Mode          Mode     `json:"mode"`
	Backend       string   `json:"backend"`
	ServerVersion string   `json:"server_version"`
	Cores         int      `json:"cores"`
	GoVersion     string   `json:"go_version"`
	Version       string   `json:"version"`
	Settings      Settings `json:"settings"`

	*WorkFigures
	*WorkflowFigures
	*LatencyFigures
	*IdleFigures

	// DaemonPeakMemoryBytes is the most that the daemon's process had resident.
	DaemonPeakMemoryBytes int64          `json:"daemon_peak_memory_bytes"`
	MemorySamples         []MemorySample `json:"memory_samples,omitempty"`
}

// Settings are the options of the run; one that is absent is zero or not used.
type Settings struct {
	QueueSize       int     `json:"queue_size,omitempty"`
	Handlers        int     `json:"handlers,omitempty"`
	Queues          int     `json:"queues,omitempty"`
	Concurrency     int     `json:"concurrency,omitempty"`
	PayloadBytes    int     `json:"payload_bytes,omitempty"`
	Retain          string  `json:"retain,omitempty"`
	Rate            float64 `json:"rate,omitempty"`
	DurationSeconds float64 `json:"duration_seconds,omitempty"`
	FailRate        float64 `json:"fail_rate,omitempty"`
	Backlog         int     `json:"backlog,omitempty"`
	Archived        int     `json:"archived,omitempty"`
	Delayed         int     `json:"delayed,omitempty"`
	WarmUp          int     `json:"warm_up,omitempty"`
	InFlight        int     `json:"in_flight,omitempty"`
	SleepSeconds    float64 `json:"sleep_seconds,omitempty"`
	HoldSnapshot    bool    `json:"hold_snapshot,omitempty"`
	// Workflow says that the messages were runs, of so many steps each.
	Workflow         bool `json:"workflow,omitempty"`
	StepsPerWorkflow int  `json:"steps_per_workflow,omitempty"`
}

// WorkFigures are Drain's and Steady's.
type WorkFigures struct {
	// Messages is how many were done in Seconds. Steady's may be fewer than came:
	// then the daemon does not keep up.
	Messages      int64   `json:"messages"`
	Seconds       float64 `json:"seconds"`
	JobsPerSecond float64 `json:"jobs_per_second"`
	// EnqueuePerSecond is how fast Drain's messages were put on the queue, one
	// batch of 5,000 after the other.
	EnqueuePerSecond   float64 `json:"enqueue_per_second,omitempty"`
	DaemonCPUPerJobUs  float64 `json:"daemon_cpu_us_per_job"`
	HandlerCPUPerJobUs float64 `json:"handler_cpu_us_per_job"`
}

// WorkflowFigures are Drain's of runs of a workflow.
type WorkflowFigures struct {
	// Steps is how many were recorded by the runs that WorkFigures counts.
	Steps              int64   `json:"steps"`
	StepsPerSecond     float64 `json:"steps_per_second"`
	WorkflowsPerSecond float64 `json:"workflows_per_second"`
	// StepP50Ms and StepP99Ms are how long a step took in its function: until its
	// result was on disk and the function had it. Absent without steps.
	StepP50Ms float64 `json:"step_p50_ms,omitempty"`
	StepP99Ms float64 `json:"step_p99_ms,omitempty"`
}

// Latency is a distribution of times since the commit of the enqueue, in
// milliseconds.
type Latency struct {
	StartP50Ms float64 `json:"start_p50_ms"`
	StartP99Ms float64 `json:"start_p99_ms"`
	DoneP50Ms  float64 `json:"done_p50_ms"`
	DoneP99Ms  float64 `json:"done_p99_ms"`
}

// LatencyFigures are Steady's. Start is when the handler's code began; done is
// when the message was archived: when the statement that did it ran.
type LatencyFigures struct {
	Latency
	StartMaxMs float64  `json:"start_max_ms"`
	DoneMaxMs  float64  `json:"done_max_ms"`
	Windows    []Window `json:"windows"`
}

// Window is a few seconds of Steady.
type Window struct {
	// StartSeconds is when it began, from the beginning of the measurement.
	StartSeconds float64 `json:"start_seconds"`
	Messages     int64   `json:"messages"`
	Latency
	// Ready is how many messages waited at its end.
	Ready int64 `json:"ready"`
}

// IdleFigures are Idle's. Of one core is 100 percent.
type IdleFigures struct {
	// StatementsPerSecond are the daemon's, TransactionsPerSecond the whole
	// database's. On SQLite there is no server to send them to.
	StatementsPerSecond   *float64 `json:"statements_per_second,omitempty"`
	TransactionsPerSecond *float64 `json:"transactions_per_second,omitempty"`
	DaemonCPUPercent      float64  `json:"daemon_cpu_percent"`
	HandlerCPUPercent     float64  `json:"handler_cpu_percent"`
}

// MemorySample is what the daemon's process had resident at a moment.
type MemorySample struct {
	MessagesDone int64 `json:"messages_done"`
	Bytes        int64 `json:"bytes"`
}
