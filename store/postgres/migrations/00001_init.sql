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
    output      json,
    failed      json -- of a run that a failed step has ended: the store.Places from which on a retry forgets its steps
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

-- What only some runs of a workflow have: those with a key, and those that
-- something is recorded of, or has come to. Whoever wakes a run, or lets it
-- wait, locks its row here first.
create table {{schema}}.runs (
    run_id     bigint primary key,
    queue_id   int not null,
    key        text collate "C",
    input_hash bytea,
    begun_at   timestamptz,
    version    text, -- of the handler that began it
    news       bigint not null default 0, -- what has come to it so far
    cancelling boolean not null default false,
    paused     boolean not null default false,
    held_until timestamptz, -- until when it was to wait when it was paused
    -- What it waits for while it is delayed. Null: it did not suspend itself,
    -- and nothing but the time wakes it.
    wait_kind  text,
    wait_for   text,
    -- The step that started it.
    parent_id         bigint,
    parent_name       text collate "C",
    parent_occurrence bigint
) with (fillfactor = 80);

create unique index runs_key on {{schema}}.runs (queue_id, key) where key is not null;
create index runs_parent on {{schema}}.runs (parent_id) where parent_id is not null;

create table {{schema}}.steps (
    run_id      bigint not null,
    seq         bigint generated always as identity, -- the order of recording
    occurrence  bigint not null,
    tries       int not null,
    position    int not null default 0, -- within the step's branch
    kind        text not null default 'step',
    name        text collate "C" not null,
    state       text not null,
    output      json,
    error       text,
    topic       text,
    child_id    bigint, -- the run that it started
    due_at      timestamptz, -- of a waiting step; null is never
    started_at  timestamptz not null,
    finished_at timestamptz,
    version     text, -- of the handler that called complete_step, '' if it did not say; of other steps null
    primary key (run_id, name, occurrence)
) with (fillfactor = 80);

-- Messages to runs. A run that has one has a row in runs.
create table {{schema}}.signals (
    id               bigint generated always as identity primary key,
    run_id           bigint not null,
    sent_at          timestamptz not null,
    topic            text not null,
    key              text collate "C",
    payload          json not null,
    taken_name       text collate "C", -- the step that received it
    taken_occurrence bigint
);

create index signals_run on {{schema}}.signals (run_id, id);
create index signals_open on {{schema}}.signals (run_id, id) where taken_name is null;
create unique index signals_key on {{schema}}.signals (run_id, key) where key is not null;

-- What runs have published. A run that has one has a row in runs.
create table {{schema}}.events (
    run_id bigint not null,
    set_at timestamptz not null,
    name   text collate "C" not null,
    value  json not null,
    primary key (run_id, name)
);

-- Appends to a message's errors and keeps the newest twenty.
create function {{schema}}.add_error(errors jsonb, attempt int, at timestamptz, error text, worker bigint)
returns jsonb language sql stable parallel safe as $$
    select case when jsonb_array_length(coalesce(errors, '[]')) >= 20 then errors - 0 else coalesce(errors, '[]') end
        || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
            'attempt', attempt, 'at', at, 'error', error, 'worker', worker)))
$$;

-- The functions below keep their plans for the session. One that was made while
-- a table was empty would read all of it when it is full: hence the settings.

-- Something has come to a run: it is ready if it waits, but for a time that it
-- did not ask for itself. Returns the name of its queue if it was woken.
create function {{schema}}.wake_run(run bigint, at timestamptz)
returns text language plpgsql as $fn$
#variable_conflict use_column
declare
    r     {{schema}}.runs;
    woken text;
begin
    update {{schema}}.runs u set news = u.news + 1 where u.run_id = wake_run.run returning u.* into r;
    if not found or r.paused or r.wait_kind is null then
        return null;
    end if;
    with back as (
        delete from {{schema}}.delayed d where d.id = wake_run.run
        returning d.id, d.enqueued_at, d.queue_id, d.attempts, d.priority, d.headers, d.errors, d.payload
    ),
    ready as (
        insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, errors, payload)
        select b.id, b.enqueued_at, wake_run.at, b.queue_id, b.attempts, b.priority, b.headers, b.errors, b.payload from back b
    )
    select (select q.name from {{schema}}.queues q where q.id = b.queue_id) into woken from back b;
    return woken;
