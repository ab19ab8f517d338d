package bench

import (
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/store"
)

// Mode is what is measured.
type Mode string

// The modes.
const (
	// Drain fills a queue and works it off.
	Drain Mode = "drain"
	// Steady enqueues and works at a rate.
	Steady Mode = "steady"
	// Idle lets the daemon wait on empty queues.
	Idle Mode = "idle"
)

// Modes are all of them.
var Modes = []Mode{Drain, Steady, Idle}

// Options say what to measure. DefaultOptions has the defaults; a field that a
// mode does not use is not looked at.
type Options struct {
	Mode Mode
	// QueueSize is how many messages Drain measures.
	QueueSize int
	// Handlers is how many handler processes Drain and Steady have, each with
	// a queue of its own.
	Handlers int
	// Queues is how many queues Idle has, all served by one process.
	Queues int
	// Concurrency is how many jobs of a queue run at once.
	Concurrency int
	// PayloadBytes is the length of each payload.
	PayloadBytes int
	// Retain says whether done messages are archived.
	Retain daemon.Retain
	// Rate is how many messages a second Steady enqueues.
	Rate float64
	// Duration is how long Steady and Idle measure.
	Duration time.Duration
	// FailRate is the share of Steady's messages whose first attempt fails.
	FailRate float64
	// Backlog is how many ready messages stay behind those that Drain measures.
	Backlog int
	// Archived and Delayed are how many messages are there beforehand.
	Archived, Delayed int
	// WarmUp is how many messages are worked off before Drain's clock starts.
	WarmUp int
	// InFlight jobs that take Sleep run while Drain measures.
	InFlight int
	Sleep    time.Duration
	// Workflow makes the messages that Drain measures runs of a workflow of Steps
	// steps that do nothing, of which Concurrency are in flight.
	Workflow bool
	Steps    int
	// HoldSnapshot keeps a snapshot of PostgreSQL open meanwhile.
	HoldSnapshot bool
}

// DefaultOptions are a drain of 100,000 small messages.
func DefaultOptions() Options {
	return Options{
		Mode: Drain, QueueSize: 100_000, Handlers: 1, Queues: 20, Concurrency: 100, PayloadBytes: 200,
		Retain: daemon.RetainArchive, Rate: 100, Duration: 30 * time.Second, Sleep: time.Minute,
	}
}

// The limits of the options.
const (
	minPayload     = 32
	maxMessages    = 100_000_000
	maxHandlers    = 100
	maxQueues      = 1000
	maxConcurrency = 100_000 // the daemon's own
	maxRate        = 1_000_000
	maxSteps       = 1000
)

// Check finds what cannot be measured, and names it as the flag is called.
func (o *Options) Check() error {
	for _, n := range []struct {
		flag                 string
		value, least, most   int
		drain, steady, inert bool
	}{
		{flag: "queue-size", value: o.QueueSize, least: 1, most: maxMessages, drain: true},
		{flag: "handlers", value: o.Handlers, least: 1, most: maxHandlers, drain: true, steady: true},
		{flag: "queues", value: o.Queues, least: 1, most: maxQueues, inert: true},
		{flag: "concurrency", value: o.Concurrency, least: 1, most: maxConcurrency, drain: true, steady: true, inert: true},
		{flag: "payload-bytes", value: o.PayloadBytes, least: minPayload, most: store.DefaultMaxPayloadBytes, drain: true, steady: true, inert: true},
		{flag: "backlog", value: o.Backlog, most: maxMessages, drain: true},
		{flag: "archived", value: o.Archived, most: maxMessages, drain: true, steady: true, inert: true},
		{flag: "delayed", value: o.Delayed, most: maxMessages, drain: true, steady: true, inert: true},
		{flag: "warm-up", value: o.WarmUp, most: maxMessages, drain: true},
		{flag: "in-flight", value: o.InFlight, most: maxConcurrency, drain: true},
		{flag: "steps", value: o.Steps, most: maxSteps, drain: true},
	} {
		used := o.Mode == Drain && n.drain || o.Mode == Steady && n.steady || o.Mode == Idle && n.inert
		if used && (n.value < n.least || n.value > n.most) {
			return fmt.Errorf("--%s must be %d to %d, not %d", n.flag, n.least, n.most, n.value)
		}
	}
	switch o.Mode {
	case Drain:
		return o.checkDrain()
	case Steady:
		return o.checkSteady()
	case Idle:
		return o.checkDuration()
	default:
		return fmt.Errorf("the mode must be drain, steady or idle, not %q", o.Mode)
	}
}

