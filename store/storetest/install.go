package storetest

import (
	"strings"
	"sync"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 9: two processes may install at the same time, and installing twice
// changes nothing.
func installCases() []testCase {
	return []testCase{
		{"BeforeInstall", beforeInstall},
		{"TwiceChangesNothing", installTwice},
		{"AtTheSameTime", installAtTheSameTime},
		{"ByAnAdmin", installByAdmin},
		{"SeenByAnotherHandle", installSeenByAnother},
	}
}

func beforeInstall(f *fixture) {
	s := f.open(f.T, f.clock.Clock())
	err := s.Verify(f.ctx)
	f.is(err, store.ErrNotInstalled)
	if !strings.Contains(err.Error(), "pgqrsd install") {
		f.Fatalf("the error does not name the command that installs: %v", err)
	}
	_, err = s.Admin(f.ctx, store.WorkerOptions{})
	f.is(err, store.ErrNotInstalled)
	_, err = s.Producer(f.ctx, store.ProducerOptions{})
	f.is(err, store.ErrNotInstalled)
	_, err = s.Consumer(f.ctx, "q", store.WorkerOptions{})
	f.is(err, store.ErrNotInstalled)
	f.ok(s.Ping(f.ctx))
}

func installTwice(f *fixture) {
	f.install()
	q := f.queue("q")
	id := f.enqueue1(q)
	before, err := f.admin().SystemStats(f.ctx)
	f.ok(err)
	f.ok(f.s.Install(f.ctx))
	f.ok(f.s.Verify(f.ctx))
	after, err := f.admin().SystemStats(f.ctx)
	f.ok(err)
	equal(f, "schema version", after.SchemaVersion, before.SchemaVersion)
	if after.SchemaVersion < 1 {
		f.Fatalf("schema version is %d", after.SchemaVersion)
	}
	f.state(id, store.Ready, 0)
}

func installAtTheSameTime(f *fixture) {
	const processes = 4
	handles := make([]store.Store, processes)
	for i := range handles {
		handles[i] = f.open(f.T, f.clock.Clock())
	}
	errs := make([]error, processes)
	var wg sync.WaitGroup
	for i, s := range handles {
		wg.Go(func() { errs[i] = s.Install(f.ctx) })
	}
	wg.Wait()
	f.allOK(errs, nil)
	for _, s := range handles {
		f.ok(s.Verify(f.ctx))
	}
	f.s = handles[0]
	q := f.queue("q")
	f.enqueue(q, 2)
	f.take(f.on(handles[1]).consumer(q), 2)
}

func installByAdmin(f *fixture) {
	f.install()
	a := f.admin()
	f.ok(a.Install(f.ctx))
	f.ok(a.Verify(f.ctx))
}

func installSeenByAnother(f *fixture) {
	early := f.open(f.T, f.clock.Clock())
	f.is(early.Verify(f.ctx), store.ErrNotInstalled)
	f.install()
	f.ok(early.Verify(f.ctx))
	q := f.queue("q")
	f.enqueue(q, 1)
	f.take(f.on(early).consumer(q), 1)
}
