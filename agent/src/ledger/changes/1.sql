-- The ledger of a target. What comes later is in files of its own, each of which only adds, so that agents of several versions can work side
-- by side. Columns that hold one of some words have no list of them: a list could never grow. Agents refuse words that they do not know.

CREATE TABLE dunlin.migrations_registry (
    id              text PRIMARY KEY,
    version         bigint NOT NULL CHECK (version >= 1),
    name            text NOT NULL,
    description     text NOT NULL,
    checksum        text NOT NULL,
    revision        integer NOT NULL DEFAULT 1 CHECK (revision >= 1),
    run_after       text[] NOT NULL,
    impacts         text[] NOT NULL,
    applications    integer NOT NULL DEFAULT 1 CHECK (applications >= 1),
    run_id          bigint NOT NULL,
    agent_id        text NOT NULL,
    rows            bigint NOT NULL CHECK (rows >= 0),
    result          jsonb NOT NULL,
    started_at      timestamptz NOT NULL,
    applied_at      timestamptz NOT NULL DEFAULT now(),
    last_applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dunlin.migrations_registry IS 'The migrations that this database has. Written by Dunlin in the transactions that apply them.';
COMMENT ON COLUMN dunlin.migrations_registry.revision IS 'Which definition of the migration was applied: a corrected one is the next';
COMMENT ON COLUMN dunlin.migrations_registry.applications IS '1, and one more for each deliberate repetition';

CREATE TABLE dunlin.checkpoints (
    migration   text NOT NULL,
    step        text NOT NULL,
    range       integer NOT NULL CHECK (range >= 0),
    kind        text NOT NULL,
    epoch       bigint NOT NULL CHECK (epoch >= 0),
    state       text NOT NULL DEFAULT 'open',
    checksum    text NOT NULL,
    key         jsonb,
    low         text[],
    high        text[],
    cursor      jsonb,
    batches     bigint NOT NULL DEFAULT 0 CHECK (batches >= 0),
    rows        bigint NOT NULL DEFAULT 0 CHECK (rows >= 0),
    rows_walked bigint NOT NULL DEFAULT 0 CHECK (rows_walked >= 0),
    rows_total  bigint NOT NULL DEFAULT 0 CHECK (rows_total >= 0),
    counters    jsonb NOT NULL DEFAULT '{}',
    ordinal     integer,
    was         text,
    redo        text,
    fence       bigint CHECK (fence >= 0),
    repaired    boolean,
    story       jsonb,
    unlogged    oid[],
    run_id      bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (migration, step, range),
    CHECK ((kind = 'range') = (range >= 1)),
    CHECK ((kind = 'range') = (high IS NOT NULL)),
    CHECK (range = 0 OR (ordinal IS NULL AND was IS NULL AND redo IS NULL AND fence IS NULL AND repaired IS NULL
                         AND story IS NULL))
) WITH (fillfactor = 50);
COMMENT ON COLUMN dunlin.checkpoints.unlogged IS 'Unlogged tables that it has filled: a crash empties them';
CREATE INDEX checkpoints_unlogged ON dunlin.checkpoints (migration) WHERE unlogged IS NOT NULL;
COMMENT ON TABLE dunlin.checkpoints IS 'How far unfinished migrations are, and under which epoch. Each row is advanced in the transactions that do the work.';
COMMENT ON COLUMN dunlin.checkpoints.ordinal IS 'The place of the step among those of the definition that it was begun under';
COMMENT ON COLUMN dunlin.checkpoints.was IS 'The name that the step had before a definition gave it this one';
COMMENT ON COLUMN dunlin.checkpoints.redo IS 'The request that the step is carried out again for';
COMMENT ON COLUMN dunlin.checkpoints.fence IS 'The epoch that ranges of the step begin with: above that of every lease from before it was begun again';
COMMENT ON COLUMN dunlin.checkpoints.repaired IS 'True when the last attempt at a step that is not done has left nothing';
COMMENT ON COLUMN dunlin.checkpoints.story IS 'How the step was carried out again, or went on with another text';

CREATE UNLOGGED TABLE dunlin.unlogged_witness (
    migration  text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dunlin.unlogged_witness IS 'A row for each unfinished migration that has filled unlogged tables. A crash empties this table, too: that is how the loss is noticed.';

CREATE TABLE dunlin.identity (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    data uuid NOT NULL,
    line bigint NOT NULL DEFAULT 0 CHECK (line >= 0),
    mark uuid
);
COMMENT ON TABLE dunlin.identity IS 'Which database this is: controllers compare it before anything is done here.';
COMMENT ON COLUMN dunlin.identity.data IS 'Goes wherever the data goes, into dumps and clones too';
COMMENT ON COLUMN dunlin.identity.line IS 'One more whenever an agent connects: a copy does not see it rise';
COMMENT ON COLUMN dunlin.identity.mark IS 'Drawn by the agent that has raised the line last';

CREATE TABLE dunlin.meta (
    name  text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE dunlin.meta IS 'The version of this schema (ledger_version), and the oldest version of agents that can work on it (oldest_reader).';
