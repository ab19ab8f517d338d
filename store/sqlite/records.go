package sqlite

import (
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

func (r *records) add(fields ...int64) {
	r.n++
	for _, f := range fields {
		var digits [fieldWidth]byte
		text := strconv.AppendInt(digits[:0], f, 10)
		pad := fieldWidth - len(text)
		if f < 0 {
			r.buf = append(r.buf, '-')
			text = text[1:]
		}
		for range pad {
			r.buf = append(r.buf, '0')
		}
		r.buf = append(r.buf, text...)
	}
}

// texts is the strings of a batch, one after the other, as one parameter. SQL
// cuts them out by the place and length that add returns.
type texts struct{ buf []byte }

// add returns the place, from 1, and the length.
func (t *texts) add(s []byte) (at, length int64) {
	at = int64(len(t.buf)) + 1
	t.buf = append(t.buf, s...)
	return at, int64(len(s))
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
	sqlCountHeld = withLeases + `
SELECT count(*) FROM f CROSS JOIN leases l ON l.message_id = f.id AND l.worker_id = f.worker_id AND l.claim = f.claim`
	sqlListHeld = withLeases + `
SELECT f.i FROM f CROSS JOIN leases l ON l.message_id = f.id AND l.worker_id = f.worker_id AND l.claim = f.claim`
)

// held tells which leases are held. Usually all are, and then it costs no row.
func held(q querier, leases []store.Lease) ([]bool, error) {
	is := make([]bool, len(leases))
	if len(leases) == 0 {
		return is, nil
	}
	var rec records
	for _, l := range leases {
		rec.add(l.ID, l.Worker, l.Claim)
	}
	var count int
	if err := q.row(sqlCountHeld, []any{rec.n, rec.buf}, &count); err != nil {
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
	var i int
	return is, q.rows(sqlListHeld, []any{rec.n, rec.buf}, scanInto(func() { is[i] = true }, &i))
}