end $fn$;

-- Removes the row of a run that is nowhere. Whoever locks rows of runs makes
-- those that are missing: also one that was removed while he waited for it.
create function {{schema}}.forget_gone(run bigint)
returns void language sql set enable_seqscan = off as $fn$
    delete from {{schema}}.runs r where r.run_id = forget_gone.run
        and not exists (select from {{schema}}.delayed d where d.id = forget_gone.run)
        and not exists (select from {{schema}}.messages m where m.id = forget_gone.run)
        and not exists (select from {{schema}}.archive a where a.id = forget_gone.run)
$fn$;

-- Says which rows of runs somebody keeps locked for longer than a moment; also
-- one who is only making them, which nobody else sees yet. It locks the others,
-- and makes those that are missing: the caller rolls back.
create function {{schema}}.runs_kept(ids bigint[], queues int[])
returns setof bigint language plpgsql set enable_seqscan = off set lock_timeout = '1ms' as $fn$
declare
    w record;
begin
    for w in select i.id, i.queue_id from unnest(runs_kept.ids, runs_kept.queues) as i(id, queue_id) order by i.id loop
        begin
            insert into {{schema}}.runs as r (run_id, queue_id) values (w.id, w.queue_id)
            on conflict (run_id) do update set news = r.news where false;
        exception when lock_not_available then
            return next w.id;
        end;
    end loop;
end $fn$;

-- Leaves a signal for a run, unless it has one of this key, and wakes it.
-- signal is null if the run is not there or has ended.
create function {{schema}}.signal_run(run bigint, topic text, payload json, key text, at timestamptz,
    out signal bigint, out created boolean, out woken text)
language plpgsql set enable_seqscan = off as $fn$
#variable_conflict use_column
begin
    created := false;
    -- This takes the lock also where the row is there.
    insert into {{schema}}.runs as r (run_id, queue_id)
    select w.id, w.queue_id from (
        select d.id, d.queue_id from {{schema}}.delayed d where d.id = signal_run.run
        union all
        select m.id, m.queue_id from {{schema}}.messages m where m.id = signal_run.run
    ) w where exists (select from {{schema}}.queues q where q.id = w.queue_id and q.kind = 'workflow')
    on conflict (run_id) do update set news = r.news where false;
    perform from {{schema}}.runs r where r.run_id = signal_run.run for update;
    if not found then
        return;
    end if;
    -- While the lock is held a run goes from delayed to messages, but not back.
    perform from {{schema}}.delayed d where d.id = signal_run.run;
    if not found then
        perform from {{schema}}.messages m where m.id = signal_run.run;
        if not found then
            -- It has ended. If it was removed, the row is one that the insert made
            -- again when it had waited for that.
            perform {{schema}}.forget_gone(signal_run.run);
            return;
        end if;
    end if;
    insert into {{schema}}.signals (run_id, sent_at, topic, key, payload)
    values (signal_run.run, signal_run.at, signal_run.topic, nullif(signal_run.key, ''), signal_run.payload)
    on conflict (run_id, key) where key is not null do nothing
    returning id into signal;
    created := found;
    if created then
        woken := {{schema}}.wake_run(signal_run.run, signal_run.at);
    else
        select g.id into signal from {{schema}}.signals g where g.run_id = signal_run.run and g.key = signal_run.key;
    end if;
end $fn$;

-- Says whether a run has as many signals that no step has taken as it may have
-- (store.MaxSignals and store.MaxSignalBytes), with one more of so many bytes.
create function {{schema}}.signals_full(run bigint, bytes bigint)
returns boolean language sql stable set enable_seqscan = off as $fn$
    select count(*) >= 10000 or coalesce(sum(octet_length(g.payload::text)), 0) + signals_full.bytes > 8388608
    from {{schema}}.signals g where g.run_id = signals_full.run and g.taken_name is null
$fn$;

-- signal_run for those outside, to whom it can be said that the run is full.
create function {{schema}}.send_outside(run bigint, topic text, payload json, key text, at timestamptz,
    out signal bigint, out created boolean, out woken text, out "full" boolean)
