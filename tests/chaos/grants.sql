-- What `make chaos` records in the controllers' database: every lease, in the transaction that grants it.
CREATE SCHEMA chaos;
CREATE TABLE chaos.grants (
    id bigint GENERATED ALWAYS AS IDENTITY,
    task bigint NOT NULL,
    epoch bigint NOT NULL,
    agent text NOT NULL
);
CREATE FUNCTION chaos.record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.grants (task, epoch, agent) VALUES (NEW.id, NEW.epoch, NEW.agent_id);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER UPDATE ON dunlin_controller.tasks FOR EACH ROW
    WHEN (NEW.state = 'leased' AND (OLD.state <> 'leased' OR OLD.epoch <> NEW.epoch OR OLD.agent_id <> NEW.agent_id))
    EXECUTE FUNCTION chaos.record();
