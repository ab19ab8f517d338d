package pgxtx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/pgxtx"
	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// limit is how long anything may take on a busy machine.
const limit = 3 * time.Minute

// bench is one run in a real database, which the test leases as a daemon does,
// and a table of the application's beside it.
type bench struct {
	*testing.T
	schema   string
	store    store.Store
	consumer store.Consumer
	app      *pgxpool.Pool
	run      int64
	lease    store.Lease
	unfenced bool // the job says nothing of the lease, as a daemon on SQLite does
	// commit is what becomes of the next commits of the application; see wire.
	commit atomic.Int32
	bodies int // that have run
}

func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	dsn, schema := pgtest.DSN(t), pgtest.Schema(t)
	b := &bench{T: t, schema: schema}
	var err error
	b.store, err = anystore.OpenConfig(t.Context(), anystore.Config{DSN: dsn, Schema: schema, PoolSize: 4})
	b.must(err)
	t.Cleanup(func() { _ = b.store.Close() })
	b.must(b.store.Install(t.Context()))
	_, err = b.store.Queues().Insert(t.Context(), "q", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 5})
	b.must(err)
	b.consumer, err = b.store.Consumer(t.Context(), "q", store.WorkerOptions{})
	b.must(err)
	b.run, _, err = b.store.CreateWorkflow(t.Context(), store.NewRun{Workflow: "q", Input: []byte("null")})
	b.must(err)

	cfg, err := pgxpool.ParseConfig(dsn)
	b.must(err)
	cfg.ConnConfig.RuntimeParams["search_path"] = schema
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &wire{Conn: conn, commit: &b.commit}, err
	}
	b.app, err = pgxpool.NewWithConfig(t.Context(), cfg)
	b.must(err)
	t.Cleanup(b.app.Close)
	b.exec("create table effects (what text primary key, n int not null)")
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) exec(sql string, args ...any) {
	b.Helper()
	_, err := b.app.Exec(b.Context(), sql, args...)
	b.must(err)
}

// db is the application's database.
func (b *bench) db() pgxtx.DB { return pgxtx.InSchema(b.app, b.schema) }

// add does what the body is for: so many times it was done.
func add(ctx context.Context, tx pgx.Tx, what string) (n int, err error) {
	err = tx.QueryRow(ctx, `insert into effects as e values ($1, 1) on conflict (what) do update set n = e.n + 1 returning n`, what).Scan(&n)
	return n, err
}

// effect is how often it was done.
func (b *bench) effect(what string) (n int) {
	b.Helper()
	err := b.app.QueryRow(b.Context(), `select n from effects where what = $1`, what).Scan(&n)
	if !errors.Is(err, pgx.ErrNoRows) {
		b.must(err)
	}
	return n
}

// pay is a workflow of the one step "pay", whose body is counted.
func (b *bench) pay(db pgxtx.DB, body func(ctx context.Context, tx pgx.Tx) (int, error), opts ...handlers.StepOption) handlers.Handler {
	return handlers.Workflow("q", func(ctx context.Context, _ struct{}) (int, error) {
		return pgxtx.StepTx(ctx, db, "pay", func(ctx context.Context, tx pgx.Tx) (int, error) {
			b.bodies++
			return body(ctx, tx)
		}, opts...)
	})
}

// attempt leases the run, lets a handler process do it with all that is
// recorded, and settles as a daemon does. It returns what the handler said.
func (b *bench) attempt(h ...handlers.Option) *handlerpb.Result {
	b.Helper()
	r := b.try(h...)
	o := store.Outcome{Lease: b.lease, Steps: steps(r.Steps), Output: r.Output, Error: r.Error}
	switch r.Outcome {
	case handlerpb.Outcome_OUTCOME_DONE:
		o.Kind = store.OutcomeDone
	case handlerpb.Outcome_OUTCOME_DISCARD:
		o.Kind = store.OutcomeDiscard
	case handlerpb.Outcome_OUTCOME_WAIT: // for no longer than that
		o.Kind, o.Wait = store.OutcomeWait, &store.Wait{Kind: store.WaitKind(r.Wait.Kind), For: r.Wait.For}
	default:
		o.Kind = store.OutcomeRetry
	}
	b.settle(o)
	return r
}

func (b *bench) settle(o store.Outcome) {
	b.Helper()
	settled, err := b.consumer.Settle(b.Context(), []store.Outcome{o})
	b.must(err)
	if err := settled[0].Err; err != nil && !errors.Is(err, store.ErrLeaseLost) {
		b.Fatal(err)
	}
}

