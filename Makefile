# Everything starts here on a fresh machine: `make demo` to see it run, `make test` to check it.
.DEFAULT_GOAL := help
.PHONY: help env clients lint fmt test demo clean

PHASE := sh scripts/phase.sh
BIN := .venv/bin
# Extra words for pytest, e.g. make test PYTEST_ARGS="-k metrics"
PYTEST_ARGS ?=

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

env:  ## build .venv: saga, vLLM's CPU build, the developer tools (PYTHON=... names the interpreter)
	@$(PHASE) env sh scripts/env.sh

clients: env  ## .venv-clients: the agent packages and programs that tests/clients tries (they skip without)
	@$(PHASE) clients sh scripts/clients.sh

lint: env  ## style, types, import contracts
	@$(PHASE) ruff $(BIN)/ruff check .
	@$(PHASE) format $(BIN)/ruff format --check .
	@$(PHASE) mypy $(BIN)/mypy
	@$(PHASE) imports $(BIN)/lint-imports

fmt: env  ## put the code into the house format
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

test: env lint  ## the whole suite, with a real vLLM worker
	@$(PHASE) pytest $(BIN)/python -m pytest -q $(PYTEST_ARGS)

demo: env  ## a local cluster with two real vLLM workers, and agents on it
	@$(BIN)/saga demo

clean:  ## remove the environment, caches and build results
	@rm -rf .venv .venv-clients build dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
