# What people and CI call. `make help` lists it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Quiet: no telemetry, no warnings about the previews that some of Dagster's own packages are.
DG := DAGSTER_DISABLE_TELEMETRY=1 PYTHONWARNINGS=ignore $(BIN)/dg

# The broker that some tests start: the version is that of lpm_stream_tests/kafka/pom.xml.
KAFKA := $(HOME)/.cache/lpm_stream/kafka-4.1.0

.PHONY: help install demo test test-all screenshots check lint format bench torture torture-short clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@

demo: install ## Run the main job on this machine, live, with simulated traffic
	$(BIN)/lpm-stream demo

test: install ## Run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: install $(KAFKA)/.fetched ## Run all tests, also those that need Java, Maven and Chromium
	LPM_TEST_ALL=1 LPM_TEST_KAFKA=$(KAFKA) $(BIN)/python -m pytest -n auto --dist worksteal

$(KAFKA)/.fetched: lpm_stream_tests/kafka/pom.xml
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DoutputDirectory=$(KAFKA)
	@touch $@

screenshots: install ## Take the pictures of docs/ui.md anew, which needs Chromium
	LPM_TEST_ALL=1 LPM_TEST_PICTURES=docs/images $(BIN)/python -m pytest lpm_stream_tests/stories

check: lint test ## Everything that must hold before a change lands: format, lint, types, definitions, tests

lint: install ## All of that but the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(DG) check yaml
	$(DG) check defs

format: install ## Format the code and apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install $(KAFKA)/.fetched ## Measure throughput, latency and bytes, and write build/bench.json
	LPM_TEST_KAFKA=$(KAFKA) $(BIN)/python -m bench

torture: install $(KAFKA)/.fetched ## Inflict every fault on real processes, at length, and write build/torture.json
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group torture
	LPM_TEST_KAFKA=$(KAFKA) $(BIN)/python -m torture

torture-short: install $(KAFKA)/.fetched ## The main ones of them, in some minutes
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group torture
	LPM_TEST_KAFKA=$(KAFKA) $(BIN)/python -m torture --short

clean: ## Remove what was installed and built; data (.lpm_stream) stays
	rm -rf .venv build
