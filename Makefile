# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export OTEL_ENABLED = false

.PHONY: demo test test-long test-matrix bench-kills check format clean

demo: $(STAMP)
	$(BIN)/iii-resilience demo

test: $(STAMP)
	$(BIN)/python -m pytest

# What takes minutes: outages at full size.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# The wrapper's tests against released versions of iii's SDK: all, or VERSIONS="0.11.6 0.24.6".
test-matrix:
	$(PYTHON) tests/matrix/run.py $(VERSIONS)

# A worker that is killed again and again, with and without the library; SECONDS a run.
bench-kills: $(STAMP)
	PYTHONPATH=tests $(BIN)/python benchmarks/bench_kills.py $(SECONDS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-matrix .mypy_cache .pytest_cache .ruff_cache .hypothesis
