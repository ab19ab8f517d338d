package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// workers are the daemon's identities in the database: the admin that does
// maintenance and publishes the handlers, and the producer that HTTP enqueues
// through. Each queue has its own consumer.
type workers struct {
	d    *Daemon
	opts store.WorkerOptions

	mu          sync.Mutex
	theAdmin    store.Admin
	theProducer store.Producer
	states      map[int64]store.WorkerState
	// published is what publish wrote last, and for which admin; its caller
	// is one goroutine.
	published   []byte
	publishedBy int64
}

// start takes back what a dead daemon in this slot held and registers anew.
func (w *workers) start(ctx context.Context, s *slot) error {
	w.opts = store.WorkerOptions{Name: s.name, Slot: s.id}
	if err := w.reclaimSlot(ctx); err != nil {
		return err
	}
	admin, err := w.d.cfg.Store.Admin(ctx, w.opts)
	if err != nil {
		return fmt.Errorf("register the admin worker: %w", err)
	}
	producer, err := w.newProducer(ctx)
	if err != nil {
		return fmt.Errorf("register the producer: %w", err)
	}
	w.theAdmin, w.theProducer = admin, producer
	w.states = map[int64]store.WorkerState{}
	return nil
}

// reclaimSlot uses an admin of its own, because the slot's own workers must
// not be there yet.
func (w *workers) reclaimSlot(ctx context.Context) (err error) {
	admin, err := w.d.cfg.Store.Admin(ctx, store.WorkerOptions{})
	if err != nil {
		return fmt.Errorf("register an admin worker: %w", err)
	}
	defer func() { err = errors.Join(err, admin.Close(ctx)) }()
	back, err := admin.ReclaimSlot(ctx, w.opts.Slot)
	switch {
	case errors.Is(err, store.ErrUnavailable):
		// Somebody keeps a row locked, for as long as he likes. What could not be
		// taken back now has no heartbeat any more, so that the maintenance does it.
		// If it is the database that is away, registering fails next.
		w.d.log.Warn("not all that an earlier daemon held here could be taken back; the maintenance does it later", "slot", w.opts.Name, "error", err)
	case err != nil:
		return fmt.Errorf("take back what an earlier daemon in slot %s held: %w", w.opts.Name, err)
	}
	if back != (store.GivenBack{}) {
		w.d.log.Warn("an earlier daemon died here; its messages were taken back",
			"workers", back.Workers, "ready", back.Ready, "dead", back.Dead)
	}
	return nil
}

func (w *workers) newProducer(ctx context.Context) (store.Producer, error) {
	c := w.d.cfg
	return c.Store.Producer(ctx, store.ProducerOptions{
		WorkerOptions: w.opts, Validator: c.Validator, Rate: c.HTTPRate, Burst: c.HTTPBurst,
	})
}

func (w *workers) admin() store.Admin {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.theAdmin
}

func (w *workers) producer() store.Producer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.theProducer
}

// state is a worker's as last seen; ready before it was.
func (w *workers) state(id int64) store.WorkerState {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.states[id]; s != "" {
		return s
	}
	return store.WorkerReady
}

// saw takes the states that the database answered for the admin and the
// producer. One that was taken for dead while it lived registers anew.
func (w *workers) saw(ctx context.Context, states map[int64]store.WorkerState) error {
	for _, worker := range []store.Worker{w.admin(), w.producer()} {
		id, was := worker.ID(), w.state(worker.ID())
		is := states[id]
		// One that was shut down stays down, also when its row is purged.
		if is == was || was == store.WorkerStopped && is == "" {
			continue
		}
		if is == "" || is == store.WorkerStopped {
			reclaimed, err := w.reclaimed(ctx, id)
			if err != nil {
				return err
			}
			if reclaimed {
				if err := w.renew(ctx, worker, was); err != nil {
					return err
				}
				continue
			}
		}
		w.mu.Lock()
		w.states[id] = is
		w.mu.Unlock()
		if w.d.stopping.Load() {
			continue // by this daemon itself
		}
		w.d.log.Warn("a worker of this daemon was asked to change its state", "worker", id, "kind", kindOf(worker), "from", was, "to", is)
		if kindOf(worker) == store.KindAdmin && is != store.WorkerReady {
			w.d.log.Error("this daemon does no maintenance while its admin is not ready; unless another daemon does, delayed messages and retries wait", "worker", id, "admin", is)
		}
	}
	return nil
}

// reclaimed reports whether a stopped or missing worker was taken for dead, and
// not shut down by someone.
func (w *workers) reclaimed(ctx context.Context, id int64) (bool, error) {
	rec, err := w.d.cfg.Store.Workers().Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read why worker %d stopped: %w", id, err)
	}
	return rec.Reclaimed, nil
}

// renew replaces an admin or a producer by a new one in the same state.
func (w *workers) renew(ctx context.Context, old store.Worker, was store.WorkerState) error {
	var (
		worker store.Worker
		err    error
	)
	kind := kindOf(old)
	if kind == store.KindAdmin {
		worker, err = w.d.cfg.Store.Admin(ctx, w.opts)
	} else {
		worker, err = w.newProducer(ctx)
	}
	if err != nil {
		return fmt.Errorf("register the %s anew: %w", kind, err)
	}
	if was == store.WorkerSuspended {
		if err := worker.Suspend(ctx); err != nil {
			return fmt.Errorf("suspend the new %s, as the old one was: %w", kind, err)
		}
	}
	w.mu.Lock()
	switch worker := worker.(type) {
	case store.Admin:
		w.theAdmin = worker
	case store.Producer:
		w.theProducer = worker
	}
	delete(w.states, old.ID())
	w.states[worker.ID()] = was
	w.mu.Unlock()
	w.d.log.Warn("this daemon was taken for dead; its worker registered anew", "kind", kind, "old", old.ID(), "new", worker.ID())
	w.d.changed.raise() // the new admin has published nothing yet
	return nil
}

func kindOf(w store.Worker) store.WorkerKind {
	if _, ok := w.(store.Admin); ok {
		return store.KindAdmin
	}
	return store.KindProducer
}

// info is what the admin worker publishes, for `pgqrsd handler list`.
type info struct {
	Version  string        `json:"version"`
	HTTP     string        `json:"http"`
	Handlers []host.Status `json:"handlers"`
}

// handlers is the host's view of its handlers; never nil.
func (d *Daemon) handlers() []host.Status {
	if handlers := d.host.Load().Status(); handlers != nil {
		return handlers
	}
	return []host.Status{}
}

// publish tells the fleet what this daemon's handlers are.
func (w *workers) publish(ctx context.Context) error {
	in := info{Version: w.d.cfg.Version, HTTP: w.d.HTTPAddr(), Handlers: w.d.handlers()}
	raw, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode the handlers' states: %w", err)
	}
	id := w.admin().ID()
	if id == w.publishedBy && bytes.Equal(raw, w.published) {
		return nil
	}
	if err := w.d.cfg.Store.Workers().SetInfo(ctx, id, raw); err != nil {
		return fmt.Errorf("publish the handlers' states: %w", err)
	}
	w.publishedBy, w.published = id, raw
	return nil
}
