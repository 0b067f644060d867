# Every target does its own set-up: see scripts/setup.sh.
.DEFAULT_GOAL := help
.PHONY: help demo build test test-postgres chaos check bench bench-control bench-shapes setup-build setup-test setup-check

# Where cargo builds, asked when it is needed: CARGO_TARGET_DIR and `build.target-dir` count.
TARGET = $(shell bash scripts/target.sh)
TOOLS = $(TARGET)/tools
SECONDS := 60
SEED :=
VERSION :=
SHORT :=
# Faults on purpose, for tests only: see shared/src/failpoint.rs.
FAULTS := --features dunlin-agent/failpoints,dunlin-controller/failpoints
# Tests that meet nothing in which versions of PostgreSQL differ, or that take long: left out of the short form.
ANY_VERSION := answers command dev examples failpoints faults foreign fleet forgetting history hostile_connections hostile_memory logs readme \
    replicas unreached

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup-build ## Build, then bring a sample database with 500,000 users to its next schema version
	cargo build --release --workspace
	bash examples/demo.sh

build: setup-build ## Build the programs with optimisation, into release/ where cargo builds
	cargo build --release --workspace

test: setup-test ## Build, then run all tests, those with clients in other languages among them
	cargo build --workspace --bins --tests $(FAULTS)
	cargo test --workspace --doc $(FAULTS)
	cargo test --workspace --lib --bins --tests --no-fail-fast $(FAULTS)

test-postgres: setup-test ## Run the tests on PostgreSQL VERSION=n (14 to 18); with SHORT=1 those alone that can depend on it
	@bin=$$(bash scripts/postgres.sh $(VERSION)) && export DUNLIN_PG_BIN="$$bin" && set -x && \
	    cargo build --workspace --bins --tests $(FAULTS) && \
	    cargo test --workspace $(if $(SHORT),--lib --test e2e,--lib --bins --tests) --no-fail-fast $(FAULTS) \
	        $(if $(SHORT),-- $(foreach name,$(ANY_VERSION),--skip $(name)::))

chaos: setup-test ## Break everything at random for SECONDS=n (60), drawn from SEED=s (a fresh one), then check every promise
	cargo build --workspace --bins $(FAULTS)
	$(TARGET)/debug/dunlin-chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

check: setup-check ## Check format, lints, documentation, licences, protos and manifests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets $(FAULTS) -- -D warnings
	@if cargo tree --workspace --edges normal --prefix none | grep '^fail v'; then \
	    echo 'error: failpoints are on by default, so release builds would have them' >&2; exit 1; fi
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	bash scripts/deny.sh
	cd proto && buf=$(TOOLS)/node/node_modules/.bin/buf && $$buf lint && $$buf format --diff --exit-code
	$(TOOLS)/venv/bin/python scripts/check_deploy.py

bench: setup-build ## Measure next to a single UPDATE, a plain loop and the same order by hand, 200 small migrations, and killed controllers
	cargo build --release --workspace
	$(TARGET)/release/dunlin-bench

bench-control: setup-build ## Measure the control plane: lease cycles, idle agents, runs and registries of growing size
	cargo build --release --workspace
	$(TARGET)/release/dunlin-bench control

bench-shapes: setup-build ## Measure statements of many shapes next to themselves as one statement: joins, deletes, inserts, keys of other types
	cargo build --release --workspace
	$(TARGET)/release/dunlin-bench shapes

setup-build: ## Install what is missing to build and to run the demo
	@bash scripts/setup.sh build

setup-test: ## Install what is missing for the tests
	@bash scripts/setup.sh test

setup-check: ## Install what is missing for the checks
	@bash scripts/setup.sh check
