package daemon

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// A message that somebody writes by hand comes without a wake-up.
func TestAMessageWithoutAWakeUpIsFound(t *testing.T) {
	dsn, schema := pgtest.DSN(t), pgtest.Schema(t)
	cfg := testConfig(t, openPostgres(t, dsn, schema))
	cfg.PollInterval = 100 * time.Millisecond
	f := run(t, cfg)
	f.becomes(f.enqueue(order{})[0], store.Done)
	f.eventually("the queues wait to be woken", func() bool { return len(f.d.parkedQueues(0)) == 3 })

	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	table := pgx.Identifier{schema, "messages"}.Sanitize()
	var id int64
	err = conn.QueryRow(t.Context(), `insert into `+table+` (id, enqueued_at, ready_at, queue_id, attempts, priority, payload)
		select nextval($1), now(), now(), q.id, 0, 0, '{}' from `+pgx.Identifier{schema, "queues"}.Sanitize()+` q where q.name = 'work'
		returning id`, schema+".message_ids").Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	f.becomes(id, store.Done)
}