// try leases the run and lets a handler process do it.
func (b *bench) try(h ...handlers.Option) *handlerpb.Result {
	b.Helper()
	msgs, err := b.consumer.Dequeue(b.Context(), 1, time.Hour)
	b.must(err)
	if len(msgs) != 1 || msgs[0].ID != b.run {
		b.Fatalf("leased are %+v, want run %d", msgs, b.run)
	}
	b.lease = msgs[0].Lease
	states, err := b.store.Workflows().Load(b.Context(), b.run)
	b.must(err)
	job := &handlerpb.Job{Id: b.run, Claim: 1, Queue: "q", Payload: msgs[0].Payload, Version: states[0].Version}
	if !b.unfenced {
		job.Fence = &handlerpb.Fence{Worker: b.lease.Worker, Claim: b.lease.Claim}
	}
	for _, s := range states[0].Steps {
		state := map[store.StepState]handlerpb.StepState{
			store.StepSucceeded: handlerpb.StepState_STEP_STATE_SUCCEEDED, store.StepFailed: handlerpb.StepState_STEP_STATE_FAILED,
			store.StepWaiting: handlerpb.StepState_STEP_STATE_WAITING,
		}[s.State]
		job.Steps = append(job.Steps, &handlerpb.Step{
			Name: s.Name, Occurrence: uint32(s.Occurrence), Position: uint32(s.Position), State: state,
			Output: s.Output, Error: s.Error, Tries: uint32(s.Tries), DelayMs: new(int64),
		})
	}
	return b.serve(job, h...)
}

// serve runs a handler process's side, records the steps that it wants recorded,
// and returns its result.
func (b *bench) serve(job *handlerpb.Job, h ...handlers.Option) *handlerpb.Result {
	b.Helper()
	server, err := handlers.NewServer(h...)
	b.must(err)
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	handlerpb.RegisterHandlerServer(s, server)
	go func() { _ = s.Serve(listener) }()
	defer s.Stop()
	conn, err := grpc.NewClient("passthrough:", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	b.must(err)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	stream, err := handlerpb.NewHandlerClient(conn).Work(ctx)
	b.must(err)
	b.must(stream.Send(&handlerpb.HostFrame{
		Hello: &handlerpb.Hello{Queues: []*handlerpb.Hello_QueueSettings{{Name: "q", Concurrency: 1}}},
		Jobs:  []*handlerpb.Job{job},
	}))
	for {
		frame, err := stream.Recv()
		b.must(err)
		for _, c := range frame.StepCalls {
			b.settle(store.Outcome{Lease: b.lease, Kind: store.OutcomeStep, Steps: steps(c.Steps)})
			b.must(stream.Send(&handlerpb.HostFrame{StepReplies: []*handlerpb.StepReply{{Number: c.Number}}}))
		}
		if len(frame.Results) > 0 {
			return frame.Results[0]
		}
	}
}

// steps are a handler's steps in the store's words.
func steps(in []*handlerpb.Step) []store.StepResult {
	out := make([]store.StepResult, len(in))
	for i, s := range in {
		out[i] = store.StepResult{
			StepKey: store.StepKey{Name: s.Name, Occurrence: int(s.Occurrence)}, Position: int(s.Position), Tries: int(s.Tries),
			Output: s.Output, Error: s.Error,
			State: map[handlerpb.StepState]store.StepState{
				handlerpb.StepState_STEP_STATE_SUCCEEDED: store.StepSucceeded, handlerpb.StepState_STEP_STATE_FAILED: store.StepFailed,
				handlerpb.StepState_STEP_STATE_WAITING: store.StepWaiting,
			}[s.State],
		}
	}
	return out
}

// recorded checks the record of the step "pay".
func (b *bench) recorded(state store.StepState, output string, tries int) {
	b.Helper()
	got, err := b.store.Workflows().Steps(b.Context(), b.run)
	b.must(err)
	if len(got) != 1 || got[0].Name != "pay" || got[0].State != state || string(got[0].Output) != output || got[0].Tries != tries {
		b.Errorf("recorded are %+v, want pay %s with %s in try %d", got, state, output, tries)
	}
}

func (b *bench) noneRecorded() {
	b.Helper()
	if got, err := b.store.Workflows().Steps(b.Context(), b.run); err != nil || len(got) > 0 {
		b.Errorf("recorded are %+v, %v, want nothing", got, err)
	}
}

// done checks that the run has ended with an output, and its effect is there
// once after so many bodies.
func (b *bench) done(r *handlerpb.Result, output string, bodies int) {
	b.Helper()
	if r.Outcome != handlerpb.Outcome_OUTCOME_DONE || string(r.Output) != output {
		b.Errorf("the attempt is %v, want done with %s", r, output)
	}
	if n := b.effect("pay"); n != 1 || b.bodies != bodies {
		b.Errorf("the effect is there %d times after %d bodies, want once after %d", n, b.bodies, bodies)
	}
	run, err := b.store.Workflows().Get(b.Context(), b.run)
	b.must(err)
	if run.Status != store.RunSucceeded {
		b.Errorf("the run is %s: %v", run.Status, run.Errors)
	}
}

// What becomes of a commit.
const (
	commitArrives    = iota
	commitGoesLost   // the connection ends before the server has it
	commitUnanswered // the server has committed, and the connection ends before its answer
)

// wire is the application's connection, which may be lost at a commit.
type wire struct {
	net.Conn
	commit *atomic.Int32
	cut    atomic.Bool
}

func (w *wire) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("commit")) {
		switch w.commit.Swap(commitArrives) {
		case commitGoesLost:
			return 0, errors.Join(errors.New("the network is down"), w.Close())
		case commitUnanswered:
			w.cut.Store(true)
		}
	}
	return w.Conn.Write(p)
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if w.cut.Load() && err == nil {
		return 0, errors.Join(io.ErrUnexpectedEOF, w.Close())
	}
	return n, err
}
