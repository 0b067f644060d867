-- The schema `dunlin_controller` exists already: the history of these migrations stands in it.
--
-- Changes of this schema only ever expand it: replicas of the version before go on working beside those of the next.
-- The CHECK constraints are the invariants of the state machines in src/domain. None lists words, since a list could never grow: a
-- controller refuses a word that it does not know, and only for what the word belongs to.

-- Every definition that was ever registered. A run executes the one with its checksum, also after a change.
CREATE TABLE dunlin_controller.definitions (
    migration_id text NOT NULL CHECK (migration_id <> ''),
    checksum text NOT NULL CHECK (checksum <> ''),
    -- From 1 without gaps for each migration.
    revision integer NOT NULL CHECK (revision >= 1),
    definition jsonb NOT NULL,
    path text NOT NULL,
    text text NOT NULL,
    -- Who registered it, as it was stated: nobody checks it.
    registered_by text NOT NULL,
    -- Why, where a target has another revision and keeps it.
    reason text NOT NULL,
    -- Where the SQL of steps and checks stands in the files.
    places jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    -- In this order: thousands are looked for by their checksums.
    PRIMARY KEY (checksum, migration_id),
    UNIQUE (migration_id, revision)
);

CREATE TABLE dunlin_controller.migrations (
    id text PRIMARY KEY,
    -- Deferred, so that a set can swap the versions of two migrations.
    version bigint NOT NULL CHECK (version >= 1) UNIQUE DEFERRABLE INITIALLY DEFERRED,
    name text NOT NULL,
    run_after text[] NOT NULL,
    impacts text[] NOT NULL,
    transforms text[] NOT NULL,
    steps text[] NOT NULL,
    atomic boolean NOT NULL,
    checksum text NOT NULL,
    revision integer NOT NULL CHECK (revision >= 1),
    registered_by text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (id, checksum) REFERENCES dunlin_controller.definitions (migration_id, checksum)
);

-- Migrations that were registered, taken back before any target had them, and not registered again since.
CREATE TABLE dunlin_controller.withdrawn (
    id text PRIMARY KEY,
    checksum text NOT NULL,
    registered_at timestamptz NOT NULL,
    withdrawn_at timestamptz NOT NULL DEFAULT now(),
    withdrawn_by text NOT NULL,
    FOREIGN KEY (id, checksum) REFERENCES dunlin_controller.definitions (migration_id, checksum)
);

