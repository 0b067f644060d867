#!/usr/bin/env bash
# Prints where cargo builds: CARGO_TARGET_DIR, `build.target-dir` of a configuration of cargo's, or target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing. Install Rust as https://rustup.rs says, and repeat the command." >&2
    exit 1
fi
cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