language plpgsql set enable_seqscan = off as $fn$
#variable_conflict use_column
begin
    -- One of a key that is there changes nothing.
    "full" := {{schema}}.signals_full(send_outside.run, octet_length(send_outside.payload::text)) and not exists (
        select from {{schema}}.signals g where g.run_id = send_outside.run and g.key = nullif(send_outside.key, ''));
    if not "full" then
        select s.signal, s.created, s.woken into signal, created, woken from {{schema}}.signal_run(send_outside.run,
            send_outside.topic, send_outside.payload, send_outside.key, send_outside.at) s;
    end if;
end $fn$;

-- Says whether JSON is nested deeper than so many arrays and objects: without its
-- strings, innermost pairs are taken away level by level.
create function {{schema}}.nested_deeper(value json, depth int)
returns boolean language plpgsql immutable as $fn$
declare
    brackets text := translate(regexp_replace(regexp_replace(nested_deeper.value::text, '"([^"\\]|\\.)*"', '', 'g'), '[^][{}]+', '', 'g'),
        '{}', '[]');
begin
    for i in 1 .. nested_deeper.depth loop
        exit when brackets = '';
        brackets := replace(brackets, '[]', '');
    end loop;
    return brackets <> '';
end $fn$;

-- Records the end of runs in the steps that started them, and wakes their
-- parents, whose rows of runs are locked. Those that have not ended are left
-- out. Returns the queues of those that were woken.
create function {{schema}}.end_children(ids bigint[], at timestamptz)
returns setof text language plpgsql set enable_seqscan = off as $fn$
declare
    c     record;
    ended {{schema}}.archive;
    woken text;
begin
    for c in
        select r.* from unnest(end_children.ids) i(id) cross join lateral (
            select r.run_id, r.parent_id, r.parent_name, r.parent_occurrence from {{schema}}.runs r where r.run_id = i.id offset 0
        ) r where r.parent_id is not null
    loop
        select a.* into ended from {{schema}}.archive a where a.id = c.run_id;
        if not found and (exists (select from {{schema}}.delayed d where d.id = c.run_id)
            or exists (select from {{schema}}.messages m where m.id = c.run_id)) then
            perform {{schema}}.forget_gone(c.parent_id);
            continue;
        end if;
        update {{schema}}.steps s
        set state = case when ended.state = 'done' then 'succeeded' else 'failed' end,
            output = case when ended.state = 'done' then ended.output end,
            error = case ended.state
                when 'done' then null
                when 'cancelled' then format('run %s was cancelled', c.run_id)
                when 'dead' then coalesce(ended.errors -> -1 ->> 'error', format('run %s failed', c.run_id))
                else format('run %s was deleted', c.run_id) end,
            finished_at = end_children.at
        where s.run_id = c.parent_id and s.name = c.parent_name and s.occurrence = c.parent_occurrence
            and s.child_id = c.run_id and s.state = 'waiting';
        if found then
            woken := {{schema}}.wake_run(c.parent_id, end_children.at);
            if woken is not null then
                return next woken;
            end if;
        else
            perform {{schema}}.forget_gone(c.parent_id);
        end if;
    end loop;
end $fn$;

-- For applications: leaves a signal for a run and wakes it, within the caller's
-- transaction. Of signals to one run with the same key the first is kept.
-- Returns the signal's id. A run that is not there or has ended, and a job, is
-- an error, PQ003; one that has too many signals that it has not received is
-- PQ004. The limits are those of package store.
create function {{schema}}.send_signal(run bigint, topic text, payload json, key text default null)
returns bigint language plpgsql as $fn$
declare
    sent record;
