# The tasks of this project; `make` alone lists them. ARGS goes to the program behind a target: make bench ARGS=--help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3
FLEET ?= examples/quickstart.yaml
SYSTEM_PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup up down test check soak bench bench-operator bench-scale clients images crds e2e

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv and install ghostfleet and its tools into it

$(STAMP): pyproject.toml
	@sh tools/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

up: setup ## start the quickstart fleet on this machine; Ctrl-C stops it
	@$(BIN)/ghostfleet up -f $(FLEET) $(ARGS)

down: setup ## stop the fleet that runs on this machine
	@$(BIN)/ghostfleet down $(ARGS)

# What the tests run is built first, for a single test has two minutes; where it cannot be, they say so and are skipped.
# Workers share the tests (tests/sharing.py), more than there are cores, for half of the time is waiting; 0 is without.
test: check ## checks, then all tests (a sample of the long ones)
	@$(BIN)/python -m e2e.build etcd kube-apiserver kube-controller-manager kube-scheduler kwok kubectl helm kvindex \
		--inference-extension-crds >/dev/null || true
	@$(BIN)/python -m tests.schedulers.routers >/dev/null || true
	$(BIN)/pytest -n $(WORKERS) $(ARGS)

check: setup ## style, types, layers, and whether generated files are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m ghostfleet_operator.kinds.crd --check
	$(BIN)/python -m tools.crdlint crds/*.yaml
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/train_tokenizer.py --check

soak: setup ## the long tests, whole
	GHOSTFLEET_SOAK=1 $(BIN)/pytest -m soak --timeout 3600 $(ARGS)

bench: setup ## measure what a token costs and how exactly it comes
	$(BIN)/python -m bench $(ARGS)

bench-operator: setup ## measure the operator with 1,000 servers and 1,000 pods on a real API server (Linux, root)
	$(BIN)/python -m bench.operator $(ARGS)

bench-scale: setup ## measure how many servers one machine holds, and how often they can be scraped
	$(BIN)/python -m bench.scale $(ARGS)

clients: setup ## run aiperf, inference-perf and guidellm against a server, each from a venv of its own (up to 8 GB)
	$(BIN)/python tools/clients.py $(ARGS)

images: ## build the container images with docker or buildah
	$(SYSTEM_PYTHON) -m e2e.images $(ARGS)

crds: setup ## write crds/ and the reference in docs/ from the models
	$(BIN)/python -m ghostfleet_operator.kinds.crd
	$(BIN)/python tools/reference.py

e2e: setup ## whole-system tests on the cluster of KUBECONFIG, or on a kind cluster made for them
	$(BIN)/python -m e2e $(ARGS)
