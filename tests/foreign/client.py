"""A client of Dunlin in Python, made from the protos and nothing else.

Registers a directory of definitions, runs what is pending, watches until it is done, and prints the schema version. It is
a test, and an example: `docs/protocol.md` refers to it.

    python tests/foreign/client.py 127.0.0.1:7440 migrations
"""

import sys
import tempfile
from pathlib import Path

import grpc
import grpc_tools
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parents[2] / "proto"


def generate(directory: str) -> None:
    """Generates the code of the client, as one does once in a project of one's own."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("dunlin/v1/*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    if protoc.main([*arguments, *files]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, directory)


def main(address: str, migrations: Path) -> None:
    from dunlin.v1 import registry_service_pb2 as registry_messages
    from dunlin.v1 import registry_service_pb2_grpc as registry_service
    from dunlin.v1 import run_pb2
    from dunlin.v1 import run_service_pb2 as run_messages
    from dunlin.v1 import run_service_pb2_grpc as run_service

    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING, health

        registry = registry_service.RegistryServiceStub(channel)
        files = [
            registry_messages.DefinitionFile(path=str(path.relative_to(migrations)), content=path.read_text())
            for path in sorted(migrations.rglob("*"))
            if path.suffix in (".toml", ".sql")
        ]
        registered = registry.RegisterMigrations(registry_messages.RegisterMigrationsRequest(files=files), timeout=10)
        for migration in registered.migrations:
            print(f"{migration.id}: {registry_messages.RegisterOutcome.Name(migration.outcome)}")

        runs = run_service.RunServiceStub(channel)
        queued = runs.RunPendingMigrations(run_messages.RunPendingMigrationsRequest(target="main"), timeout=10)
        state = {}
        sequence = 0
        # To watch no runs is refused: nothing pending is nothing to watch.
        watched = run_messages.WatchRunsRequest(run_ids=[run.id for run in queued.runs])
        for response in runs.WatchRuns(watched, timeout=60) if queued.runs else []:
            assert response.sequence >= sequence, "the stream goes forward"
            sequence = response.sequence
            state[response.run.migration_id] = response.run.state
            if response.HasField("event"):
                print(f"{response.event.sequence}: {response.event.message}")
        print(f"{len(state)} runs")
        assert len(state) == len(queued.runs) and all(ended == run_pb2.RUN_STATE_SUCCEEDED for ended in state.values()), state

        # Errors are those of gRPC.
        try:
            runs.GetRun(run_messages.GetRunRequest(id=1_000_000), timeout=10)
            raise AssertionError("there is no such run")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error

        version = registry.GetSchemaVersion(registry_messages.GetSchemaVersionRequest(target="main"), timeout=10)
        print(f"version {version.version}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as generated:
        generate(generated)
        main(sys.argv[1], Path(sys.argv[2]))
