#!/usr/bin/env bash
# Shows the whole of Dunlin on this machine: a throwaway PostgreSQL, a controller, two agents, 500,000 users, and the
# migrations of examples/learning-platform. Needs the programs that `make demo` builds. Everything
# that is started is stopped and removed at the end, also after an error or Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin="${DUNLIN_BIN:-$(bash scripts/target.sh)/release}"
example=examples/learning-platform
for program in dunlin dunlin-controller dunlin-agent; do
    if [ ! -x "$bin/$program" ]; then
        echo "demo: $bin/$program is missing; build it: cargo build --release --workspace" >&2
        exit 2
    fi
done
export PATH="$bin:$PATH"
unset DUNLIN_OUTPUT DUNLIN_CONTROLLER

work="$(mktemp -d)"
dev=
stop() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$dev" ]; then
        kill -TERM "$dev" 2>/dev/null || true
        wait "$dev" 2>/dev/null || true
    fi
    if [ "$status" -ne 0 ]; then
        echo >&2
        echo "demo: stopped with exit code $status" >&2
        # After Ctrl-C or SIGTERM there is nothing to explain.
        [ "$status" -ge 128 ] || sed 's/^/dunlin dev: /' "$work/dev.log" >&2 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

bold=; grey=; plain=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m'; grey=$'\e[90m'; plain=$'\e[0m'; fi

# Tells what comes, prints a command, and executes it.
show() {
    printf '\n%s# %s%s\n%s$ %s%s\n' "$grey" "$1" "$plain" "$bold" "${*:2}" "$plain"
    "${@:2}"
}

# The same for a query.
query() {
    printf '\n%s# %s%s\n%s$ psql -c "%s"%s\n' "$grey" "$1" "$plain" "$bold" "$2" "$plain"
    PAGER='' "$PSQL" "$DATABASE_URL" --no-psqlrc --quiet --set ON_ERROR_STOP=1 --command "$2"
}

started=$SECONDS
printf '%s# Everything on this machine: a throwaway PostgreSQL, a controller and two agents.%s\n' "$grey" "$plain"
printf '%s$ dunlin dev --agents 2 &%s\n' "$bold" "$plain"
# A process group of its own: Ctrl-C reaches this script first, which then stops it.
set -m
dunlin dev --agents 2 --listen 127.0.0.1:0 --env-file "$work/env" >"$work/dev.log" 2>&1 </dev/null &
dev=$!
set +m
while [ ! -s "$work/env" ]; do
    if ! kill -0 "$dev" 2>/dev/null; then
        wait "$dev" || true
        dev=
        exit 1
    fi
    sleep 0.1
done
PSQL=psql
set -a
# shellcheck disable=SC1091
. "$work/env"
set +a
if ! command -v "$PSQL" >/dev/null; then
    echo "demo: psql is missing; install the PostgreSQL client (Debian: postgresql-client)" >&2
    exit 2
fi
show "Ready?" dunlin wait --agents 2

printf '\n%s# A database before its first migration: 2,000 courses and 500,000 users.%s\n' "$grey" "$plain"
printf '%s$ psql -f %s/sample-data.sql%s\n' "$bold" "$example" "$plain"
"$PSQL" "$DATABASE_URL" --no-psqlrc --quiet --set ON_ERROR_STOP=1 --file "$example/sample-data.sql"
query "Who is there?" "SELECT role, count(*) FROM users GROUP BY role ORDER BY role"

show "Are the definitions valid? This needs no controller." dunlin check "$example"
show "Into the registry: all of them, or none." dunlin register "$example"
show "What would run, and what waits for what?" dunlin plan
show "Run it, spread over both agents, while the database stays in use." dunlin run --pending
show "The schema version, as the database itself tells it." dunlin version
show "The runs." dunlin runs
show "One of them, as it went." dunlin events --migration update-user-roles
show "The agents." dunlin agents

query "Teachers are instructors." "SELECT role, count(*) FROM users GROUP BY role ORDER BY role"
query "Everybody has a display name, and courses have a level." \
    "SELECT u.display_name, u.role, c.title, c.level FROM users u JOIN courses c USING (id) WHERE id BETWEEN 1 AND 4 ORDER BY id"
query "The truth stays in the database." \
    "SELECT version, id, rows, applied_at::timestamp(0) FROM dunlin.migrations_registry ORDER BY version"
show "Once more: nothing is left to do." dunlin run --pending

printf '\nDone in %s seconds. Stopping, and removing everything.\n' "$((SECONDS - started))"
