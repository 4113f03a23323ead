# On a fresh Debian machine with Python 3.11 or newer, git and make, every target works with no other step.
# `make test ARGS="-k image -x"` passes arguments to pytest; `make demo KEEP=1` leaves the demo running, and
# `make demo SITE=htcondor` runs its jobs through a real HTCondor pool on this machine, `make demo SITE=jaws` through
# stand-ins for NERSC and JAWS.

PARTS := $(CURDIR)/.parts
RUN := .venv/bin/python -m
PARALLEL = --numprocesses=$$(($$(nproc) + 1)) --maxprocesses=4 --dist=loadfile
export CTS_PARTS := $(PARTS)

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint bench setup venv clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: setup ## run the whole service on this machine, and a job through it (KEEP=1: leave it running; SITE=htcondor or jaws)
	@.venv/bin/cts demo $(if $(KEEP),--keep) $(if $(SITE),--site '$(SITE)')

# The tests wait more than they compute, so there are more workers than cores. The long ones come after the others, for
# they take all cores. ARGS is for the others.
# Without the container tools or the browser the tests that need them are skipped, and say so; with CTS_REQUIRE_PARTS
# they fail.
test: venv ## run all tests (ARGS: arguments for pytest)
	@$(RUN) cdmtaskservice.embedded.debian $(PARTS) || test -z "$$CTS_REQUIRE_PARTS"
	@$(RUN) cdmtaskservice.embedded.browser_packages $(PARTS) || test -z "$$CTS_REQUIRE_PARTS"
	@$(RUN) pytest -m 'not long' $(PARALLEL) --durations=12 $(ARGS)
	@test -n "$(ARGS)" || $(RUN) pytest -m long

# Coverage alone makes the tests take half as long again, so it has a target of its own.
coverage: setup ## run all tests but the long ones under coverage, and print it
	@$(RUN) pytest -m 'not long' $(PARALLEL) --cov --cov-report=term $(ARGS)

lint: venv ## check style, format and types
	@$(RUN) ruff check --quiet .
	@$(RUN) ruff format --check --quiet . || { echo 'not formatted: run .venv/bin/ruff format'; exit 1; }
	@$(RUN) mypy

bench: setup ## measure (ARGS: arguments for the benchmarks)
	@$(RUN) benchmarks $(ARGS)

setup: venv ## fetch all that the other targets need; they do it by themselves
	@$(RUN) cdmtaskservice.embedded.debian $(PARTS)

venv:
	@bash setup/environment.sh $(PARTS)

clean: ## remove all that was made or fetched
	rm -rf .venv .parts .run .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
