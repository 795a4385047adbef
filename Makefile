# make test    everything that must hold before a change lands; installs the servers it needs
# make demo    the main job, visibly: backup, destruction of the primary, restore, drill (SITE=s3 for a real S3 server); in the
#              profile of the tests, whose hot crates are optimised: built once for both (a test beside it, so that features agree)
# make fuzz    every decoder of foreign bytes, coverage-guided, FUZZ_SECONDS (3) each; part of make test
# make soak    the randomised tests many times over (SOAK=20), those of PostgreSQL clusters on real servers SERVERS_SOAK (3) times, with what
#              they did printed, and a minute for each decoder: an hour
# make bench   the benchmarks: pipelines against pure CPU work, whole processes against other tools, far sites, peak memory (an hour, 60 GB of
#              disk; root)
# make build   the release binary
# make fmt     formats the code

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
SITE ?= filesystem
SOAK ?= 20
SERVERS_SOAK ?= 3
# Tests wait for servers, clocks and disks for a third of their time, so there are half as many again as processors; no more than 8, since each may run two or
# three servers, and a container's share of the processors is not what nproc says.
export RUST_TEST_THREADS ?= $(shell n=$$((($$(nproc) * 3 + 1) / 2)); echo $$((n < 8 ? n : 8)))

.PHONY: test checks fmt-check clippy deny fuzz demo soak bench build fmt

# Tests are compiled before the servers start, so that those do not wait for the compiler.
test:
	@echo "== tools and servers (testbed/install)"
	@testbed/install servers systemd
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target checks
	@echo "== cargo test (real servers: testbed/with-servers)"
	@$(CARGO) test --locked --no-run
	@testbed/with-servers $(CARGO) test --locked --no-fail-fast
	@$(MAKE) --no-print-directory fuzz

checks: fmt-check clippy deny

fmt-check:
	@echo "== cargo fmt --check"
	@$(CARGO) fmt --all --check

clippy:
	@echo "== cargo clippy -D warnings"
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Advisories are left out: their database is not in a package registry, and a test must not depend on what else can be reached.
deny:
	@echo "== cargo deny: bans, licences, sources"
	@testbed/install cargo-deny
	@. testbed/versions.sh && "$$cargo_deny_home/bin/cargo-deny" --workspace --all-features --locked check bans licenses sources

# Only farshore itself is built again, with instrumentation.
fuzz:
	@echo "== fuzz: each decoder for FUZZ_SECONDS (3)"
	@CARGO="$(CARGO)" fuzz/run

demo:
	@echo "== cargo build (the first time some minutes on two cores; make test uses the same)"
	@$(CARGO) build --locked --bin farshore --test tidy
	@demo/run --site $(SITE)

soak:
	@FARSHORE_SOAK=$(SOAK) $(CARGO) test --locked --test hermetic -- --nocapture --test-threads=2 prune:: damage:: crash:: rotation:: sites:: fuzz::
	@FARSHORE_SOAK=$(SERVERS_SOAK) testbed/with-servers $(CARGO) test --locked --test servers -- --nocapture --test-threads=2 in_a_row:: grown:: postgres_physical::killed:: summaries:: delta::
	@FUZZ_SECONDS=60 $(MAKE) --no-print-directory fuzz

bench: build
	@$(CARGO) bench --locked
	@testbed/with-servers benches/compare all

build:
	@$(CARGO) build --locked --release

fmt:
	@$(CARGO) fmt --all
