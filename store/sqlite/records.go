package sqlite

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/pgqrs/pgqrsd/store"
)

// records is a table of whole numbers as one parameter: each row is a number
// of fields of fieldWidth digits, which SQL reads with substr in constant time:
//
//	WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1)
//	SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), ... FROM r
//
// json_each would do as well, but reading a row of it costs half as much again
// as inserting the message; and strings would have to be escaped.
type records struct {
	n   int
	buf []byte
}

const fieldWidth = 20

// grow makes room for n rows of so many fields.
func (r *records) grow(n, fields int) { r.buf = slices.Grow(r.buf, n*fields*fieldWidth) }

const zeros = "00000000000000000000"

func (r *records) add(fields ...int64) {
	r.n++
	for _, f := range fields {
		end := len(r.buf) + fieldWidth
		r.buf = append(r.buf, zeros...)
		if f < 0 {
			r.buf[end-fieldWidth] = '-'
		}
		for digits, at := magnitude(f), end; digits > 0; digits /= 10 {
			at--
			r.buf[at] = '0' + byte(digits%10)
		}
	}
}

// magnitude is the number without its sign, also of the smallest.
func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// texts is the strings of a batch, one after the other, as one parameter. SQL
// cuts them out by the place that add returns:
//
//	CAST(substr(?3, at>>31, at&0x7fffffff) AS TEXT)
type texts struct{ buf []byte }

// grow makes room for n bytes.
func (t *texts) grow(n int) { t.buf = slices.Grow(t.buf, n) }

// add returns the place, counted from 1, and the length, as one number: to
// take that apart costs less than to read another field.
func (t *texts) add(s []byte) int64 {
	at := int64(len(t.buf)) + 1
	t.buf = append(t.buf, s...)
	return at<<31 | int64(len(s))
}

// idList is ids as a parameter for json_each.
type idList []byte

func (l *idList) add(id int64) {
	if len(*l) == 0 {
		*l = append(*l, '[')
	} else {
		*l = append(*l, ',')
	}
	*l = strconv.AppendInt(*l, id, 10)
}

func (l idList) empty() bool { return len(l) == 0 }

// json is the list as it is passed on.
func (l idList) json() string { return string(l) + "]" }

func jsonIDs(ids []int64) string {
	if len(ids) == 0 {
		return "[]"
	}
	var l idList
	for _, id := range ids {
		l.add(id)
	}
	return l.json()
}

// With each row a message id, a worker and a claim.
const withLeases = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(i, id, worker_id, claim) AS (
    SELECT i, CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)`

const (
	// Most calls are about one run of leases, and a batch of one row costs more
	// than all the rest.
	sqlCountHeldRun = `
SELECT count(*) FROM leases WHERE message_id BETWEEN ?1 AND ?2 AND +worker_id = ?3 AND +claim = ?4`
	// With each row the first and the last id of a run of leases, and their
	// worker and claim.
	sqlCountHeld = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(lo, hi, worker_id, claim) AS (
    SELECT CAST(substr(?2, i*80 + 1, 20) AS INTEGER), CAST(substr(?2, i*80 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*80 + 41, 20) AS INTEGER), CAST(substr(?2, i*80 + 61, 20) AS INTEGER)
    FROM r)
SELECT count(*) FROM f
    CROSS JOIN leases l ON l.message_id BETWEEN f.lo AND f.hi AND +l.worker_id = f.worker_id AND +l.claim = f.claim`
	sqlListHeld = withLeases + `
SELECT f.i FROM f CROSS JOIN leases l ON l.message_id = f.id AND l.worker_id = f.worker_id AND l.claim = f.claim`
)

// held tells which leases are held. Usually all are, and then it costs no row.
func held(q querier, leases []store.Lease) ([]bool, error) {
	is := make([]bool, len(leases))
	if len(leases) == 0 {
		return is, nil
	}
	count, err := countHeld(q, leaseRuns(leases))
	if err != nil {
		return nil, err
	}
	if count == len(leases) {
		for i := range is {
			is[i] = true
		}
		return is, nil
	}
	if count == 0 {
		return is, nil
	}
	var rec records
	for _, l := range leases {
		rec.add(l.ID, l.Worker, l.Claim)
	}
	var i int
	return is, q.rows(sqlListHeld, []any{rec.n, rec.buf}, scanInto(func() { is[i] = true }, &i))
}

func countHeld(q querier, runs []leaseRun) (count int, err error) {
	if len(runs) == 1 {
		r := runs[0]
		err = q.row(sqlCountHeldRun, []any{r.first.ID, r.last, r.first.Worker, r.first.Claim}, &count)
		return count, err
	}
	var rec records
	rec.grow(len(runs), 4)
	for _, r := range runs {
		rec.add(r.first.ID, r.last, r.first.Worker, r.first.Claim)
	}
	err = q.row(sqlCountHeld, []any{rec.n, rec.buf}, &count)
	return count, err
}

// leaseRun is leases of one claim whose ids follow one another.
type leaseRun struct {
	first store.Lease
	last  int64 // the last one's id
}

// leaseRuns is leases as runs: few, for most of a claim is settled together.
func leaseRuns(leases []store.Lease) (runs []leaseRun) {
	byID := func(a, b store.Lease) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(leases, byID) {
		leases = slices.Clone(leases)
		slices.SortFunc(leases, byID)
	}
	first := leases[0]
	for i, l := range leases {
		if i+1 < len(leases) && leases[i+1] == (store.Lease{Worker: l.Worker, Claim: l.Claim, ID: l.ID + 1}) {
			continue
		}
		runs = append(runs, leaseRun{first, l.ID})
		if i+1 < len(leases) {
			first = leases[i+1]
		}
	}
	return runs
}

