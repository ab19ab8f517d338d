package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/pgqrs/pgqrsd/internal/await"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// Limits of requests that wait for something.
const (
	maxWait    = 50 * time.Second // less than httpWrite
	maxWaiters = 1000
)

// runsAPI is the part of the HTTP API about runs of workflows.
type runsAPI struct {
	d *Daemon
	// stop ends with the daemon's HTTP, so that requests that wait do not hold it up.
	stop    context.Context
	limiter *rate.Limiter // of starts and signals; nil is no limit
	waiters chan struct{} // one token for each request that waits
}

func newRunsAPI(stop context.Context, d *Daemon) *runsAPI {
	a := &runsAPI{d: d, stop: stop, waiters: make(chan struct{}, maxWaiters)}
	if d.cfg.HTTPRate > 0 {
		a.limiter = rate.NewLimiter(rate.Limit(d.cfg.HTTPRate), d.cfg.HTTPBurst)
	}
	return a
}

func (a *runsAPI) route(mux *http.ServeMux) {
	handle := func(pattern string, limit time.Duration, serve func(context.Context, *http.Request) (int, any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			r.Body = http.MaxBytesReader(w, r.Body, maxRequestBytes)
			code, body, err := serve(ctx, r)
			if err != nil {
				a.d.fail(w, err)
				return
			}
			reply(w, code, body)
		})
	}
	handle("POST /api/v1/workflows/{name}/runs", httpCall, a.start)
	handle("GET /api/v1/workflows/{name}/runs", httpCall, a.list)
	handle("GET /api/v1/runs/{id}", httpCall, a.get)
	handle("POST /api/v1/runs/{id}/signals", httpCall, a.send)
	handle("POST /api/v1/runs/{id}/cancel", httpCall, a.cancel)
	handle("POST /api/v1/runs/{id}/pause", httpCall, a.steer(store.Workflows.Pause))
	handle("POST /api/v1/runs/{id}/resume", httpCall, a.steer(store.Workflows.Resume))
	handle("POST /api/v1/runs/{id}/retry", httpCall, a.steer(store.Workflows.Retry))
	handle("POST /api/v1/runs/{id}/fork", httpCall, a.fork)
	handle("GET /api/v1/runs/{id}/result", httpWrite, a.result)
	handle("GET /api/v1/runs/{id}/events/{name}", httpWrite, a.event)
}

// write is what every request that writes passes: its body, the memory for it,
// the rate, and a database that answers. Call release when the body is done with.
func (a *runsAPI) write(r *http.Request, in any) (release func(), err error) {
	if release, err = a.d.takeBody(r); err != nil {
		return nil, err
	}
	if err := a.admit(r, in); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (a *runsAPI) admit(r *http.Request, in any) error {
	if err := decodeBody(r.Body, in); err != nil {
		return err
	}
	return a.open(r)
}

// open says why nothing new may be written now.
func (a *runsAPI) open(r *http.Request) error {
	// Say so at once instead of letting requests pile up behind connect time-outs.
	if a.d.database.isDown() {
		return fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, store.ErrUnavailable)
	}
	// Suspending the daemon's producer shuts this door as it does that for messages.
	id := a.d.workers.producer().ID()
	if state := a.d.workers.state(id); state != store.WorkerReady {
		return &store.NotReadyError{Worker: id, State: state}
	}
	return a.takeRate()
}

func (a *runsAPI) takeRate() error {
	if a.limiter == nil {
		return nil
	}
	r := a.limiter.Reserve()
	if wait := r.Delay(); wait > 0 {
		r.Cancel()
		return &store.RateLimitError{RetryAfter: wait}
	}
	return nil
}

// newRun is the body of a start.
type newRun struct {
	// Input's bytes reach the workflow as they were written here; missing is null.
	Input   json.RawMessage   `json:"input"`
	Key     string            `json:"key"`
	Delay   string            `json:"delay"`
	Headers map[string]string `json:"headers"`
}

// made is how a start and a signal are answered: 201, or 200 with created false
// when one of this key was there.
type made struct {
	ID      int64 `json:"id"`
	Created bool  `json:"created"`
}