begin
    if coalesce(send_signal.topic, '') = '' or octet_length(send_signal.topic) > 200 or position('/' in send_signal.topic) > 0 then
        raise exception 'send a signal to run %: the topic must be 1 to 200 bytes long, without "/"', send_signal.run using errcode = '22023';
    elsif octet_length(send_signal.key) > 512 then
        raise exception 'send signal % to run %: the key is % bytes long, the limit is 512', send_signal.topic, send_signal.run,
            octet_length(send_signal.key) using errcode = '22023';
    elsif octet_length(send_signal.payload::text) > 1048576 then
        raise exception 'send signal % to run %: the payload is % bytes long, the limit is 1048576', send_signal.topic, send_signal.run,
            octet_length(send_signal.payload::text) using errcode = '22023';
    elsif {{schema}}.nested_deeper(send_signal.payload, 64) then
        raise exception 'send signal % to run %: the payload is nested deeper than 64', send_signal.topic, send_signal.run
            using errcode = '22023';
    end if;
    perform send_signal.payload::jsonb; -- which refuses NUL, half a surrogate pair and the like
    select s.* into sent from {{schema}}.send_outside(send_signal.run, send_signal.topic,
        coalesce(send_signal.payload, 'null'), send_signal.key, statement_timestamp()) s;
    if sent."full" then
        raise exception 'send signal % to run %: too many signals wait there to be received', send_signal.topic, send_signal.run
            using errcode = 'PQ004', hint = 'The limit is 10000, or 8 MiB of them. Send it again once the run has received some.';
    elsif sent.signal is null then
        raise exception 'send signal % to run %: %', send_signal.topic, send_signal.run, coalesce((
            select case when q.kind = 'workflow' then 'it has ended' else 'it is a job, not a run' end
            from (
                select a.queue_id from {{schema}}.archive a where a.id = send_signal.run
                union all
                select m.queue_id from {{schema}}.messages m where m.id = send_signal.run
                union all
                select d.queue_id from {{schema}}.delayed d where d.id = send_signal.run
            ) p join {{schema}}.queues q on q.id = p.queue_id limit 1), 'there is no such run') using errcode = 'PQ003';
    end if;
    if sent.woken is not null then
        perform pg_notify('{{channel}}', sent.woken);
    end if;
    return sent.signal;
end $fn$;

-- Records one step of a run that is held under a claim. It does for the step of a
-- lone run what a settlement's statements do for those of many: there the cost of
-- each statement is shared, here it would be most of what the step costs. Returns
-- null if the run is not held, else what it must do: 'cancel', 'pause' or ''. at
-- null is the time of the statement; a delay below zero is for ever.
create function {{schema}}.record_step(at timestamptz, worker bigint, claim bigint, run bigint, kind text, "position" int,
    name text, occurrence bigint, state text, tries int, took interval, output json, error text, topic text, delay interval)
returns text language plpgsql set enable_seqscan = off set lock_timeout = '{{settle_wait}}' as $fn$
#variable_conflict use_column
declare
    now      timestamptz := coalesce(record_step.at, statement_timestamp());
    began    timestamptz := now - record_step.took;
    due      timestamptz;
    finished timestamptz;
    halt     text;
begin
    -- The next statement then sees what others did who had the claim locked.
    perform from {{schema}}.claims c where c.worker_id = record_step.worker and c.claim = record_step.claim
        and record_step.run = any(c.ids) for no key update;
    if not found then
        return null;
    end if;
    select case when r.cancelling then 'cancel' when r.paused then 'pause' else '' end into halt from (
        select m.id from {{schema}}.messages m where m.id between record_step.run and record_step.run order by m.id limit 1
    ) m left join lateral (
        select r.cancelling, r.paused from {{schema}}.runs r where r.run_id = m.id limit 1
    ) r on true;
    if not found then
        return null;
    end if;
    if record_step.state <> 'waiting' then
        finished := now;
    elsif record_step.delay >= interval '0' then
        due := now + record_step.delay;
    end if;
    insert into {{schema}}.steps (run_id, kind, position, name, occurrence, state, tries, output, error, topic, due_at, started_at, finished_at)
    values (record_step.run, record_step.kind, record_step.position, record_step.name, record_step.occurrence, record_step.state,
        record_step.tries, record_step.output, record_step.error, record_step.topic, due, began, finished)
    on conflict (run_id, name, occurrence) do nothing;
    if not found then
        update {{schema}}.steps s set kind = record_step.kind, position = record_step.position, state = record_step.state,
            tries = greatest(s.tries, record_step.tries), output = record_step.output, error = record_step.error,
            topic = coalesce(record_step.topic, s.topic), due_at = due, finished_at = finished
        where s.run_id = record_step.run and s.name = record_step.name and s.occurrence = record_step.occurrence
            and (s.state = 'running' or s.state = 'waiting' and (record_step.state <> 'waiting' or record_step.tries > s.tries));
    end if;
    return halt;
