# `make run` and `make test` need nothing but Python 3.11+, git and make: each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
OUT ?=

export OMP_NUM_THREADS ?= 1

.PHONY: setup run test test-all seeds-quick check bench bench-full clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "p2pftl needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[compressed,dev]'
	touch $(READY)

run: $(READY)
	$(BIN)/p2pftl run scenarios/quickstart.yaml $(if $(OUT),--out $(OUT))

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY) seeds-quick
	$(BIN)/python -m pytest -m 'slow or not slow'

seeds-quick: $(READY)
	$(BIN)/python docs/figures.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(READY)
	$(BIN)/python -m benchmarks.suite --out $(or $(OUT),bench.json)

bench-full: $(READY)
	$(BIN)/python -m benchmarks.suite --full --out $(or $(OUT),bench-full.json)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
