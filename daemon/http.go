package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// The HTTP server's limits.
const (
	maxRequestBytes    = 32 << 20
	maxBodies          = 128 << 20 // of all requests that are being served
	maxRequestMessages = 10_000
	httpReadHeader     = 5 * time.Second
	httpRead           = 30 * time.Second
	httpWrite          = 60 * time.Second
	httpIdle           = 2 * time.Minute
	httpCall           = 20 * time.Second // of one request's work in the database
	httpShutdown       = 5 * time.Second
)

// ruleBusy refuses a request while the bodies of others fill maxBodies.
const ruleBusy = "busy"

// ruleLocked refuses what another transaction keeps locked for longer than the
// request may wait.
const ruleLocked = "locked"

func (d *Daemon) listenHTTP(ctx context.Context) (net.Listener, error) {
	if d.cfg.HTTPAddr == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", d.cfg.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP on %s: %w", d.cfg.HTTPAddr, err)
	}
	return l, nil
}

// serveHTTP serves until ctx ends.
func (d *Daemon) serveHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           d.handler(ctx),
		ReadHeaderTimeout: httpReadHeader,
		ReadTimeout:       httpRead,
		WriteTimeout:      httpWrite,
		IdleTimeout:       httpIdle,
		MaxHeaderBytes:    64 << 10,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpShutdown)
	defer cancel()
	if err := srv.Shutdown(last); err != nil {
		d.log.Warn("HTTP requests were cut off at the stop", "error", err)
		if err := srv.Close(); err != nil {
			d.log.Debug("close the HTTP server", "error", err)
		}
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	}
	return nil
}

// handler serves requests. Those that wait for something end with ctx.
func (d *Daemon) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/queues/{queue}/messages", d.postMessages)
	mux.HandleFunc("GET /api/v1/messages/{id}", d.getMessage)
	newRunsAPI(ctx, d).route(mux)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", d.getReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	// A page that a browser on this machine shows must not enqueue.
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		d.fail(w, &requestError{http.StatusForbidden, "cross_origin", "requests from web pages of other origins are refused"})
	}))
	return guard.Handler(d.jsonErrors(mux))
}

// jsonErrors answers for the mux what it has no handler for, as the API answers errors.
func (d *Daemon) jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refusal, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		said := refused{header: http.Header{}}
		refusal.ServeHTTP(&said, r)
		if said.code == http.StatusMethodNotAllowed {
			allow := said.header.Get("Allow")
			w.Header().Set("Allow", allow)
			d.fail(w, &requestError{said.code, "method", fmt.Sprintf("%s takes %s, not %s", r.URL.Path, allow, r.Method)})
			return
		}
		d.fail(w, &requestError{http.StatusNotFound, "unknown_path", fmt.Sprintf("there is no %s", r.URL.Path)})
	})
}

// refused keeps what the mux would have answered, but for its text.
type refused struct {
	header http.Header
	code   int
}

func (r *refused) Header() http.Header            { return r.header }
func (r *refused) WriteHeader(code int)           { r.code = code }
func (r *refused) Write(text []byte) (int, error) { return len(text), nil }

func (d *Daemon) postMessages(w http.ResponseWriter, r *http.Request) {
	release, err := d.takeBody(r)
	if err != nil {
		d.fail(w, err)
		return
	}
	defer release()
	msgs, err := decodeMessages(http.MaxBytesReader(w, r.Body, maxRequestBytes), r.PathValue("queue"))
	if err != nil {
		d.fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), httpCall)
	defer cancel()
	ids, err := d.enqueue(ctx, msgs)
	if err != nil {
		d.fail(w, err)
		return
	}
	reply(w, http.StatusCreated, struct {
		IDs []int64 `json:"ids"`
	}{ids})
}

// takeBody reserves memory for a request's body until release is called.
func (d *Daemon) takeBody(r *http.Request) (release func(), err error) {
	size := int64(maxRequestBytes)
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength)
	}
	if !d.bodies.TryAcquire(size) {
		return nil, &requestError{http.StatusServiceUnavailable, ruleBusy, "other requests hold all the memory for requests; try again"}
	}
	return func() { d.bodies.Release(size) }, nil
}

func (d *Daemon) enqueue(ctx context.Context, msgs []store.NewMessage) ([]int64, error) {
	// Say so at once instead of letting requests pile up behind connect time-outs.
	if d.database.isDown() {
		return nil, fmt.Errorf("enqueue: %w", store.ErrUnavailable)
	}
	ids, err := d.workers.producer().EnqueueBatch(ctx, msgs)
	if d.database.note(err) != nil {
		return nil, err
	}
	d.wakeQueue(msgs[0].Queue)
	return ids, nil
}

func (d *Daemon) getMessage(w http.ResponseWriter, r *http.Request) {
	id, err := pathID(r, "message")
	if err != nil {
		d.fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), httpCall)
	defer cancel()
	m, err := d.cfg.Store.Messages().Get(ctx, id)
	if d.database.noteRead(err) != nil {
		d.fail(w, err)
		return
	}
	reply(w, http.StatusOK, view.OfMessage(m))
}

