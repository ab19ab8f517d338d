package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc/status"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// refusal is a start that failed because of the file itself: it is not tried
// again until the file changes.
type refusal struct {
	reason string
	// slow says that time ran out. On a machine that is overloaded, at boot
	// perhaps, that is not the file's fault: it is tried again now and then.
	slow bool
	// takenBy is the handler that serves a queue of this one already.
	takenBy string
}

func (r *refusal) Error() string { return r.reason }

func refuse(format string, args ...any) *refusal {
	return &refusal{reason: fmt.Sprintf(format, args...)}
}

// The exit statuses (EX_TEMPFAIL and EX_CONFIG in sysexits.h) with which a
// handler says that it cannot start yet, but may be able to later, and that it
// cannot start with the settings that it was given.
const (
	exitTemporary = 75
	exitConfig    = 78
)

const howToBuild = "build it with package handlers (handlers.Serve), or take it out of the plugins directory"

// explain turns what go-plugin says of a failed start into what the operator
// must know: what the file did and what to do about it. The process is dead.
func (l *launcher) explain(ctx context.Context, p *launched, r *pluginRunner, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("the start was called off: %w", ctx.Err())
	}
	if r.started != nil {
		return explainStart(r.started)
	}
	timedOut := ctx.Err() != nil
	line, printed := p.out.firstLine()
	if printed {
		if refused := explainHandshake(line, p.out.said()); refused != nil {
			return refused
		}
	}
	switch {
	case timedOut && printed:
		return &refusal{slow: true, reason: fmt.Sprintf("it completed the handshake but did not answer within %s%s", l.timeout, p.out.said())}
	case timedOut:
		return &refusal{slow: true, reason: fmt.Sprintf("it hung at its start: no handshake on its standard output within %s%s; %s",
			l.timeout, p.out.said(), howToBuild)}
	case p.child == nil:
		return fmt.Errorf("start the handler: %w", err)
	case p.child.selfEnded() && !printed && p.child.cmd.ProcessState.ExitCode() == exitTemporary:
		return fmt.Errorf("it is not ready yet (exit status %d)%s", exitTemporary, p.out.said())
	case p.child.selfEnded() && !printed && p.child.cmd.ProcessState.ExitCode() == exitConfig:
		return refuse("it cannot start with its settings (exit status %d)%s; see [handlers] in the configuration", exitConfig, p.out.said())
	case p.child.selfEnded() && !printed && killed(p.child.cmd.ProcessState):
		// As by the kernel when memory runs out: that says nothing of the file.
		return fmt.Errorf("it %s before the handshake%s", p.child.ending(), p.out.said())
	case p.child.selfEnded() && !printed:
		return refuse("it %s before the handshake%s; %s", p.child.ending(), p.out.said(), howToBuild)
	case p.child.selfEnded():
		// It is a handler, so the next try may go well.
		return fmt.Errorf("it %s at its start%s", p.child.ending(), p.out.said())
	}
	return refuse("it failed to start: %s%s", short(status.Convert(err).Message()), p.out.said())
}

// killed reports whether somebody else ended a process: it cannot have come to
// SIGKILL by itself.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func explainStart(err error) error {
	var path *os.PathError
	cause := err
	if errors.As(err, &path) {
		cause = path.Err
	}
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return refuse("this machine cannot run it (%v): it is no program, or one for another machine; %s", cause, howToBuild)
	case errors.Is(err, syscall.ENOENT):
		return refuse("it cannot be run (%v): the interpreter or loader that it names does not exist here", cause)
	case errors.Is(err, syscall.EACCES):
		return refuse("it may not be run (%v): check its mode, and that the state directory is not mounted noexec", cause)
	case errors.Is(err, syscall.ETXTBSY):
		return errBeingWritten
	}
	return fmt.Errorf("start the handler: %w", err)
}

// explainHandshake returns nil if the line is a handshake that we understand:
// CORE|PROTOCOL|NETWORK|ADDRESS|grpc
func explainHandshake(line, said string) error {
	parts := strings.Split(strings.TrimSpace(line), "|")
	core, err := strconv.Atoi(parts[0])
	if len(parts) < 4 || err != nil {
		return refuse("it printed %s where the handshake should be%s; if it is a handler, nothing may be printed before handlers.Serve, else %s",
			quoteShort(line), said, howToBuild)
	}
	if core != plugin.CoreProtocolVersion {
		return refuse("it speaks version %d of go-plugin's handshake, pgqrsd speaks %d; build it again with this version of package handlers", core, plugin.CoreProtocolVersion)
	}
	if parts[1] != strconv.Itoa(handlers.ProtocolVersion) {
		return refuse("it speaks version %s of the handler protocol, this pgqrsd speaks %d; build it again with this version of package handlers",
			short(parts[1]), handlers.ProtocolVersion)
	}
	if len(parts) < 5 || parts[4] != string(plugin.ProtocolGRPC) {
		return refuse("it is a go-plugin of another kind (no gRPC); %s", howToBuild)
	}
	return nil
}

// checkDescription refuses a handler that serves nothing that can be served.
func checkDescription(d *handlerpb.Description) *refusal {
	if len(d.GetQueues()) == 0 {
		return refuse("it serves no queue; give handlers.Serve at least one handler")
	}
	seen := make([]string, 0, len(d.GetQueues()))
	for _, q := range d.GetQueues() {
		if err := validQueueName(q.GetName()); err != nil {
			return refuse("%v", err)
		}
		if slices.Contains(seen, q.GetName()) {
			return refuse("it describes queue %q twice", q.GetName())
		}
		seen = append(seen, q.GetName())
	}
	return nil
}
