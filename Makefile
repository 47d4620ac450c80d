# Users: `make run`, `make test`. Developers: fmt lint types check bench bench-recall bench-ablation lock model ci clean.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test fmt lint types check bench bench-recall bench-ablation lock model ci clean

help:
	@sed -n '1p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "polymem needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(PIP) install --require-hashes --no-deps -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes --no-deps -r requirements-dev.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.run $@

run: $(VENV)/.run
	@PYTHONPATH=src exec $(BIN)/python -m polymem serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report= $(ARGS)

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy src tests bench tools

# Import contracts, and full branch coverage (of the last `make test`) where the decisions are.
check: $(VENV)/.dev
	$(BIN)/lint-imports
	$(BIN)/coverage report --include='src/polymem/domain/*,src/polymem/engine/*,src/polymem/http/dialects/*' --fail-under=100

bench bench-recall: $(VENV)/.dev
	$(BIN)/python -m bench.recall http $(ARGS)

bench-ablation: $(VENV)/.dev
	$(BIN)/python -m bench.recall ablation $(ARGS)

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml

lock: $(VENV)/.dev
	$(LOCK) -o requirements.txt
	$(LOCK) --extra postgres --extra s3 -c requirements.txt -o requirements-scale.txt
	$(LOCK) --extra postgres --extra s3 --group dev -c requirements-scale.txt -o requirements-dev.txt

model: $(BIN)/python
	$(PYTHON) -m venv $(VENV)-model
	$(VENV)-model/bin/python -m pip install --quiet -r tools/model/requirements.txt
	$(VENV)-model/bin/python tools/model/build.py

ci:
	bash .ci/run

clean:
	rm -rf $(VENV) $(VENV)-model .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
