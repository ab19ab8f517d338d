-- The tables of pgqrsd. {{schema}} is replaced before the file is run.
--
-- A message row is written once, when it becomes ready, and deleted once, when
-- it is finished. A lease is a row of claims for a whole batch; it never
-- touches the rows of its messages. No table has a foreign key: they would
-- lock the rows of queues and workers with each message.

-- Ids of messages, wherever they are. No cache: ids follow the order of enqueueing.
create sequence {{schema}}.message_ids as bigint;

create type {{schema}}.final_state as enum ('done', 'dead', 'cancelled');

create table {{schema}}.queues (
    id           int generated always as identity primary key,
    name         text collate "C" not null unique,
    kind         text not null,
    max_attempts int not null,
    retention_us bigint, -- null is for ever
    created_at   timestamptz not null
);

-- Messages that are ready or leased.
create table {{schema}}.messages (
    id          bigint not null,
    enqueued_at timestamptz not null,
    ready_at    timestamptz not null,
    queue_id    int not null,
    attempts    int not null, -- that have failed
    priority    smallint not null,
    headers     jsonb check (jsonb_typeof(headers) = 'object'),
    errors      jsonb check (jsonb_typeof(errors) = 'array'),
    payload     json not null,
    primary key (id)
) with (
    -- Rows live for seconds. Vacuum by number, not by share, so that a deep
    -- backlog does not put it off; never truncate, which locks the table.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 1, autovacuum_vacuum_cost_limit = 2000,
    vacuum_truncate = false
);

create index messages_line on {{schema}}.messages (queue_id, priority, id);

-- Messages that wait for a time. They never stand in front of ready ones.
create table {{schema}}.delayed (
    id          bigint primary key,
    enqueued_at timestamptz not null,
    due_at      timestamptz not null,
    queue_id    int not null,
    attempts    int not null,
    priority    smallint not null,
    headers     jsonb check (jsonb_typeof(headers) = 'object'),
    errors      jsonb check (jsonb_typeof(errors) = 'array'),
    payload     json not null
) with (autovacuum_vacuum_scale_factor = 0.05, vacuum_truncate = false);

create index delayed_due on {{schema}}.delayed (due_at);

-- One row for each leased batch. Claim numbers come from the worker's memory
-- and only grow.
create table {{schema}}.claims (
    worker_id  bigint not null,
    claim      bigint not null,
    leased_at  timestamptz not null,
    expires_at timestamptz not null,
    queue_id   int not null,
    ids        bigint[] not null, -- may still hold finished ones, which never come back
    started    bigint[],
    progress   jsonb,
    primary key (worker_id, claim)
) with (
    fillfactor = 60, -- renewals stay on their page
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, vacuum_truncate = false
);

-- Not compressed: that costs more than the rest of a claim.
alter table {{schema}}.claims alter column ids set storage external, alter column started set storage external;

create table {{schema}}.archive (
    id          bigint primary key,
    enqueued_at timestamptz not null,
    finished_at timestamptz not null,
    worker_id   bigint,
    queue_id    int not null,
    state       {{schema}}.final_state not null,
    attempts    int not null,
    priority    smallint not null,
    headers     jsonb check (jsonb_typeof(headers) = 'object'),
    errors      jsonb check (jsonb_typeof(errors) = 'array'),
    payload     json not null,
    output      json
);

-- Serves retention, counts and dead letters. A batch shares one key, so that
-- the index stays small.
create index archive_state on {{schema}}.archive (queue_id, state, finished_at);

create table {{schema}}.workers (
    id           bigint generated always as identity primary key,
    name         text not null,
    kind         text not null,
    queue_id     int, -- a consumer's
    state        text not null,
    slot         text not null,
    info         json,
    reclaimed    boolean not null default false,
    started_at   timestamptz not null,
    heartbeat_at timestamptz not null,
    stopped_at   timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The way to a queue's claims: a stopped worker has none.
create index workers_live on {{schema}}.workers (queue_id) where state <> 'stopped';

create table {{schema}}.leader (
    id         int primary key check (id = 1),
    worker_id  bigint not null,
    expires_at timestamptz not null
) with (fillfactor = 50);

-- What only some runs of a workflow have: a key, a beginning.
create table {{schema}}.runs (
    run_id     bigint primary key,
    queue_id   int not null,
    key        text collate "C",
    input_hash bytea,
    begun_at   timestamptz
);

create unique index runs_key on {{schema}}.runs (queue_id, key) where key is not null;

create table {{schema}}.steps (
    run_id      bigint not null,
    seq         bigint generated always as identity, -- the order of recording
    occurrence  bigint not null,
    tries       int not null,
    name        text collate "C" not null,
    state       text not null,
    output      json,
    error       text,
    started_at  timestamptz not null,
    finished_at timestamptz,
    primary key (run_id, name, occurrence)
) with (fillfactor = 80);

-- Appends to a message's errors and keeps the newest twenty.
create function {{schema}}.add_error(errors jsonb, attempt int, at timestamptz, error text, worker bigint)
returns jsonb language sql stable parallel safe as $$
    select case when jsonb_array_length(coalesce(errors, '[]')) >= 20 then errors - 0 else coalesce(errors, '[]') end
        || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
            'attempt', attempt, 'at', at, 'error', error, 'worker', worker)))
$$;