end $fn$;

-- For handlers: records a step of a run as succeeded within the caller's
-- transaction, so that the step and the caller's writes are there together or
-- not at all. (worker, claim) is the lease that the run is held under: without
-- it the call is an error, PQ001; for a step that is recorded already, PQ002.
-- Until the transaction ends the lease can be renewed, and does not run out.
-- version is the handler's, for a run that has none yet. It stands with the step
-- until a settlement notes it in runs: the run's row there would be locked until
-- the caller commits, and with it whoever wakes, cancels or settles the run.
-- Returns what the run must do once the caller has committed: '', 'cancel' or
-- 'pause', as a step's reply says.
create function {{schema}}.complete_step(run bigint, worker bigint, claim bigint,
    name text, occurrence bigint, "position" int, output json default null, version text default null)
returns text language plpgsql set enable_seqscan = off as $fn$
#variable_conflict use_column
declare
    halt text;
    why  text;
    step text := left(complete_step.name, 256) || case when complete_step.occurrence > 0 then '#' || complete_step.occurrence else '' end;
begin
    -- What the daemon checks of the steps that it records; the output as well is to
    -- be what every reader of it can keep.
    why := case
        when complete_step.run is null or complete_step.worker is null or complete_step.claim is null then 'the run or its lease is null'
        when coalesce(complete_step.name, '') = '' then 'the name is empty'
        when octet_length(complete_step.name) > 256 then format('the name is %s bytes long, the limit is 256', octet_length(complete_step.name))
        when coalesce(complete_step.occurrence not between 0 and 2147483647, true) then 'the occurrence is negative, too large or null'
        when coalesce(complete_step.position < 0, true) then 'the position is negative or null'
        when octet_length(complete_step.output::text) > 16777216
            then format('the output is %s bytes long, the limit is 16777216', octet_length(complete_step.output::text))
        when {{schema}}.nested_deeper(complete_step.output, 500) then 'the output is nested deeper than 500' end;
    if why is not null then
        raise exception 'complete step % of run %: %', step, complete_step.run, why
            using errcode = '22023';
    end if;
    perform complete_step.output::jsonb; -- which refuses NUL and half a surrogate pair
    -- Who takes a run out of a claim that stays has its message locked: the claim is
    -- looked at when he has done so.
    perform from {{schema}}.messages m where m.id = complete_step.run for key share;
    if found then
        perform from {{schema}}.claims c where c.worker_id = complete_step.worker and c.claim = complete_step.claim
            and complete_step.run = any(c.ids) for key share;
    end if;
    if not found then
        raise exception 'complete step % of run %: worker % does not hold the run under claim %',
            step, complete_step.run, complete_step.worker, complete_step.claim
            using errcode = 'PQ001', hint = 'Roll back: the run is somebody else''s now, who executes the step again.';
    end if;
    if octet_length(complete_step.version) > 128 then
        raise exception 'complete step % of run %: the version is % bytes long, the limit is 128',
            step, complete_step.run, octet_length(complete_step.version)
            using errcode = '22023';
    end if;
    insert into {{schema}}.steps as s (run_id, occurrence, tries, position, kind, name, state, output, started_at, finished_at, version)
    values (complete_step.run, complete_step.occurrence, 1, complete_step.position, 'step', complete_step.name, 'succeeded',
        complete_step.output, transaction_timestamp(), clock_timestamp(), coalesce(complete_step.version, ''))
    on conflict (run_id, name, occurrence) do update set state = 'succeeded', output = excluded.output, error = null,
        version = excluded.version, due_at = null, finished_at = excluded.finished_at, tries = s.tries + case s.state when 'waiting' then 1 else 0 end
        where s.state in ('running', 'waiting');
    if not found then
        raise exception 'complete step % of run %: it is recorded already', step, complete_step.run
            using errcode = 'PQ002', hint = 'Roll back: its effects are in the database, and its result is the recorded one.';
    end if;
    select case when r.cancelling then 'cancel' when r.paused then 'pause' end into halt
    from {{schema}}.runs r where r.run_id = complete_step.run;
    return coalesce(halt, '');
end $fn$;
