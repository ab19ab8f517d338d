package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlLoadRuns = `
SELECT j.key, w.news, coalesce(w.version, ''), w.cancelling, w.paused
FROM json_each(?1) j CROSS JOIN runs w ON w.run_id = j.value`
	// A running step is executed again: nothing is recorded of it.
	sqlLoadSteps = `
SELECT j.key, st.id, ` + columnsStep + `
FROM json_each(?1) j CROSS JOIN steps st ON st.run_id = j.value
WHERE st.state <> 'running'`
	sqlLoadSignals = `
SELECT j.key, ` + columnsSignal + `
FROM json_each(?1) j CROSS JOIN signals sg ON sg.run_id = j.value
WHERE sg.taken_name IS NULL`
)

func (w workflows) Load(ctx context.Context, ids ...int64) ([]store.RunState, error) {
	runs := make([]store.RunState, len(ids))
	for i, id := range ids {
		runs[i].Run = id
	}
	if len(ids) == 0 {
		return runs, nil
	}
	if err := w.d.view(ctx, func(v view) error { return load(v, runs, ids, w.d.now()) }); err != nil {
		return nil, fmt.Errorf("load %d runs: %w", len(ids), err)
	}
	return runs, nil
}

func load(v view, runs []store.RunState, ids []int64, now int64) error {
	list := []any{jsonIDs(ids)}
	var i int
	var news int64
	var p runPlace
	err := v.rows(sqlLoadRuns, list, scanInto(func() {
		runs[i].News, runs[i].Version, runs[i].Halt = news, p.version, p.halt()
	}, &i, &news, &p.version, &p.cancelling, &p.paused))
	if err != nil {
		return err
	}
	if err := loadSteps(v, runs, list, now); err != nil {
		return err
	}
	err = v.rows(sqlLoadSignals, list, func(rows *sql.Rows) error {
		var i int
		s, err := scanSignal(after{rows, []any{&i}})
		runs[i].Signals = append(runs[i].Signals, s)
		return err
	})
	for i := range runs {
		slices.SortFunc(runs[i].Signals, func(a, b store.Signal) int { return cmp.Compare(a.ID, b.ID) })
	}
	return err
}

// loadSteps puts the recorded steps in the order of recording, which no index of
// a run has.
func loadSteps(v view, runs []store.RunState, list []any, now int64) error {
	type recorded struct {
		id   int64
		step store.StepRecord
	}
	steps := make([][]recorded, len(runs))
	err := v.rows(sqlLoadSteps, list, func(rows *sql.Rows) error {
		var i int
		var r recorded
		var err error
		r.step, err = scanStep(after{rows, []any{&i, &r.id}}, now)
		steps[i] = append(steps[i], r)
		return err
	})
	if err != nil {
		return err
	}
	for i, of := range steps {
		slices.SortFunc(of, func(a, b recorded) int { return cmp.Compare(a.id, b.id) })
		for _, r := range of {
			runs[i].Steps = append(runs[i].Steps, r.step)
		}
	}
	return nil
}

// after is a row whose first columns go elsewhere.
type after struct {
	rows  *sql.Rows
	first []any
}

func (a after) Scan(dest ...any) error { return a.rows.Scan(append(a.first, dest...)...) }
