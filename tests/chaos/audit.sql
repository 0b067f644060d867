-- What `make chaos` records in a target: every change of a checkpoint, in the transaction that makes it, so that it is lost
-- where that is lost. And a table for migrations that must not be done twice.
CREATE SCHEMA chaos;
-- Updates take a moment of which the processor has nothing: so that faults meet open transactions.
CREATE FUNCTION chaos.linger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(random() * TG_ARGV[0]::float8);
    RETURN NULL;
END $$;
CREATE TABLE chaos.told (migration text NOT NULL);
CREATE TABLE chaos.ledger (
    id bigint GENERATED ALWAYS AS IDENTITY,
    op text NOT NULL,
    migration text NOT NULL,
    step text NOT NULL,
    range integer NOT NULL,
    kind text NOT NULL,
    epoch bigint NOT NULL,
    batches bigint NOT NULL,
    done boolean NOT NULL,
    txid bigint NOT NULL DEFAULT txid_current()
);
CREATE FUNCTION chaos.record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    c dunlin.checkpoints := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    INSERT INTO chaos.ledger (op, migration, step, range, kind, epoch, batches, done)
    VALUES (TG_OP, c.migration, c.step, c.range, c.kind, c.epoch, c.batches, c.state = 'done');
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER INSERT OR UPDATE OR DELETE ON dunlin.checkpoints
    FOR EACH ROW EXECUTE FUNCTION chaos.record();
