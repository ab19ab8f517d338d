// Command transfer is a workflow that moves money between two tables of the
// application, exactly once, whatever is killed in between: each of its steps
// is one transaction with the record of the step.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/pgxtx"
)

func main() {
	b := &bank{}
	handlers.Serve(
		handlers.Workflow("transfer", b.transfer),
		handlers.Setup(func() error { return b.open(os.Getenv) }),
	)
}

// Transfer moves an amount from a current account to a savings account.
type Transfer struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Cents int64  `json:"cents"`
}

// Booked is what a transfer left in the accounts.
type Booked struct {
	Current int64 `json:"current"`
	Savings int64 `json:"savings"`
}

// bank keeps the tables transfer.current and transfer.savings.
type bank struct{ db pgxtx.DB }

// tables creates them. Two processes may start at once.
const tables = `
select pg_advisory_xact_lock(hashtext('transfer.tables'));
create schema if not exists transfer;
create table if not exists transfer.current (account text primary key, cents bigint not null check (cents >= 0));
create table if not exists transfer.savings (account text primary key, cents bigint not null check (cents >= 0));`

func (b *bank) open(env func(string) string) error {
	dsn := env("TRANSFER_DSN")
	if dsn == "" {
		return errors.New("TRANSFER_DSN is empty: set it in [handlers.transfer.env] to the database that the daemon uses")
	}
	pool, err := pgxpool.New(context.Background(), dsn)
	if err != nil {
		return fmt.Errorf("open the bank's database: %w", err)
	}
	if _, err := pool.Exec(context.Background(), tables); err != nil {
		return fmt.Errorf("create the bank's tables: %w", err)
	}
	b.db = pool
	if schema := env("TRANSFER_SCHEMA"); schema != "" {
		b.db = pgxtx.InSchema(pool, schema)
	}
	return nil
}

// transfer takes the money in one transaction and brings it in another. In
// between, the money is on its way, and the run knows it.
func (b *bank) transfer(ctx context.Context, in Transfer) (Booked, error) {
	var out Booked
	if in.Cents <= 0 {
		return out, handlers.Discard(fmt.Errorf("cannot transfer %d cents", in.Cents))
	}
	var err error
	out.Current, err = pgxtx.StepTx(ctx, b.db, "take", func(ctx context.Context, tx pgx.Tx) (int64, error) {
		var left int64
		err := tx.QueryRow(ctx, `update transfer.current set cents = cents - $2 where account = $1 returning cents`, in.From, in.Cents).Scan(&left)
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, fmt.Errorf("there is no current account %q", in.From)
		}
		return left, err
	})
	if err != nil {
		return out, err
	}
	out.Savings, err = pgxtx.StepTx(ctx, b.db, "bring", func(ctx context.Context, tx pgx.Tx) (int64, error) {
		var now int64
		err := tx.QueryRow(ctx, `insert into transfer.savings as s values ($1, $2)
			on conflict (account) do update set cents = s.cents + excluded.cents returning cents`, in.To, in.Cents).Scan(&now)
		return now, err
	})
	return out, err
}
