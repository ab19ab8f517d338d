package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// The hot statements, with parameters, and what their plans must have.
var hotPlans = []struct {
	name, settings, text string
	params               string
	want                 []string
}{
	{"claim", `select ` + planNested, sqlClaim, `null,1,'{1}','{1}',1,1,10,10,false,'{1}','{1}','{3}'`,
		[]string{"using messages_line", "(ROW(priority, id) > ROW(r.priority, r.id))", "(claim >= ", "NOT (hashed SubPlan"}},
	{"claim of what was found", `select ` + planNested + `, ` + planNow, sqlClaimFound, `null,1,'{1}','{1}',1,1,10,10,false,'{1}','{1}','{3}','{1}'`,
		[]string{"using messages_line", "using messages_pkey", "NOT (hashed SubPlan"}},
	{"probe", sqlProbePlan, sqlProbe, `null,1,'{1}','{1}','{1}','{1}',10`,
		[]string{"using messages_line", "(ROW(priority, id) <= ROW(r.priority, r.id))", "NOT (hashed SubPlan"}},
	{"lock claims", sqlSettlePlan, sqlLockClaims, `1,'{1}'`, []string{"(claim = k.claim)"}},
	{"settle done", sqlSettlePlan, sqlSettleDone, `null,1,'{1}','{1}','{1}','{""}'`,
		[]string{"(claim = k.claim)", "using messages_pkey", "Hash Join"}},
	{"settle deleted", sqlSettlePlan, sqlSettleDeleted, `1,'{1}','{1}','{1}'`,
		[]string{"(claim = k.claim)", "using messages_pkey", "Hash Join"}},
	{"drop claims", sqlSettlePlan, sqlDropClaims, `1,'{1}'`, []string{"(claim = k.claim)", "Tid Scan"}},
	{"lock runs", sqlFlowPlan, sqlLockRuns, `null,1,'{1}','{1}','{1}','{v1}','{f}','{0}','{1}','{}'`,
		[]string{"(claim = k", "using messages_pkey", "using runs_pkey", "using delayed_pkey"}},
	{"record steps of runs", sqlFlowPlan, sqlRunSteps,
		`null,'{1}','{step}','{0}','{a}','{0}','{succeeded}','{1}','{0}','{""}','{""}','{""}','{0}','{0}',1,'{1}','{1}','{1}','{1}'`,
		[]string{"(claim = k.claim)", "using messages_pkey", "using runs_pkey", "Hash Join"}},
	{"settle runs done", sqlSettlePlan, sqlRunsDone, `null,1,'{1}','{1}','{1}','{""}'`,
		[]string{"(claim = k.claim)", "using messages_pkey", "using runs_pkey", "Hash Join"}},
	{"look at held runs", sqlSettlePlan, sqlHeldRuns, `1,'{1}','{1}','{1}'`,
		[]string{"(claim = k.claim)", "using messages_pkey", "using runs_pkey"}},
	{"look at steps", sqlSettlePlan, sqlStepLook, `'{1}','{a}','{0}','{1}','{2}','{q}','{k}'`,
		[]string{"using steps_pkey", "using signals_", "using runs_pkey", "using runs_key", "using archive_pkey"}},
	{"take signals", sqlSettlePlan, sqlSignalsTake, `'{1}','{a}','{0}'`, []string{"using signals_pkey"}},
	{"load steps", sqlLoadPlan, sqlLoadSteps, `null,'{1}'`, []string{"using steps_pkey"}},
	{"load signals", sqlLoadPlan, sqlLoadSignals, `'{1}'`, []string{"using signals_open"}},
	{"load runs", sqlLoadPlan, sqlLoadRuns, `'{1}'`, []string{"using runs_pkey"}},
	{"promote", sqlPromotePlan, sqlPromote, `null,10,null`, []string{"using delayed_due", "using delayed_pkey"}},
	{"next due", sqlPromotePlan, sqlNextDue, `null,null`, []string{"using delayed_due"}},
	{"extend", sqlMarkPlan, sqlExtend, `null,1,'{1}','{1}','{1}',1`,
		[]string{"(claim = k.claim)", "using messages_pkey", "Tid Scan", "Hash Join"}},
}

