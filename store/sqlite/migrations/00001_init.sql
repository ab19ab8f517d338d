-- Times are microseconds since 1970, UTC. Nothing is a foreign key: every
-- write that moves a row does so in one transaction of the only writer.

-- +goose Up
CREATE TABLE queues (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT    NOT NULL UNIQUE,
    kind         TEXT    NOT NULL,
    max_attempts INTEGER NOT NULL,
    retention    INTEGER NOT NULL, -- microseconds; negative is for ever
    created_at   INTEGER NOT NULL
) STRICT;

-- The source of message ids: one update takes the ids of a whole batch, and
-- no id is ever taken twice.
CREATE TABLE message_ids (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL
) STRICT;
INSERT INTO message_ids (id, last) VALUES (1, 0);

-- Every message, finished or not. Its row is written when it is enqueued and
-- stays where it is; only a failed attempt changes it. Where the message stands
-- is a narrow row in one of the next four tables: ready, leases, delayed or
-- archive.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY,
    queue_id    INTEGER NOT NULL,
    priority    INTEGER NOT NULL,
    attempts    INTEGER NOT NULL, -- failed ones
    enqueued_at INTEGER NOT NULL,
    headers     TEXT CHECK (json_type(headers) = 'object'),
    errors      TEXT CHECK (json_type(errors) = 'array'), -- of store.AttemptError
    payload     TEXT    NOT NULL
) STRICT;

-- Ready messages in the order of leasing, and nothing else: a claim takes the
-- first ones out, so that none has to step over what is leased.
CREATE TABLE ready (
    queue_id   INTEGER NOT NULL,
    priority   INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    ready_at   INTEGER NOT NULL,
    PRIMARY KEY (queue_id, priority, message_id)
) STRICT, WITHOUT ROWID;

-- Leased messages.
CREATE TABLE leases (
    message_id INTEGER PRIMARY KEY,
    worker_id  INTEGER NOT NULL,
    claim      INTEGER NOT NULL,
    queue_id   INTEGER NOT NULL,
    ready_at   INTEGER NOT NULL, -- as it was
    started    INTEGER NOT NULL DEFAULT 0,
    progress   TEXT -- a JSON store.Progress
) STRICT, WITHOUT ROWID;

-- Messages that wait for a time. They never stand in front of ready ones.
CREATE TABLE delayed (
    message_id INTEGER PRIMARY KEY,
    queue_id   INTEGER NOT NULL,
    due_at     INTEGER NOT NULL -- the largest number is never
) STRICT;
CREATE INDEX delayed_due ON delayed (queue_id, due_at);

-- Finished messages.
CREATE TABLE archive (
    message_id  INTEGER PRIMARY KEY,
    queue_id    INTEGER NOT NULL,
    -- An IN would cost as much as the rest of the row.
    state       TEXT    NOT NULL CHECK (state = 'done' OR state = 'dead' OR state = 'cancelled'),
    finished_at INTEGER NOT NULL,
    worker_id   INTEGER, -- the one that finished it
    output      TEXT,
    failed      TEXT     -- of a run that a failed step has ended: the store.Places from which on a retry forgets its steps
) STRICT;
-- Serves retention, counts and dead letters.
CREATE INDEX archive_state ON archive (queue_id, state, finished_at);

CREATE TABLE workers (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    queue        TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    slot         TEXT    NOT NULL,
    info         TEXT,            -- a JSON object
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    stopped_at   INTEGER,
    reclaimed    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row for each batch that a consumer leased.
CREATE TABLE claims (
    worker_id  INTEGER NOT NULL,
    claim      INTEGER NOT NULL,
    queue_id   INTEGER NOT NULL,
    held       INTEGER NOT NULL, -- how many leases it has left
    leased_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (worker_id, claim)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_expiry ON claims (queue_id, expires_at);

-- Who does maintenance.
CREATE TABLE leader (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    worker_id  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- Ids of queues and workers start at 2. SQLite plans a statement anew whenever
-- a parameter that it compares with = turns from -1, 0 or 1 into another
-- number or back, which would be each time that queue 1 and another take turns.
INSERT INTO sqlite_sequence (name, seq) VALUES ('queues', 1), ('workers', 1);

-- What only workflow runs have beside their message. A run that has a row in
-- one of the next three tables has one here.
CREATE TABLE runs (
    run_id     INTEGER PRIMARY KEY,
    queue_id   INTEGER NOT NULL,
    key        TEXT,
    input_hash TEXT    NOT NULL DEFAULT '',
    parent_id  INTEGER, -- the run that started this one as a step
    begun_at   INTEGER,
    version    TEXT,    -- of the handler that began it
    news       INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    paused     INTEGER NOT NULL DEFAULT 0,
    held_until INTEGER, -- until when it was to wait when it was paused
    -- What it waits for while it is delayed; NULL if it did not suspend itself,
    -- and then nothing but the time wakes it.
    wait_kind  TEXT,
    wait_for   TEXT
) STRICT;
CREATE UNIQUE INDEX runs_key ON runs (queue_id, key) WHERE key IS NOT NULL;
CREATE INDEX runs_parent ON runs (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE steps (
    id          INTEGER PRIMARY KEY, -- the order of recording
    run_id      INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    occurrence  INTEGER NOT NULL,
    kind        TEXT    NOT NULL DEFAULT 'step',
    position    INTEGER NOT NULL DEFAULT 0,
    state       TEXT    NOT NULL,
    tries       INTEGER NOT NULL,
    output      TEXT,
    error       TEXT,
    due_at      INTEGER, -- of a waiting step; NULL is never
    topic       TEXT,
    child_id    INTEGER, -- the run that it started
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    UNIQUE (run_id, name, occurrence)
) STRICT;
CREATE INDEX steps_child ON steps (child_id) WHERE child_id IS NOT NULL;

-- Messages to runs.
CREATE TABLE signals (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id           INTEGER NOT NULL,
    topic            TEXT    NOT NULL,
    key              TEXT,
    payload          TEXT    NOT NULL,
    sent_at          INTEGER NOT NULL,
    taken_name       TEXT,   -- the step that received it
    taken_occurrence INTEGER
) STRICT;
CREATE INDEX signals_run ON signals (run_id);
CREATE INDEX signals_open ON signals (run_id) WHERE taken_name IS NULL;
CREATE UNIQUE INDEX signals_key ON signals (run_id, key) WHERE key IS NOT NULL;

-- What runs have published.
CREATE TABLE events (
    run_id INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    value  TEXT    NOT NULL,
    set_at INTEGER NOT NULL,
    PRIMARY KEY (run_id, name)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE events;
DROP TABLE signals;
DROP TABLE steps;
DROP TABLE runs;
DROP TABLE leader;
DROP TABLE claims;
DROP TABLE workers;
DROP TABLE archive;
DROP TABLE delayed;
DROP TABLE leases;
DROP TABLE ready;
DROP TABLE messages;
DROP TABLE message_ids;
DROP TABLE queues;