// pathID reads the id that a path names: what says of what.
func pathID(r *http.Request, what string) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return 0, &requestError{http.StatusBadRequest, "id", fmt.Sprintf("%s id %q is not a number", what, r.PathValue("id"))}
	}
	return id, nil
}

// readiness is what /readyz answers.
type readiness struct {
	Ready bool `json:"ready"`
	// Missing says what keeps the daemon from being ready.
	Missing  []string      `json:"missing"`
	Handlers []host.Status `json:"handlers"`
}

func (d *Daemon) getReady(w http.ResponseWriter, r *http.Request) {
	out := readiness{Missing: []string{}, Handlers: d.handlers()}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := d.database.noteRead(d.cfg.Store.Ping(ctx)); err != nil {
		d.log.Debug("the database does not answer", "error", err)
		out.Missing = append(out.Missing, "database unavailable")
	}
	select {
	case <-d.host.Load().Settled():
	default:
		for _, h := range out.Handlers {
			if h.State == host.Starting {
				out.Missing = append(out.Missing, "handler "+h.Name+" is starting")
			}
		}
		if len(out.Missing) == 0 {
			out.Missing = append(out.Missing, "handlers are being looked for")
		}
	}
	if d.stopping.Load() {
		out.Missing = append(out.Missing, "the daemon is stopping")
	}
	out.Ready = len(out.Missing) == 0
	code := http.StatusOK
	if !out.Ready {
		code = http.StatusServiceUnavailable
	}
	reply(w, code, out)
}

// requestError is a request that breaks a rule of the API's own.
type requestError struct {
	code int
	rule string
	text string
}

func (e *requestError) Error() string { return e.text }

// failure is the body of every answer that is not a success.
type failure struct {
	Error string `json:"error"`
	Rule  string `json:"rule,omitempty"`
	// Index is the position in the batch of the message at fault.
	Index *int `json:"index,omitempty"`
	// Near are existing queues with names like the unknown one.
	Near []string `json:"near,omitempty"`
}

func (d *Daemon) fail(w http.ResponseWriter, err error) {
	code, body := explain(err)
	switch code {
	case http.StatusInternalServerError:
		d.log.Error("an HTTP request failed", "error", err)
	case http.StatusServiceUnavailable: // the cause is logged once
		d.log.Debug("an HTTP request was not served", "error", err)
	}
	var rate *store.RateLimitError
	if body.Rule == ruleBusy || body.Rule == ruleLocked {
		w.Header().Set("Retry-After", "1")
	}
	if errors.As(err, &rate) {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(rate.RetryAfter.Seconds())))))
	}
	reply(w, code, body)
}

// explain finds the status and the body for an error.
func explain(err error) (int, failure) {
	body := failure{Error: err.Error()}
	var (
		batch    *store.BatchError
		request  *requestError
		payload  *store.PayloadError
		unknown  *store.UnknownQueueError
		rate     *store.RateLimitError
		notReady *store.NotReadyError
	)
	if errors.As(err, &batch) {
		body.Index = &batch.Index
	}
	switch {
	case errors.As(err, &request):
		body.Rule = request.rule
		return request.code, body
	case errors.As(err, &payload):
		body.Rule = payload.Rule
		if payload.Rule == store.RuleMaxBytes {
			return http.StatusRequestEntityTooLarge, body
		}
		return http.StatusBadRequest, body
	case errors.As(err, &unknown):
		body.Rule, body.Near = "unknown_queue", unknown.Near
		return http.StatusNotFound, body
	case errors.As(err, &rate):
		body.Rule = "rate_limit"
		return http.StatusTooManyRequests, body
	case errors.As(err, &notReady):
		body.Rule = "producer_" + string(notReady.State)
		return http.StatusServiceUnavailable, body
	case errors.Is(err, store.ErrLocked): // by whom is for the log
		body.Error, body.Rule = store.ErrLocked.Error(), ruleLocked
		return http.StatusServiceUnavailable, body
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		body.Error, body.Rule = "database unavailable", "database_unavailable"
		return http.StatusServiceUnavailable, body
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound, body
	case errors.Is(err, store.ErrTerminal):
		body.Rule = "terminal"
		return http.StatusConflict, body
	case errors.Is(err, store.ErrSignalsFull):
		body.Rule = "signals_full"
		return http.StatusConflict, body
	case errors.Is(err, store.ErrKeyConflict):
		body.Rule = "key_conflict"
		return http.StatusConflict, body
	case errors.Is(err, store.ErrInvalid):
		body.Rule = "invalid"
		return http.StatusBadRequest, body
	}
	// What the database says of itself is for the log, not for a caller.
	body.Error = "internal error; the daemon's log says more"
	return http.StatusInternalServerError, body
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The status is out: a caller who went away has nothing to be told.
	_ = view.Encode(w, body, "")
}

// newMessages is the body of an enqueue.
type newMessages struct {
	Messages []newMessage `json:"messages"`
}

type newMessage struct {
	// Payload's bytes reach the handler as they were written here.
	Payload  json.RawMessage   `json:"payload"`
	Delay    string            `json:"delay"`
	Priority int               `json:"priority"`
	Headers  map[string]string `json:"headers"`
}
