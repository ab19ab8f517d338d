package storetest

import (
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// Open opens a handle on one test's database and closes it by t.Cleanup. It is
// called more than once where a case needs two daemons on one database: each
// call is an independent handle with connections of its own, of the same
// schema or file. clock is its time; nil is the database's own.
type Open func(t *testing.T, clock store.Clock) store.Store

// Run runs the whole suite against one backend. create makes a database of the
// test's own (a schema, a file) that is not installed yet, arranges its removal
// by t.Cleanup, and returns how to open it; the suite itself calls Install.
// Cases run in parallel, so create and Open must be safe for concurrent use.
func Run(t *testing.T, create func(t *testing.T) Open) {
	t.Helper()
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					f := newFixture(t, create(t))
					if !g.bare {
						f.install()
					}
					c.run(f)
				})
			}
		})
	}
}

// group is the cases of one rule or one interface.
type group struct {
	name  string
	cases []testCase
	// bare groups install the schema themselves.
	bare bool
}

type testCase struct {
	name string
	run  func(f *fixture)
}

func groups() []group {
	return []group{
		{name: "Rule1_LeaseRunsOut", cases: leaseRunsOutCases()},
		{name: "Rule2_Fence", cases: fenceCases()},
		{name: "Rule3_Settle", cases: settleCases()},
		{name: "Rule4_AlwaysSomewhere", cases: ledgerCases()},
		{name: "Rule5_DeadWorkers", cases: deadWorkerCases()},
		{name: "Rule6_LongJobs", cases: longJobCases()},
		{name: "Rule7_Time", cases: timeCases()},
		{name: "Rule8_Batches", cases: batchCases()},
		{name: "Rule9_Install", cases: installCases(), bare: true},
		{name: "Handle", cases: handleCases()},
		{name: "Concurrency", cases: concurrencyCases()},
		{name: "Queues", cases: queueCases()},
		{name: "Metrics", cases: metricsCases()},
		{name: "Messages", cases: messageCases()},
		{name: "Payloads", cases: payloadCases()},
		{name: "Archive", cases: archiveCases()},
		{name: "Workers", cases: workerCases()},
		{name: "Transitions", cases: transitionCases()},
		{name: "Admin", cases: adminCases()},
		{name: "Producer", cases: producerCases()},
		{name: "Dequeue", cases: dequeueCases()},
		{name: "Consumer", cases: consumerCases()},
		{name: "Outcomes", cases: outcomeCases()},
		{name: "Maintenance", cases: maintenanceCases()},
		{name: "Workflows", cases: workflowCases()},
		{name: "Steps", cases: stepCases()},
		{name: "RunSteps", cases: runStepCases()},
		{name: "RunSignals", cases: signalCases()},
		{name: "RunControl", cases: controlCases()},
		{name: "RunChildren", cases: childCases()},
		{name: "Listen", cases: listenCases()},
	}
}
