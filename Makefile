# Two commands do everything: `make demo` shows bygone at work, `make test` tests it. `make help` lists the others.

SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## capture a small shop on a throw-away PostgreSQL, and look into its past
	@scripts/demo

.PHONY: test
test: ## install what the tests need, check the code, run every test
	@scripts/install rust postgres versions s3 azure readers sail clients clock
	@$(MAKE) --no-print-directory check
	$(CARGO) test --workspace --doc
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --workspace
else
	@# Two at a time: each end-to-end test starts servers of its own.
	$(CARGO) test --workspace --lib --bins --tests -- --test-threads=2
endif
	@scripts/postgres-majors --summary

.PHONY: major
major: MAJOR ?= 18
major: ## run all end-to-end tests on one version of PostgreSQL (MAJOR=18)
	@scripts/install rust postgres versions s3
	BYGONE_TEST_PG_BIN=$$(scripts/postgres-majors | awk '$$1 == "$(MAJOR)" { print $$2 }') $(CARGO) nextest run --no-fail-fast

.PHONY: check
check: ## format, lints and licences only
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/dependencies

.PHONY: bench
bench: ## measure against pg_recvlogical, psql and DuckDB: a table and JSON
	@scripts/install rust postgres
	@scripts/bench

.PHONY: soak
soak: ## all faults at random under load, for an hour (MINUTES=60; SEED repeats a round)
	@scripts/install rust postgres s3
	@scripts/soak

.PHONY: fuzz
fuzz: SECONDS ?= 60
fuzz: ## fuzz every decoder (SECONDS=60 each), where there is a C++ compiler
	@scripts/fuzz $(SECONDS)
