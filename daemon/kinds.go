package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// kindOfQueue is the kind of queue that a handler takes its own for.
func kindOfQueue(s host.ServedQueue) store.QueueKind {
	if s.Kind == handlerpb.Description_KIND_WORKFLOW {
		return store.WorkflowQueue
	}
	return store.JobQueue
}

// kindError says that a queue is of another kind than its handler.
type kindError struct {
	queue     string
	was, want store.QueueKind
}

func (e *kindError) Error() string {
	return fmt.Sprintf("queue %s holds messages as a queue of kind %s, and the handler serves it as kind %s; name the handler's queue otherwise, or empty this one and its archive",
		e.queue, e.was, e.want)
}

// ensureQueue creates a queue or sets its policy. An empty kind keeps an
// existing queue's. A queue that holds something keeps its kind: another one is
// a *kindError.
func (d *Daemon) ensureQueue(ctx context.Context, name string, kind store.QueueKind) error {
	was, err := d.cfg.Store.Queues().Get(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if kind == "" {
			kind = store.JobQueue
		}
	case err != nil:
		return d.database.noteRead(err)
	case kind == "":
		kind = was.Kind
	case kind != was.Kind:
		if err := d.mayChangeKind(ctx, was, kind); err != nil {
			return err
		}
	}
	_, err = d.cfg.Store.Queues().Ensure(ctx, name, d.settings.Load().queueConfig(name).policy(kind))
	return d.database.note(err)
}

// mayChangeKind reports whether a queue is empty, so that its kind says nothing
// yet. The configuration's queues are made before any handler says what they are.
func (d *Daemon) mayChangeKind(ctx context.Context, was store.Queue, kind store.QueueKind) error {
	one := store.MessageFilter{Queue: was.Name, Page: store.Page{Limit: 1}}
	for _, list := range []func(context.Context, store.MessageFilter) ([]store.Message, error){
		d.cfg.Store.Messages().List, d.cfg.Store.Archive().List,
	} {
		found, err := list(ctx, one)
		if d.database.noteRead(err) != nil {
			return fmt.Errorf("look whether queue %s is empty: %w", was.Name, err)
		}
		if len(found) > 0 {
			return &kindError{queue: was.Name, was: was.Kind, want: kind}
		}
	}
	return nil
}

// misfits are the queues that are not served because of a kindError, and when
// to look at them again. They belong to the supervision's goroutine.
type misfits map[string]time.Time

// waits reports whether it is too early to look again.
func (m misfits) waits(s host.ServedQueue, now time.Time) bool { return now.Before(m[s.Name]) }

// found notes a misfit, and says so the first time.
func (m misfits) found(s host.ServedQueue, err *kindError, log *slog.Logger) {
	if _, before := m[s.Name]; !before {
		log.Error("a queue is not served, because it is of another kind", "queue", s.Name, "handler", s.Handler, "error", err)
	}
	m[s.Name] = time.Now().Add(lookAgain)
}

func (m misfits) fits(s host.ServedQueue) { delete(m, s.Name) }

// forget has all misfits looked at, and spoken of, again.
func (m misfits) forget() { clear(m) }