func (o *Options) checkDrain() error {
	switch {
	case o.Workflow && o.Retain != daemon.RetainArchive:
		return errors.New("--retain must be archive with --steps: runs of workflows stay")
	case o.Workflow && o.InFlight > 0:
		return errors.New("--in-flight is for jobs, not for --steps")
	case o.Retain != daemon.RetainArchive && o.Retain != daemon.RetainDelete:
		return fmt.Errorf("--retain must be %s or %s, not %q", daemon.RetainArchive, daemon.RetainDelete, o.Retain)
	case o.InFlight > 0 && o.Sleep < time.Second:
		return fmt.Errorf("--sleep must be at least 1s, not %s", o.Sleep)
	case o.perQueue(o.InFlight)+o.Concurrency > maxConcurrency:
		return fmt.Errorf("--in-flight and --concurrency must be at most %d together", maxConcurrency)
	}
	return nil
}

func (o *Options) checkSteady() error {
	switch {
	case o.Retain != daemon.RetainArchive:
		return errors.New("--retain must be archive: steady reads from the archive when each message began and ended")
	case !(o.Rate >= 0.1 && o.Rate <= maxRate): // NaN is in no range
		return fmt.Errorf("--rate must be 0.1 to %d messages a second, not %g", maxRate, o.Rate)
	case !(o.FailRate >= 0 && o.FailRate <= 1):
		return fmt.Errorf("--fail-rate must be a share, 0 to 1, not %g", o.FailRate)
	}
	return o.checkDuration()
}

func (o *Options) checkDuration() error {
	if o.Duration < time.Second || o.Duration > 24*time.Hour {
		return fmt.Errorf("--duration must be 1s to 24h, not %s", o.Duration)
	}
	return nil
}

// perQueue is one queue's share of n, rounded up.
func (o *Options) perQueue(n int) int { return (n + o.Handlers - 1) / o.Handlers }

// kind is what the queues hold.
func (o *Options) kind() store.QueueKind {
	if o.Workflow {
		return store.WorkflowQueue
	}
	return store.JobQueue
}

// Settings are the options as the report has them: those that the mode uses.
func (o *Options) settings() Settings {
	s := Settings{Concurrency: o.Concurrency, PayloadBytes: o.PayloadBytes, Archived: o.Archived, Delayed: o.Delayed}
	switch o.Mode {
	case Drain:
		s.QueueSize, s.Handlers, s.Retain, s.Backlog, s.WarmUp = o.QueueSize, o.Handlers, string(o.Retain), o.Backlog, o.WarmUp
		s.HoldSnapshot, s.Workflow, s.StepsPerWorkflow = o.HoldSnapshot, o.Workflow, o.Steps
		if o.InFlight > 0 {
			s.InFlight, s.SleepSeconds = o.InFlight, o.Sleep.Seconds()
		}
	case Steady:
		s.Handlers, s.Retain, s.Rate, s.FailRate = o.Handlers, string(o.Retain), o.Rate, o.FailRate
		s.DurationSeconds, s.HoldSnapshot = o.Duration.Seconds(), o.HoldSnapshot
	case Idle:
		s.Queues, s.DurationSeconds = o.Queues, o.Duration.Seconds()
	}
	return s
}