// Whatever ANALYZE finds in the tables, the plans of the hot statements stay:
// one that follows the statistics is wrong a moment later, for minutes.
func TestHotPlansStay(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	newConsumer(t, s, "q")
	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	analyze := func() {
		for _, table := range []string{"messages", "claims", "workers", "archive", "queues", "runs", "steps", "signals", "delayed"} {
			exec("analyze " + s.schema + "." + table)
		}
	}
	checkPlans(t, s, conn, "never analyzed", keptPlans)
	analyze()
	checkPlans(t, s, conn, "empty", keptPlans)
	enqueue(t, s, "q", 10_000)
	// So many runs, with their steps and signals, most of which wait until they
	// are woken.
	exec(`insert into ` + s.schema + `.runs (run_id, queue_id, version, key) select g, 1, 'v1', 'k' || g from generate_series(1, 20000) g`)
	exec(`insert into ` + s.schema + `.steps (run_id, occurrence, tries, name, state, started_at)
		select g, n, 1, 'a', 'succeeded', now() from generate_series(1, 20000) g, generate_series(0, 2) n`)
	exec(`insert into ` + s.schema + `.signals (run_id, sent_at, topic, payload) select g, now(), 't', '1' from generate_series(1, 20000) g`)
	exec(`insert into ` + s.schema + `.delayed (id, enqueued_at, due_at, queue_id, attempts, priority, payload)
		select g, now(), 'infinity', 1, 0, 0, '1' from generate_series(20001, 40000) g`)
	exec(`insert into ` + s.schema + `.archive (id, enqueued_at, finished_at, queue_id, state, attempts, priority, payload)
		select g, now(), now(), 1, 'done', 0, 0, '1' from generate_series(40001, 60000) g`)
	exec(`insert into ` + s.schema + `.claims (worker_id, claim, leased_at, expires_at, queue_id, ids)
		select w.id, g, now(), now() + interval '1 h', w.queue_id, (select array_agg(i) from generate_series(g * 300, g * 300 + 299) i)
		from ` + s.schema + `.workers w, generate_series(1, 5000) g where w.queue_id is not null`)
	checkPlans(t, s, conn, "analyzed while empty", everyPlan)
	analyze()
	checkPlans(t, s, conn, "analyzed with a million ids leased", everyPlan)
	exec("delete from " + s.schema + ".claims")
	analyze()
	checkPlans(t, s, conn, "analyzed with dead claims only", everyPlan)
}

func everyPlan(string) bool { return true }

// keptPlans are those that may have been made while the tables were empty.
func keptPlans(settings string) bool { return !strings.Contains(settings, planNow) }

func checkPlans(t *testing.T, s *Store, conn *pgx.Conn, when string, checked func(settings string) bool) {
	t.Helper()
	for _, p := range hotPlans {
		if !checked(p.settings) {
			continue
		}
		plan := explain(t, s, conn, p.settings, p.text, p.params)
		for _, want := range p.want {
			if !strings.Contains(plan, want) {
				t.Errorf("%s, the plan of %s is without %q:\n%s", when, p.name, want, plan)
			}
		}
		if strings.Contains(plan, "Seq Scan") {
			t.Errorf("%s, the plan of %s reads a whole table:\n%s", when, p.name, plan)
		}
	}
}

// explain is a statement's plan under the settings that its transaction makes.
func explain(t *testing.T, s *Store, conn *pgx.Conn, settings, text, params string) string {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }() // nothing to keep
	for _, sql := range []string{s.sql(settings), "prepare hot as " + s.sql(text)} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := tx.Query(t.Context(), "explain execute hot("+params+")")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "deallocate hot"); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// A page of runs that have not ended costs no look at those that have, of which
// there may be millions.
func TestOpenRunsAreFoundWithoutTheArchive(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	states, flags, err := chosen(store.RunFilter{Open: true})
	if err != nil {
		t.Fatal(err)
	}
	params := `'q','{` + strings.Join(states, ",") + `}','` + flags + `',0,10`
	plan := explain(t, s, conn, `select set_config('plan_cache_mode', 'force_custom_plan', true)`, sqlRunList, params)
	if strings.Contains(plan, "archive") {
		t.Errorf("the plan reads the archive:\n%s", plan)
	}
	plan = explain(t, s, conn, `select set_config('plan_cache_mode', 'force_generic_plan', true)`, sqlRunList, params)
	if !strings.Contains(plan, "One-Time Filter: ($2 && ") {
		t.Errorf("the plan for all states reads the archive for each:\n%s", plan)
	}
}