// byID is a table that is deleted from by message id: by one run of ids, or by many.
type byID struct{ run, runs string }

// With each row the first and the last id of a run.
const withRuns = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(lo, hi) AS (
    SELECT CAST(substr(?2, i*40 + 1, 20) AS INTEGER), CAST(substr(?2, i*40 + 21, 20) AS INTEGER) FROM r)`

const (
	sqlDeleteMessageRun  = `DELETE FROM messages WHERE id BETWEEN ?1 AND ?2`
	sqlDeleteMessageRuns = withRuns + `
DELETE FROM messages WHERE id IN (SELECT m.id FROM f CROSS JOIN messages m ON m.id BETWEEN f.lo AND f.hi)`

	sqlDeleteLeaseRun  = `DELETE FROM leases WHERE message_id BETWEEN ?1 AND ?2`
	sqlDeleteLeaseRuns = withRuns + `
DELETE FROM leases WHERE message_id IN (SELECT l.message_id FROM f CROSS JOIN leases l ON l.message_id BETWEEN f.lo AND f.hi)`

	sqlDeleteArchiveRun  = `DELETE FROM archive WHERE message_id BETWEEN ?1 AND ?2`
	sqlDeleteArchiveRuns = withRuns + `
DELETE FROM archive WHERE message_id IN (SELECT a.message_id FROM f CROSS JOIN archive a ON a.message_id BETWEEN f.lo AND f.hi)`

	sqlDeleteStepRun  = `DELETE FROM steps WHERE run_id BETWEEN ?1 AND ?2`
	sqlDeleteStepRuns = withRuns + `
DELETE FROM steps WHERE run_id IN (SELECT st.run_id FROM f CROSS JOIN steps st ON st.run_id BETWEEN f.lo AND f.hi)`

	sqlDeleteSignalRun  = `DELETE FROM signals WHERE run_id BETWEEN ?1 AND ?2`
	sqlDeleteSignalRuns = withRuns + `
DELETE FROM signals WHERE run_id IN (SELECT sg.run_id FROM f CROSS JOIN signals sg ON sg.run_id BETWEEN f.lo AND f.hi)`

	sqlDeleteEventRun  = `DELETE FROM events WHERE run_id BETWEEN ?1 AND ?2`
	sqlDeleteEventRuns = withRuns + `
DELETE FROM events WHERE run_id IN (SELECT e.run_id FROM f CROSS JOIN events e ON e.run_id BETWEEN f.lo AND f.hi)`

	sqlDeleteRunRun  = `DELETE FROM runs WHERE run_id BETWEEN ?1 AND ?2`
	sqlDeleteRunRuns = withRuns + `
DELETE FROM runs WHERE run_id IN (SELECT w.run_id FROM f CROSS JOIN runs w ON w.run_id BETWEEN f.lo AND f.hi)`
)

var (
	leasesOfMessages = []byID{{sqlDeleteLeaseRun, sqlDeleteLeaseRuns}}
	onlyMessages     = []byID{{sqlDeleteMessageRun, sqlDeleteMessageRuns}}
	archivedMessages = []byID{{sqlDeleteArchiveRun, sqlDeleteArchiveRuns}}
	allOfRuns        = []byID{
		{sqlDeleteStepRun, sqlDeleteStepRuns}, {sqlDeleteSignalRun, sqlDeleteSignalRuns},
		{sqlDeleteEventRun, sqlDeleteEventRuns}, {sqlDeleteRunRun, sqlDeleteRunRuns},
	}
)

// sqlAnyRun tells whether some of these messages may be runs of which
// something is recorded.
const sqlAnyRun = `SELECT EXISTS (SELECT 1 FROM runs WHERE run_id BETWEEN ?1 AND ?2)`

func anyRun(q querier, first, last int64) (is bool, err error) {
	return is, q.row(sqlAnyRun, []any{first, last}, &is)
}

// deleteMessages deletes what is left of messages that stand nowhere any more.
// A run that waited for one of them hears of it.
func (t *tx) deleteMessages(ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	is, err := anyRun(t, slices.Min(ids), slices.Max(ids))
	if err != nil {
		return err
	}
	if is {
		if err := t.runsEnded(ids); err != nil {
			return err
		}
		if err := t.deleteIDs(ids, allOfRuns); err != nil {
			return err
		}
	}
	return t.deleteIDs(ids, onlyMessages)
}

// deleteArchived deletes finished messages.
func (t *tx) deleteArchived(ids []int64) error {
	if err := t.deleteIDs(ids, archivedMessages); err != nil {
		return err
	}
	return t.deleteMessages(ids)
}

// deleteIDs deletes these messages from tables. Deleting a run of ids costs no
// look for each one, and most batches are one or few.
func (t *tx) deleteIDs(ids []int64, from []byID) error {
	if len(ids) == 0 {
		return nil
	}
	if !slices.IsSorted(ids) {
		ids = slices.Clone(ids)
		slices.Sort(ids)
	}
	var runs records
	first := ids[0]
	for i, id := range ids {
		if i+1 < len(ids) && ids[i+1] <= id+1 {
			continue
		}
		runs.add(first, id)
		if i+1 < len(ids) {
			first = ids[i+1]
		}
	}
	for _, table := range from {
		var err error
		if runs.n == 1 {
			_, err = t.exec(table.run, ids[0], ids[len(ids)-1])
		} else {
			_, err = t.exec(table.runs, runs.n, runs.buf)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