CREATE TABLE dunlin_controller.targets (
    name text PRIMARY KEY CHECK (name <> ''),
    server_version text NOT NULL DEFAULT '',
    reachable boolean NOT NULL DEFAULT false,
    error text NOT NULL DEFAULT '',
    -- Of the registry as last reported; NULL when it must be compared row by row.
    registry_digest text,
    reported_at timestamptz,
    -- The steps of half-done migrations as last reported, and when they were so, by the clock of the target.
    held jsonb NOT NULL DEFAULT '[]',
    held_at timestamptz,
    -- The number of the last event in the history of the target. Its row is the last that a transaction locks.
    last_sequence bigint NOT NULL DEFAULT 0 CHECK (last_sequence >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The database that the name is bound to: the system identifier of its server (NULL: not known), its oid, and the UUID in its schema
    -- dunlin, which is NULL until an agent has told what it sees. Where the UUID is not written yet: what is there before, and
    -- the agent that is to write it (NULL: an operator has said so).
    system text,
    database bigint,
    data text,
    data_written boolean NOT NULL DEFAULT false,
    data_was text,
    bound_by text,
    -- The counter beside the UUID, as it was seen last; the mark of who raised it; when and by whom that was told; and whether an agent
    -- that is believed has seen it.
    line bigint NOT NULL DEFAULT 0,
    mark text,
    line_at timestamptz,
    line_by text,
    line_witnessed boolean NOT NULL DEFAULT false,
    -- Why nothing runs on it until an operator has said which database is meant. Empty: it runs.
    suspended text NOT NULL DEFAULT '',
    CHECK ((data IS NULL) = (database IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX targets_by_data ON dunlin_controller.targets (data) WHERE data IS NOT NULL;

CREATE TABLE dunlin_controller.target_registry (
    target text NOT NULL REFERENCES dunlin_controller.targets,
    migration_id text NOT NULL,
    version bigint NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    -- 0 when the target does not say.
    revision integer NOT NULL CHECK (revision >= 0),
    applications integer NOT NULL CHECK (applications >= 1),
    run_id bigint NOT NULL,
    agent_id text NOT NULL,
    rows bigint NOT NULL,
    result jsonb NOT NULL,
    applied_at timestamptz,
    last_applied_at timestamptz,
    -- When a task reported the row; NULL when the target itself told of it.
    recorded_at timestamptz,
    PRIMARY KEY (target, migration_id)
);
CREATE INDEX target_registry_by_migration ON dunlin_controller.target_registry (migration_id, target);
-- Lists say its condition, which holds for every row. Whoever looks for one migration on a target does not, and cannot take this index:
-- while a table is small the planner has no reason to prefer another, and a plan outlives that.
CREATE INDEX target_registry_by_version ON dunlin_controller.target_registry (target, version, migration_id)
    WHERE applications >= 1;

CREATE TABLE dunlin_controller.agents (
    id text PRIMARY KEY CHECK (id <> ''),
    version text NOT NULL,
    slots integer NOT NULL CHECK (slots BETWEEN 1 AND 1000),
    transforms text[] NOT NULL,
    -- One more with each stream: leases are granted to the newest only.
    session bigint NOT NULL CHECK (session >= 1),
    connected_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    -- NULL when the last stream has ended. In no index: it moves with every heartbeat.
    connected_until timestamptz,
    has_stream boolean NOT NULL GENERATED ALWAYS AS (connected_until IS NOT NULL) STORED,
    -- Which process has the id, as it tells itself apart from others, and where it runs, in words.
    instance text NOT NULL DEFAULT '',
    process text NOT NULL DEFAULT '',
    -- When it was told last that another process has the same id.
    taken_told_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX agents_connected ON dunlin_controller.agents (id) WHERE has_stream;

CREATE TABLE dunlin_controller.agent_targets (
    agent_id text NOT NULL REFERENCES dunlin_controller.agents ON DELETE CASCADE,
    target text NOT NULL REFERENCES dunlin_controller.targets,
    reachable boolean NOT NULL,
    error text NOT NULL,
    -- The database that the agent sees, and why it is not let work on it.
    identity jsonb,
    refusal text NOT NULL DEFAULT '',
    PRIMARY KEY (agent_id, target)
);
CREATE INDEX agent_targets_by_target ON dunlin_controller.agent_targets (target, agent_id);

CREATE TABLE dunlin_controller.runs (
    -- By default, not always: the runs of a request name each other, so their ids are drawn first.
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    target text NOT NULL REFERENCES dunlin_controller.targets,
    migration_id text NOT NULL,
    version bigint NOT NULL,
    checksum text NOT NULL,
    -- The revision of the definition with this checksum.
    revision integer NOT NULL CHECK (revision >= 1),
    kind text NOT NULL DEFAULT 'apply',
    state text NOT NULL,
    rerun boolean NOT NULL,
    request_id uuid NOT NULL,
    -- True for the runs of a request for all that is pending: they keep their order over requests.
    in_order boolean NOT NULL,
    -- The run that must succeed first; NULL once it has, or when there is none.
    after_run_id bigint REFERENCES dunlin_controller.runs,
    run_after text[] NOT NULL,
    -- How the run goes on with a half-done migration: steps that are carried out again, and steps that go on with another text.
    redo_steps text[] NOT NULL DEFAULT '{}',
    continue_steps text[] NOT NULL DEFAULT '{}',
    -- Why, and who asked for it, as the caller said.
    reason text NOT NULL DEFAULT '',
    requested_by text NOT NULL DEFAULT '',
    -- How often the target's registry must say that the migration was applied; known from the start of the run.
    applications integer CHECK (applications >= 0),
    -- One more than the newest epoch of all earlier runs of the migration on the target: leases of this run are above it, and what
    -- is fenced in the target between those and these has room.
    base_epoch bigint NOT NULL CHECK (base_epoch >= 0),
    -- The newest epoch of its tasks, known once it has ended: a later run need not look at them all.
    newest_epoch bigint CHECK (newest_epoch >= 0),
    failure jsonb,
    result jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    ended_at timestamptz,
    FOREIGN KEY (migration_id, checksum) REFERENCES dunlin_controller.definitions (migration_id, checksum),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL)),
    CHECK ((state = 'failed') = (failure IS NOT NULL)),
    CHECK ((state = 'succeeded') = (result IS NOT NULL)),
    CHECK (state IN ('queued', 'cancelled') OR (started_at IS NOT NULL AND applications IS NOT NULL)),
    CHECK (state <> 'queued' OR started_at IS NULL),
    CHECK (newest_epoch IS NULL OR ended_at IS NOT NULL),
    CHECK (state IN ('queued', 'cancelled') OR after_run_id IS NULL)
);
CREATE UNIQUE INDEX runs_one_unfinished ON dunlin_controller.runs (target, migration_id)
    WHERE state IN ('queued', 'running', 'pausing', 'paused');
CREATE INDEX runs_unfinished ON dunlin_controller.runs (target, id)
    WHERE state IN ('queued', 'running', 'pausing', 'paused');
CREATE INDEX runs_turn_come ON dunlin_controller.runs (target, id) WHERE state = 'queued' AND after_run_id IS NULL;
CREATE INDEX runs_behind ON dunlin_controller.runs (after_run_id) WHERE after_run_id IS NOT NULL;
-- As with target_registry_by_version: lists say the condition.
CREATE INDEX runs_by_target ON dunlin_controller.runs (target, id) WHERE base_epoch >= 0;
CREATE INDEX runs_by_migration ON dunlin_controller.runs (migration_id, target, id);

CREATE TABLE dunlin_controller.run_steps (
    run_id bigint NOT NULL REFERENCES dunlin_controller.runs,
    ordinal integer NOT NULL CHECK (ordinal >= 1),
    name text NOT NULL,
    -- The code that the step needs.
    transform text,
    state text NOT NULL DEFAULT 'pending',
    rows bigint NOT NULL DEFAULT 0 CHECK (rows >= 0),
    rows_walked bigint NOT NULL DEFAULT 0 CHECK (rows_walked >= 0),
    -- Of these, what was walked before the lease that told of it: no part of this run's speed.
    rows_walked_before bigint NOT NULL DEFAULT 0 CHECK (rows_walked_before >= 0),
    -- Every few seconds when rows were told of, and how many this run had walked before those: what the speed is reckoned from.
    sampled_at timestamptz[] NOT NULL DEFAULT '{}',
    sampled_walked bigint[] NOT NULL DEFAULT '{}' CHECK (cardinality(sampled_walked) = cardinality(sampled_at)),
    rows_total bigint NOT NULL DEFAULT 0 CHECK (rows_total >= 0),
    ranges_done integer NOT NULL DEFAULT 0 CHECK (ranges_done >= 0),
    ranges_total integer NOT NULL DEFAULT 0 CHECK (ranges_total >= ranges_done),
    planned boolean NOT NULL DEFAULT false,
    key jsonb NOT NULL DEFAULT '[]',
    -- What PostgreSQL has said while the step was executed; the first 100 are events.
    messages bigint NOT NULL DEFAULT 0 CHECK (messages >= 0),
    ended_at timestamptz,
    PRIMARY KEY (run_id, ordinal),
    CHECK ((state IN ('succeeded', 'failed', 'rolled_back')) = (ended_at IS NOT NULL)),
    CHECK (state <> 'succeeded' OR ranges_done = ranges_total),
    CHECK (state <> 'pending' OR ranges_total = 0)
) WITH (fillfactor = 50);

CREATE TABLE dunlin_controller.tasks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id bigint NOT NULL REFERENCES dunlin_controller.runs,
    target text NOT NULL,
    kind text NOT NULL,
    -- The ordinal of the step; 0 for an atomic migration and for a seal.
    step integer NOT NULL CHECK (step >= 0),
    -- The number of the range; 0 for all but range tasks.
    range integer NOT NULL DEFAULT 0,
    range_low text[],
    range_high text[],
    rows_total bigint NOT NULL DEFAULT 0 CHECK (rows_total >= 0),
    transform text,
    state text NOT NULL,
    epoch bigint NOT NULL CHECK (epoch >= 0),
    agent_id text,
    expires_at timestamptz,
    run_at timestamptz NOT NULL DEFAULT now(),
    -- True when run_at lay in the future as the task became ready.
    delayed boolean NOT NULL DEFAULT false,
    priority smallint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- The first error that can pass since which there was no progress, and how many rows were walked by then.
    passing_since timestamptz,
    passing_rows_walked bigint,
    -- How often the server crashed while it executed the task, or ended its transaction since it stood still, since there was progress;
    -- and how many rows were walked by then.
    crashes integer NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    standstills integer NOT NULL DEFAULT 0 CHECK (standstills >= 0),
    endings_rows_walked bigint NOT NULL DEFAULT 0,
    postponed integer NOT NULL DEFAULT 0 CHECK (postponed >= 0),
    -- Why it rests until run_at, in words.
    rests text NOT NULL DEFAULT '',
    -- True when its run has failed while it was held: it is not given to anybody again, and its holder's last word is still counted.
    revoked boolean NOT NULL DEFAULT false,
    -- What its holder waits for in the target, NULL until it has told that; and how far PostgreSQL is with its statement.
    waits text,
    activity jsonb,
    -- The last sign of life of the task: what its holder has counted, and when that changed.
    alive bigint NOT NULL DEFAULT 0,
    alive_at timestamptz NOT NULL DEFAULT now(),
    -- Who gave it back, let it run out or stood still with it, and until when others go first.
    passed_over text,
    passed_over_until timestamptz,
    rows bigint NOT NULL DEFAULT 0 CHECK (rows >= 0),
    rows_walked bigint NOT NULL DEFAULT 0 CHECK (rows_walked >= 0),
    granted_at timestamptz,
    ended_at timestamptz,
    CHECK ((passing_since IS NULL) = (passing_rows_walked IS NULL)),
    CHECK (NOT revoked OR state <> 'ready'),
    CHECK ((state = 'leased') = (agent_id IS NOT NULL)),
    CHECK ((state = 'leased') = (expires_at IS NOT NULL)),
    CHECK (state <> 'leased' OR epoch >= 1),
    CHECK ((kind = 'range') = (range >= 1)),
    CHECK ((kind = 'range') = (range_high IS NOT NULL)),
    CHECK ((kind IN ('plan', 'range')) <= (step >= 1)),
    CHECK ((kind = 'seal') <= (step = 0)),
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (ended_at IS NOT NULL))
) WITH (
    -- Room on each page for heartbeats to be HOT.
    fillfactor = 80,
    -- However long the history is: what has been claimed lies at the head of tasks_ready until it is vacuumed.
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000
);
CREATE INDEX tasks_passed_over ON dunlin_controller.tasks (passed_over_until) WHERE state = 'ready' AND passed_over IS NOT NULL;
-- What heartbeats change, expires_at and the counts, is in no index: each would be written anew with every heartbeat.
-- No task, and no range, twice in a run.
CREATE UNIQUE INDEX tasks_natural ON dunlin_controller.tasks (run_id, step, range);
-- The claim, in an order of its own: an order by the primary key would walk over all that is finished. No other index of
-- what is ready: the planner would at times take that, read all and sort.
CREATE INDEX tasks_ready ON dunlin_controller.tasks (target, priority, run_at, id) WHERE state = 'ready';
CREATE INDEX tasks_delayed ON dunlin_controller.tasks (run_at) WHERE state = 'ready' AND delayed;
-- As many entries as there are slots: what has expired is found by looking at all.
CREATE INDEX tasks_held ON dunlin_controller.tasks (agent_id) WHERE state = 'leased';

CREATE TABLE dunlin_controller.events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- No reference: the events of a target that is forgotten stay.
    target text,
    -- From 1 without gaps for each name of a target, also where it was forgotten and came again.
    sequence bigint CHECK (sequence >= 1),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    type text NOT NULL,
    severity text NOT NULL,
    migration_id text,
    run_id bigint,
    step text NOT NULL,
    agent_id text,
    message text NOT NULL,
    details jsonb NOT NULL,
    UNIQUE (target, sequence),
    CHECK ((target IS NULL) = (sequence IS NULL))
);
CREATE INDEX events_by_run ON dunlin_controller.events (run_id, id) WHERE run_id IS NOT NULL;
CREATE INDEX events_by_migration ON dunlin_controller.events (migration_id, id) WHERE migration_id IS NOT NULL;
