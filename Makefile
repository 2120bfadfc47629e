# `make` alone lists the commands.
.DEFAULT_GOAL := help
.PHONY: help setup demo test drills check format types manifests supply images bench faults fuzz airflow lock

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# Tests wait now and then: two processes more than there are processors.
PYTEST := $(BIN)/python -m pytest -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2) --dist loadscope --no-loadscope-reorder
AIRFLOW_REQUIREMENTS := tests/integration/airflow-requirements.txt
AIRFLOW_VERSION := $(shell sed -n 's/^apache-airflow==//p' $(AIRFLOW_REQUIREMENTS))
AIRFLOW := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/healthalliance/airflow-$(AIRFLOW_VERSION)

DEPLOY_REQUIREMENTS := tests/deploy/requirements.txt
ACTIONLINT_VERSION := v1.7.7
KUSTOMIZE_VERSION := v5.7.1
# The definitions of the custom resources that k8s/ uses.
KEDA_VERSION := v2.17.2
PROMETHEUS_OPERATOR_VERSION := v0.83.0
EXTERNAL_SECRETS_VERSION := v0.17.0
DEPLOY_VERSIONS := $(ACTIONLINT_VERSION) $(KUSTOMIZE_VERSION) $(KEDA_VERSION) $(PROMETHEUS_OPERATOR_VERSION) $(EXTERNAL_SECRETS_VERSION)
DEPLOY := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/healthalliance/deploy-$(shell echo $(DEPLOY_VERSIONS) | cat - $(DEPLOY_REQUIREMENTS) | sha256sum | cut -c1-12)
OVERLAYS := local aws
RENDERED := .local/manifests
SBOM := .local/sbom

COMPILE := uv pip compile --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: setup  ## three simulated hospitals, a trained model, live scores; ONCE=1 ends by itself
	@$(BIN)/healthalliance demo $(if $(ONCE),--once)

test: setup  ## the tests, on a real Kafka, schema registry and PostgreSQL; but for drills and what `check` tests
	@$(PYTEST) --ignore=tests/drills --ignore=tests/deploy

drills: setup  ## what takes minutes and seldom breaks: upgrade, restore, rebuild, the demo, each command of the docs
	@$(PYTEST) tests/drills

check: format types manifests supply  ## format, lint, types, import rules, schemas, and what is deployed

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
	@mkdir -p $(RENDERED)
	@for overlay in $(OVERLAYS); do $(DEPLOY)/bin/kustomize build k8s/overlays/$$overlay -o $(RENDERED)/$$overlay.yaml || exit 1; done
	@$(DEPLOY)/bin/kustomize build k8s/namespace -o $(RENDERED)/namespace.yaml
	@$(DEPLOY)/bin/kustomize build k8s/base/training -o $(RENDERED)/training.yaml
	@$(DEPLOY)/bin/python tests/deploy/manifests.py $(DEPLOY)/crds $(RENDERED)/*.yaml
	@$(DEPLOY)/bin/checkov $(OVERLAYS:%=--file $(RENDERED)/%.yaml) --framework kubernetes --quiet --compact --skip-download
	@$(DEPLOY)/bin/hadolint Dockerfile
	@$(DEPLOY)/bin/actionlint -shellcheck= -pyflakes=
	@PATH="$(DEPLOY)/bin:$$PATH" $(BIN)/python -m pytest tests/deploy

supply: setup $(DEPLOY)/installed  ## what is in the images (CycloneDX), and what is known to be vulnerable in it
	@mkdir -p $(SBOM)
	@for lock in runtime training; do \
	  $(DEPLOY)/bin/cyclonedx-py requirements requirements-$$lock.lock --pyproject pyproject.toml --output-reproducible \
	    -o $(SBOM)/$$lock.cdx.json 2>/dev/null || exit 1; done
	@$(DEPLOY)/bin/python tests/deploy/vulnerabilities.py $(DEPLOY)/bin/pip-audit requirements-training.lock

# Copy definitions out of a Go module: $(call definitions,module@version,files)
definitions = module=$$(go mod download -json $(1) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && cp $$module/$(2) $(DEPLOY)/crds

$(DEPLOY)/installed: $(DEPLOY_REQUIREMENTS)
	@command -v go >/dev/null || { echo "Go is needed to install actionlint and kustomize (command go)."; exit 1; }
	@echo "Installing the checks of what is deployed into $(DEPLOY)"
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/pip install -q --require-hashes -r $(DEPLOY_REQUIREMENTS)
	@GOBIN=$(DEPLOY)/bin go install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	@GOBIN=$(DEPLOY)/bin go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	@mkdir -p $(DEPLOY)/crds
	@$(call definitions,github.com/kedacore/keda/v2@$(KEDA_VERSION),config/crd/bases/keda.sh_*.yaml)
	@$(call definitions,github.com/prometheus-operator/prometheus-operator@$(PROMETHEUS_OPERATOR_VERSION),example/prometheus-operator-crd/*_servicemonitors.yaml)
	@$(call definitions,github.com/prometheus-operator/prometheus-operator@$(PROMETHEUS_OPERATOR_VERSION),example/prometheus-operator-crd/*_prometheusrules.yaml)
	@$(call definitions,github.com/external-secrets/external-secrets@$(EXTERNAL_SECRETS_VERSION),config/crds/bases/external-secrets.io_*s.yaml)
	@touch $@

images: setup  ## go through the Dockerfile's steps without Docker (minutes); TARGET=worker takes one image
	@$(BIN)/python -m tests.deploy.image_steps $(TARGET)

bench: setup  ## measure against a naive worker, or with DIABETES130=file on that; writes a .json into .local
	@$(BIN)/python -m tests.bench$(if $(DIABETES130),.diabetes130 $(DIABETES130))

faults: setup  ## prove the delivery by faults; SCENARIO=name SEED=n SCALE=x MUTANT=name
	@$(BIN)/python -m tests.faults $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SEED),--seed $(SEED)) $(if $(SCALE),--scale $(SCALE)) $(if $(MUTANT),--mutant $(MUTANT))

fuzz: setup  ## feed all readers what nobody would send, for MINUTES=10
	@$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

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

lock:  ## renew requirements*.lock from pyproject.toml, and the deployment checks' from their list
	$(COMPILE) pyproject.toml --no-strip-extras --extra training --extra local-stack --group dev -o requirements.lock
	$(COMPILE) pyproject.toml --no-strip-extras --constraint requirements.lock -o requirements-runtime.lock
	$(COMPILE) pyproject.toml --no-strip-extras --constraint requirements.lock --extra training -o requirements-training.lock
	$(COMPILE) --group build --constraint requirements.lock -o requirements-build.lock
	$(COMPILE) tests/deploy/requirements.in -o $(DEPLOY_REQUIREMENTS)
