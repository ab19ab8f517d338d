package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlPlaces = `
select distinct queue_id from (
    select queue_id from {{schema}}.messages where id = any($1::bigint[])
    union all
    select queue_id from {{schema}}.delayed where id = any($1::bigint[])
) p order by queue_id`

	sqlClaimLocks = `select pg_advisory_xact_lock($1, k) from unnest($2::int[]) k`

	// takeUnleased takes messages $1 out of where they wait. The claim locks of
	// their queues are held.
	takeUnleased = `
with waiting as (
    delete from {{schema}}.delayed d where d.id = any($1::bigint[]) and d.queue_id = any($2::int[])
    returning d.id, d.enqueued_at, d.queue_id, d.attempts, d.priority, d.headers, d.errors, d.payload
),
ready as (
    delete from {{schema}}.messages m where m.id = any($1::bigint[]) and m.queue_id = any($2::int[])
        and m.id not in (select unnest(c.ids) from {{schema}}.claims c where c.queue_id = any($2::int[]))
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
),
gone as (select * from waiting union all select * from ready)`

	sqlRemove = takeUnleased + `
select id from gone`

	sqlRemoveToArchive = takeUnleased + `,
archived as (
    insert into {{schema}}.archive
        (id, enqueued_at, finished_at, queue_id, state, attempts, priority, headers, errors, payload)
    select g.id, g.enqueued_at, t.now, g.queue_id, $4::text::{{schema}}.final_state, g.attempts, g.priority, g.headers,
        case when $5::text = '' then g.errors else {{schema}}.add_error(g.errors, g.attempts, t.now, $5, null) end, g.payload
    from gone g, (select coalesce($3::timestamptz, statement_timestamp()) as now) t
)
select id from gone`

	// sqlWhere says where messages are.
	sqlWhere = `
select id, 'archived' from {{schema}}.archive where id = any($1::bigint[])
union all
select id, 'delayed' from {{schema}}.delayed where id = any($1::bigint[])
union all
select m.id, case when exists (select from {{schema}}.claims c where m.id = any(c.ids)) then 'leased' else 'ready' end
from {{schema}}.messages m where m.id = any($1::bigint[])`
)

// removal is what becomes of messages that are taken out of their queue: they
// are archived in a state with a reason, or deleted where state is empty.
type removal struct {
	state  store.State
	reason string
}

// removeTries bounds how often messages are looked for that move meanwhile.
const removeTries = 5

// remove takes ready and delayed messages out. Each id has an error: ErrLeased,
// ErrTerminal or ErrNotFound.
func (s *Store) remove(ctx context.Context, op string, r removal, ids []int64) ([]error, error) {
	left := make(map[int64]error, len(ids))
	for _, id := range ids {
		left[id] = store.ErrNotFound
	}
	for range removeTries {
		pending := slices.Sorted(maps.Keys(left))
		again, err := s.removeOnce(ctx, op, r, pending, left)
		if err != nil {
			return nil, err
		}
		if !again {
			break
		}
	}
	errs := make([]error, len(ids))
	seen := make(map[int64]bool, len(ids))
	for i, id := range ids {
		errs[i] = left[id]
		if seen[id] && errs[i] == nil {
			errs[i] = store.ErrNotFound
			if r.state != "" {
				errs[i] = store.ErrTerminal
			}
		}
		seen[id] = true
	}
	return errs, nil
}

// removeOnce removes what it can from left and notes why it could not the
// rest. It reports whether some moved from one place to another meanwhile.
func (s *Store) removeOnce(ctx context.Context, op string, r removal, ids []int64, left map[int64]error) (again bool, err error) {
	places, err := rows(ctx, s, op, sqlPlaces, []any{ids}, pgx.RowTo[int32])
	if err != nil {
		return false, err
	}
	var woken []string
	b := s.batch()
	b.add(sqlClaimLocks, s.claimLock, places)
	b.add(sqlLockLimit, milliseconds(reclaimWait))
	var gone *pgx.QueuedQuery
	if r.state == "" {
		b.add(sqlLockForgotten, ids)
		gone = b.add(sqlRemove, ids, places)
	} else {
		b.add(sqlLockRunsOf, ids)
		gone = b.add(sqlRemoveToArchive, ids, places, s.now(), r.state, store.CleanError(r.reason))
	}
	var id int64
	gone.Query(func(r pgx.Rows) error {
		_, err := pgx.ForEachRow(r, []any{&id}, func() error {
			delete(left, id)
			return nil
		})
		return err
	})
	b.addEndChildren(ids, &woken)
	if r.state == "" {
		b.add(sqlForgetGone, ids)
	}
	b.add(sqlWhere, ids).Query(func(r pgx.Rows) error {
		var place string
		_, err := pgx.ForEachRow(r, []any{&id, &place}, func() error {
			if _, still := left[id]; !still {
				return nil
			}
			switch place {
			case "archived":
				left[id] = store.ErrTerminal
			case "leased":
				left[id] = store.ErrLeased
			default:
				left[id] = fmt.Errorf("it moved meanwhile: %w", store.ErrUnavailable)
				again = true
			}
			return nil
		})
		return err
	})
	if err := b.send(ctx, op); err != nil {
		return false, err
	}
	s.notifier.add(woken...)
	return again, nil
}