func madeCode(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

func (a *runsAPI) start(ctx context.Context, r *http.Request) (int, any, error) {
	var in newRun
	release, err := a.write(r, &in)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	run := store.NewRun{Workflow: r.PathValue("name"), Input: orNull(in.Input), Key: in.Key, Headers: in.Headers}
	if err := workflowName(run.Workflow); err != nil {
		return 0, nil, err
	}
	if run.Delay, err = duration("delay", in.Delay); err != nil {
		return 0, nil, err
	}
	if err := a.d.cfg.Validator.Validate(run.Input); err != nil {
		return 0, nil, err
	}
	id, created, err := a.d.cfg.Store.CreateWorkflow(ctx, run)
	if a.d.database.note(err) != nil {
		return 0, nil, err
	}
	if created {
		a.d.wakeQueue(run.Workflow)
	}
	return madeCode(created), made{id, created}, nil
}

func workflowName(name string) error {
	if err := store.ValidateWorkflowName(name); err != nil {
		return &requestError{http.StatusBadRequest, "workflow_name", err.Error()}
	}
	return nil
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

func (a *runsAPI) get(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := pathID(r, "run")
	if err != nil {
		return 0, nil, err
	}
	run, err := a.d.cfg.Store.Workflows().Get(ctx, id)
	if a.d.database.noteRead(err) != nil {
		return 0, nil, err
	}
	steps, err := a.d.cfg.Store.Workflows().Steps(ctx, id)
	if a.d.database.noteRead(err) != nil {
		return 0, nil, err
	}
	return http.StatusOK, view.OfRunDetail(run, steps), nil
}

// sentSignal is the body of a signal.
type sentSignal struct {
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload"` // missing is null
	Key     string          `json:"key"`
}

func (a *runsAPI) send(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := pathID(r, "run")
	if err != nil {
		return 0, nil, err
	}
	var in sentSignal
	release, err := a.write(r, &in)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	if in.Topic == "" {
		return 0, nil, &requestError{http.StatusBadRequest, "topic", `"topic" is missing or empty`}
	}
	signal := store.NewSignal{Run: id, Topic: in.Topic, Payload: orNull(in.Payload), Key: in.Key}
	if err := a.d.cfg.Validator.Validate(signal.Payload); err != nil {
		return 0, nil, err
	}
	sent, created, err := a.d.cfg.Store.Workflows().Send(ctx, signal)
	if a.d.database.note(err) != nil {
		return 0, nil, err
	}
	return madeCode(created), made{sent, created}, nil
}

// result answers how a run has ended: 200, or 202 when it has not.
func (a *runsAPI) result(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := pathID(r, "run")
	if err != nil {
		return 0, nil, err
	}
	patience, release, err := a.patience(ctx, r)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	run, err := await.End(ctx, patience, a.d.cfg.Store.Workflows(), id)
	if a.d.database.noteRead(err) != nil {
		return 0, nil, err
	}
	code := http.StatusAccepted
	if run.Status.Terminal() {
		code = http.StatusOK
	}
	return code, view.OfResult(run), nil
}

func (a *runsAPI) event(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := pathID(r, "run")
	if err != nil {
		return 0, nil, err
	}
	patience, release, err := a.patience(ctx, r)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	name := r.PathValue("name")
	event, found, err := await.Event(ctx, patience, a.d.cfg.Store.Workflows(), id, name)
	if a.d.database.noteRead(err) != nil {
		return 0, nil, err
	}
	if !found {
		return 0, nil, &requestError{http.StatusNotFound, "no_event", fmt.Sprintf("run %d has set no event %q", id, name)}
	}
	return http.StatusOK, view.OfEvent(event), nil
}

// patience is how long a request waits: as its query says, at most maxWait, or
// until the caller has gone or the daemon stops.
func (a *runsAPI) patience(ctx context.Context, r *http.Request) (patience context.Context, release func(), err error) {
	wait, err := duration("wait", r.URL.Query().Get("wait"))
	if err != nil {
		return nil, nil, err
	}
	patience, cancel := context.WithTimeout(ctx, min(wait, maxWait))
	if wait == 0 {
		return patience, cancel, nil
	}
	select {
	case a.waiters <- struct{}{}:
	default:
		cancel()
		return nil, nil, &requestError{http.StatusServiceUnavailable, ruleBusy, "too many requests wait for runs; try again"}
	}
	unhook := context.AfterFunc(a.stop, cancel)
	return patience, func() {
		unhook()
		cancel()
		<-a.waiters
	}, nil
}
