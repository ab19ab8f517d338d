package host

import (
	"log/slog"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Config says where handlers are and how they are treated.
type Config struct {
	// Dir is the plugins directory. Every executable regular file in it
	// (symlinks followed; dotfiles and names ending in "~" left out) is a
	// handler binary. It may be missing; it is looked for again at every scan.
	Dir string
	// Commands are further handlers that are started by command line instead
	// of being found in Dir, such as a handler built into the daemon's binary.
	Commands []Command
	// StateDir is a directory of the host's own for staged copies and sockets.
	// It is created 0700. It must not be mounted noexec.
	StateDir string
	// Version is pgqrsd's own, told to handlers.
	Version string
	// Settings are re-read whenever Reload is called.
	Settings Settings

	// ScanInterval is how often Dir is looked at; default 1s.
	ScanInterval time.Duration
	// StartTimeout is how long a process may take from start to Describe; default 10s.
	StartTimeout time.Duration
	// PingInterval and PingTimeout find processes that hang; defaults 5s and 30s.
	PingInterval, PingTimeout time.Duration
	// DrainTimeout is how long the running jobs of a process that was replaced,
	// removed or holds a stuck job may take before they are cancelled; default
	// 30s. Settings may have another.
	DrainTimeout time.Duration
	// CancelGrace is how long a job may run on after its timeout or its
	// cancellation before its process is killed; default 10s.
	CancelGrace time.Duration
	// RestartMin and RestartMax bound the jittered exponential backoff between
	// a crash and the restart; defaults 100ms and 30s.
	RestartMin, RestartMax time.Duration

	Logger *slog.Logger
	// OnChange is called, without blocking for long, after a queue began or
	// ceased to be served or a handler's Status changed.
	OnChange func()
	// OnRestart is called for each restart after a crash, for the metrics.
	OnRestart func(handler string)
}

// Command is a handler that is started by command line.
type Command struct {
	Name string
	Path string
	Args []string
}

// Settings are the part of the configuration that may change while running.
type Settings struct {
	// Handlers are by file name. A change restarts the handler, drained.
	Handlers map[string]HandlerSettings
	// Concurrency says how many jobs of a queue may run at once.
	Concurrency func(queue string) int
	// DrainTimeout takes the place of Config's; 0 is that one.
	DrainTimeout time.Duration
}

// HandlerSettings are one handler binary's.
type HandlerSettings struct {
	// Env is all of the environment that the process gets, besides PATH, HOME,
	// LANG, TZ, TMPDIR and what the protocol needs.
	Env map[string]string
	// Args are the process's arguments.
	Args []string
}

// State is where a handler binary is in its life.
type State string

// The states of a handler. A settled handler is serving, refused or failed.
const (
	Starting   State = "starting"
	Serving    State = "serving"
	Restarting State = "restarting" // crashed; waits for its backoff
	Refused    State = "refused"    // no plugin, another protocol, or its queues are taken; tried again when the file changes
	Draining   State = "draining"
)

// Status is one file of the plugins directory, as `pgqrsd handler list` shows it.
type Status struct {
	Name   string   `json:"name"`
	Path   string   `json:"path"`
	State  State    `json:"state"`
	Queues []string `json:"queues"`
	Error  string   `json:"error"`
	PID    int      `json:"pid,omitempty"`
	// Version and SDK are what the handler says of itself.
	Version  string `json:"version,omitempty"`
	SDK      string `json:"sdk,omitempty"`
	Restarts int    `json:"restarts"`
}

// ServedQueue is a queue that a process is ready to work on.
type ServedQueue struct {
	Name    string
	Kind    handlerpb.Description_Kind
	Handler string
	// Versions are those of the runs that a workflow's handler carries on; nil is
	// all of them.
	Versions []string
}

// Ref names an attempt.
type Ref struct {
	ID    int64
	Claim int64
}

// Result is what became of a job that was sent. There is exactly one for each.
type Result struct {
	*handlerpb.Result
	// Started says that the job's code had begun to run, or may have: when a
	// process crashes, the jobs that it had room to run count as started even
	// if it had not come to say so.
	Started bool
	// Crashed says that the process ended, or was killed, before the job had a
	// result; Error says how. Outcome is then RETRY for a started job, and RELEASE
	// for one that was only sent, or that had been cancelled because the process
	// was replaced or removed.
	Crashed bool
	// Elapsed is how long the job ran, by the host's clock; 0 if it never started.
	Elapsed time.Duration
	// Version is that of the handler whose process gave the result; empty if the
	// host gave it itself.
	Version string
}

// Sink takes what a queue's handler says. Its methods are called from the
// stream's reader, one at a time for each process, and must not block. Of one
// frame they are called in the order Started, Beats, Steps, Results.
type Sink interface {
	// Room says that credit was added, or that the queue began or ceased to be served.
	Room()
	Started(refs []Ref)
	Results(results []Result)
	Beats(beats []*handlerpb.Beat)
	// Steps is called with the step calls of runs of workflows, by a handler of
	// this version. Each is to be answered with Lane.Reply.
	Steps(version string, calls []*handlerpb.StepCall)
}
