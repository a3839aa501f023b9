# `make` alone says what there is. Every target does the set-up it needs first.

SEEDS ?= 1000
KILLS ?= 10
SECONDS ?= 600
QUICK ?=
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup check test demo conformance differential fuzz soak kernel lab simulate crash bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## .venv, and the Debian packages that are missing (as root or with sudo)
	@scripts/setup.sh

check: setup ## ruff, mypy --strict, the import contracts, the quick unit tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m pytest -q -m "not slow" tests/unit

test: setup ## all tests but those in the guest (make kernel)
	$(PYTHON) -m pytest

demo: setup ## the whole story on real input, in about two minutes
	$(PYTHON) -m iscsi_rp demo

conformance: setup ## libiscsi's iscsi-test-cu: us, us split, and tgt (5 minutes)
	$(PYTHON) -m tests.conformance

differential: setup ## the same commands to tgt and to us (seconds)
	$(PYTHON) -m tests.differential

fuzz: setup ## hostile input, guided by coverage: SECONDS=600
	$(PYTHON) -m tests.fuzz --seconds $(SECONDS)

soak: setup ## 1,000 sessions, 10,000 connections, clients that never read (2 minutes)
	$(PYTHON) -m tests.soak

kernel: ## Linux' own initiator, target, multipath and targetcli, in User-Mode Linux (17 minutes)
	@scripts/setup.sh mmdebstrap
	$(PYTHON) -m pytest -q -m kernel -n 2 --dist loadfile --durations=15 tests/kernel
	$(PYTHON) -m tests.kernel.conformance
	$(PYTHON) -m tests.kernel.bench --pairs 3

lab: ## the scenarios of vagrant/, provisioned and run in guests (11 minutes)
	@scripts/setup.sh mmdebstrap shellcheck vagrant vagrant-libvirt
	$(PYTHON) -m pytest -q -m lab -n 2 --durations=10 tests/lab

simulate: setup ## the real splitter and journal under faults: SEEDS=1000
	$(PYTHON) -m tests.simulation --seeds $(SEEDS)

crash: setup ## kill -9 of array and appliance under load: KILLS=10, TLS=1 between them
	$(PYTHON) -m tests.crash --kills $(KILLS) $(if $(TLS),--tls)

bench: setup ## against Debian's tgt, on like disks: QUICK=1 for a smoke test
	$(PYTHON) -m tests.bench $(if $(QUICK),--quick)

clean: ## caches, build output and .venv
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
