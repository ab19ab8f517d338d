package storetest

import (
	"context"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func listenCases() []testCase {
	return []testCase{
		{"WakesOnEveryCause", listenWakes},
		{"AnotherHandle", listenAnotherHandle},
		{"ReturnsWhenItsContextEnds", listenEnds},
	}
}

// ear collects the wakes of one Listen.
type ear struct {
	*fixture
	wakes chan string
	ended chan error
	stop  context.CancelFunc
}

// listen starts Listen and waits until it hears, which cause brings about as
// often as needed: there is no other sign that it has begun.
func (f *fixture) listen(s store.Store, cause func()) *ear {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	e := &ear{fixture: f, wakes: make(chan string, 1000), ended: make(chan error, 1), stop: cancel}
	f.Cleanup(cancel)
	go func() {
		e.ended <- s.Listen(ctx, func(queue string) {
			select {
			case e.wakes <- queue:
			default: // full: the case has enough to see
			}
		})
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		cause()
		select {
		case <-e.wakes:
			e.flush()
			return e
		case err := <-e.ended:
			f.Fatalf("listen ended: %v", err)
		case <-f.ctx.Done():
			f.Fatal("listen heard nothing")
		case <-tick.C:
		}
	}
}

// quiet waits for the wake of what a case has just put on the queue, so that it
// is not taken for a later one.
func (e *ear) quiet(queue string) {
	e.Helper()
	e.hears(queue, "its preparation")
	e.flush()
}

// flush forgets what was heard so far.
func (e *ear) flush() {
	for {
		select {
		case <-e.wakes:
		default:
			return
		}
	}
}

// hears waits for a wake that concerns the queue.
func (e *ear) hears(queue, cause string) {
	e.Helper()
	for {
		select {
		case got := <-e.wakes:
			if got == queue || got == "" {
				return
			}
		case err := <-e.ended:
			e.Fatalf("listen ended: %v", err)
		case <-e.ctx.Done():
			e.Fatalf("no wake of queue %s after %s", queue, cause)
		}
	}
}

// listenWakes gives every cause a queue of its own, so that a late wake of one
// is not taken for another's.
func listenWakes(f *fixture) {
	warm := f.queue("warm")
	e := f.listen(f.s, func() { f.enqueue(warm, 1) })
	a := f.admin()
	causes := []struct {
		name string
		do   func(q string)
	}{
		{"enqueue", func(q string) { f.enqueue(q, 1) }},
		{"delayed", func(q string) { f.enqueue(q, 1, withDelay(lease)) }},
		{"producer", func(q string) {
			_, err := f.producer().Enqueue(f.ctx, messages(q, 1)[0])
			f.ok(err)
		}},
		{"release", e.settles(store.OutcomeRelease, 0)},
		{"retry", e.settles(store.OutcomeRetry, 0)},
		{"delayed-retry", e.settles(store.OutcomeRetry, lease)},
		{"snooze", e.settles(store.OutcomeSnooze, lease)},
		{"follow-up", func(q string) {
			source := f.queue(q + "-source")
			f.enqueue(source, 1)
			c := f.consumer(source)
			o := outcome(f.take1(c), store.OutcomeDone)
			o.Enqueue = messages(q, 1)
			e.flush()
			f.settleAs(c, store.Done, o)
		}},
		{"replay", func(q string) {
			id := f.enqueue1(q)
			errs, err := a.DeadLetter(f.ctx, "no", id)
			f.allOK(errs, err)
			e.quiet(q)
			errs, err = f.s.Archive().Replay(f.ctx, id)
			f.allOK(errs, err)
		}},
		{"release-worker", func(q string) {
			f.enqueue(q, 1)
			c := f.consumer(q)
			f.take1(c)
			e.quiet(q)
			_, err := a.ReleaseWorker(f.ctx, c.ID())
			f.ok(err)
		}},
		{"transition", func(q string) {
			c := f.consumer(q)
			e.flush()
			f.ok(f.s.Workers().Transition(f.ctx, c.ID(), store.WorkerSuspended))
		}},
		{"promote", func(q string) {
			f.enqueue(q, 1, withDelay(lease))
			f.clock.Advance(lease)
			e.quiet(q)
			_, _, err := a.Promote(f.ctx, 1000)
			f.ok(err)
		}},
		{"give-back", func(q string) {
			f.enqueue(q, 1)
			f.take1(f.consumer(q))
			f.runOut()
			e.quiet(q)
			_, err := a.GiveBack(f.ctx)
			f.ok(err)
		}},
	}
	for _, c := range causes {
		c.do(f.queue(c.name))
		e.hears(c.name, c.name)
	}
	e.stop()
	f.ok(<-e.ended)
}

// settles leases the queue's one message and settles it in one way.
func (e *ear) settles(kind store.OutcomeKind, delay time.Duration) func(string) {
	return func(q string) {
		e.enqueue(q, 1)
		c := e.consumer(q)
		o := outcome(e.take1(c), kind)
		o.Delay = delay
		e.quiet(q)
		e.settle(c, o)
	}
}

// listenAnotherHandle hears what another process does, where several daemons
// may share the store.
func listenAnotherHandle(f *fixture) {
	if f.s.ConcurrencyModel() != store.MultiProcess {
		f.Skip("one daemon at a time: its poll finds what other processes enqueue")
	}
	q := f.queue("q")
	other := f.on(f.second())
	e := f.listen(other.s, func() { f.enqueue(q, 1) })
	quiet := f.queue("quiet")
	c := f.consumer(quiet)
	f.ok(c.Suspend(f.ctx))
	e.hears(quiet, "suspend")
	e.stop()
	f.ok(<-e.ended)
}

func listenEnds(f *fixture) {
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	f.ok(f.s.Listen(ctx, func(string) {}))
}
