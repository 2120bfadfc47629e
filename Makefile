# `make` alone lists the commands.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format types manifests bench faults airflow lock

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
AIRFLOW_REQUIREMENTS := tests/integration/airflow-requirements.txt
AIRFLOW_VERSION := $(shell sed -n 's/^apache-airflow==//p' $(AIRFLOW_REQUIREMENTS))
AIRFLOW := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/healthalliance/airflow-$(AIRFLOW_VERSION)

DEPLOY_REQUIREMENTS := tests/deploy/requirements.txt
DEPLOY := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/healthalliance/deploy-$(shell sha256sum $(DEPLOY_REQUIREMENTS) | cut -c1-12)
ACTIONLINT_VERSION := v1.7.7

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: setup  ## three simulated hospitals, a trained model, live scores; ONCE=1 ends by itself
	@$(BIN)/healthalliance demo $(if $(ONCE),--once)

test: setup  ## all tests, on a real Kafka, schema registry and PostgreSQL
	@$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

check: format types manifests  ## format, lint, types, import rules, schemas, and what is deployed

format: setup  ## format and lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup  ## types, import rules, schema compatibility
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m schemas.avro check
	@$(BIN)/python -m schemas.topics check

manifests: setup $(DEPLOY)/installed  ## validate Terraform, Kubernetes, Docker, workflows
	@if command -v terraform >/dev/null; then terraform fmt -check -diff terraform; \
	  else echo "There is no command terraform: the format of terraform/ and its access rules are not checked."; fi
	@$(DEPLOY)/bin/checkov --directory terraform --framework terraform --quiet --compact --skip-download
	@$(DEPLOY)/bin/kubernetes-validate --strict --quiet --no-warn $$(find k8s/base -name '*.yaml' ! -name kustomization.yaml)
	@if [ -f Dockerfile ]; then $(DEPLOY)/bin/hadolint Dockerfile; fi
	@$(DEPLOY)/bin/actionlint -shellcheck= -pyflakes=
	@$(BIN)/python -m pytest tests/deploy

$(DEPLOY)/installed: $(DEPLOY_REQUIREMENTS)
	@command -v go >/dev/null || { echo "Go is needed to install actionlint (command go)."; exit 1; }
	@echo "Installing the checks of what is deployed into $(DEPLOY)"
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/pip install -q --require-hashes -r $(DEPLOY_REQUIREMENTS)
	@GOBIN=$(DEPLOY)/bin go install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	@touch $@

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

lock:  ## renew requirements.lock from pyproject.toml, and the deployment checks' from their list
	uv pip compile pyproject.toml --extra training --group dev --generate-hashes --no-emit-index-url --no-annotate --no-strip-extras \
	  --python-version 3.11 -o requirements.lock
	uv pip compile tests/deploy/requirements.in --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 \
	  -o $(DEPLOY_REQUIREMENTS)
