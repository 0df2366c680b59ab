# The commands of this project. `make help` lists them.
#
# PYTHON is the interpreter that environments are made with:  make PYTHON=python3.13 test
# ARGS goes to the command at the end of a target:            make test-fast ARGS='-k backoff -x'

PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin
SHELL := /bin/bash
export PYTHON
.DEFAULT_GOAL := help
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' Makefile

$(VENV)/ready: requirements/dev.txt pyproject.toml tools/make_venv.sh
	tools/make_venv.sh $(VENV) requirements/dev.txt editable
	@touch $@

.PHONY: demo
demo: $(VENV)/ready ## the main job, on real files, with real faults
	$(BIN)/failbetter demo $(ARGS)

.PHONY: servers
servers: # the database servers that tests start privately: installed where they are missing
	@tools/install_servers.sh

# Two rounds: what can share the machine first, in $(JOBS) processes; then, one by one, what needs
# it alone (marked `alone`, as most of tests/faults are). Both run even when the first fails. pytest
# answers 5 when it finds no test: one empty round is no failure, two are.
.PHONY: test
test: $(VENV)/ready servers ## all tests but the soak
	@first=0; second=0; \
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m 'not soak and not alone' $(ARGS) || first=$$?; \
	$(BIN)/pytest -m 'alone and not soak' $(ARGS) || second=$$?; \
	if [ $$first -eq 5 ]; then exit $$second; fi; \
	if [ $$second -eq 5 ]; then exit $$first; fi; \
	exit $$((first > second ? first : second))

.PHONY: test-fast
test-fast: $(VENV)/ready servers ## unit and conformance tests without the slow ones, under a minute
	$(BIN)/pytest -n $(JOBS) -m 'not slow and not soak and not alone' $(wildcard tests/unit tests/conformance) $(ARGS)

.PHONY: check
check: $(VENV)/ready ## format, lint, strict types, import arrows, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_arrows.py $(wildcard tests/docs)

.PHONY: format
format: $(VENV)/ready ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/ready ## side by side with other systems, as ratios
	$(BIN)/python -m bench $(ARGS)

.PHONY: soak
soak: $(VENV)/ready servers ## hours of random kills; ends with the ledger checked against the promises
	$(BIN)/pytest -m soak --timeout 0 $(ARGS)

# The lock names no index: whoever runs it uses the one they have set up. Nothing but newer
# releases changes unless ARGS says otherwise, such as ARGS='--upgrade-package ruff'.
.PHONY: lock
lock: requirements/lock.txt ## pin the dependencies again, with hashes: make lock ARGS=--upgrade
	tools/make_venv.sh .lock-venv requirements/lock.txt
	tools/lock.sh $(ARGS)

.PHONY: clean
clean: ## remove environments, caches and builds
	rm -rf $(VENV) .lock-venv .bench-venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
