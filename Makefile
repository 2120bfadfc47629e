# `make` alone lists the commands.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench faults airflow lock

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
AIRFLOW_REQUIREMENTS := tests/integration/airflow-requirements.txt
AIRFLOW_VERSION := $(shell sed -n 's/^apache-airflow==//p' $(AIRFLOW_REQUIREMENTS))
AIRFLOW := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/healthalliance/airflow-$(AIRFLOW_VERSION)

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: setup  ## three simulated hospitals, a trained model, live scores; ONCE=1 ends by itself
	@$(BIN)/healthalliance demo $(if $(ONCE),--once)

test: setup  ## all tests, on a real Kafka, schema registry and PostgreSQL
	@$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

check: setup  ## format, lint, types, import rules, schema compatibility
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m schemas.avro check
	@$(BIN)/python -m schemas.topics check

bench: setup  ## measure against a naive worker, or with DIABETES130=file on that; writes a .json into .local
	@$(BIN)/python -m tests.bench$(if $(DIABETES130),.diabetes130 $(DIABETES130))

faults: setup  ## prove the delivery by faults; SCENARIO=name SEED=n SCALE=x MUTANT=name
	@$(BIN)/python -m tests.faults $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SEED),--seed $(SEED)) $(if $(SCALE),--scale $(SCALE)) $(if $(MUTANT),--mutant $(MUTANT))

airflow: setup  ## try the Airflow DAG in an environment of its own, which is made once (a minute or more)
	@test -x $(AIRFLOW)/bin/airflow || { echo "Installing Airflow into $(AIRFLOW)"; \
	  $(PYTHON) -m venv $(AIRFLOW) && $(AIRFLOW)/bin/pip install -q -r $(AIRFLOW_REQUIREMENTS); }
	@$(BIN)/python -m pytest -m airflow tests/integration/test_airflow.py

setup: $(STAMP)  ## virtual environment with the locked dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.x"; exit 1; }
	@command -v mvn >/dev/null || { echo "Maven is needed to fetch Apache Kafka (command mvn)."; exit 1; }
	@echo "Installing the locked dependencies into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

lock:  ## renew requirements.lock from pyproject.toml
	uv pip compile pyproject.toml --extra training --group dev --generate-hashes --no-emit-index-url --no-annotate --no-strip-extras \
	  --python-version 3.11 -o requirements.lock
