# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed

export OTEL_ENABLED = false
# Tracebacks without carets: to place them Python parses the source again, in whichever thread logs,
# and 3.11's parser fails in another thread that parses at that moment (CPython issue 106905).
export PYTHONNODEBUGRANGES = 1

# What `make coverage` covers; `make mutate` has its own list in pyproject.toml.
CORE := core/* retry/* telemetry/__init__.py telemetry/call_events.py telemetry/logs.py \
	telemetry/metrics.py telemetry/spans.py
CORE_TESTS := tests/core tests/retry tests/telemetry/test_call_events.py \
	tests/telemetry/test_metrics.py tests/telemetry/test_logs.py tests/telemetry/test_spans.py
comma := ,
empty :=
CORE_FILES := $(subst $(empty) ,$(comma),$(strip $(CORE:%=src/iii_resilience/%)))

.PHONY: demo test test-long test-matrix bench bench-quick bench-kills soak check coverage mutate format schema clean

demo: $(STAMP)
	$(BIN)/iii-resilience demo

# Two processes, a file of tests at a time: most of the suite's time is waiting and starting others.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What takes minutes: outages and deploys at full size, with the bounds that hold on a machine with
# nothing else to do.
test-long: $(STAMP)
	III_LONG=1 $(BIN)/python -m pytest -s -m "long or engine"

# The wrapper's tests against released versions of iii's SDK: all, or VERSIONS="0.11.6 0.24.6".
test-matrix:
	$(PYTHON) tests/matrix/run.py $(VERSIONS)

# Side by side with the peers, in an environment of its own; the tables go into RESULTS.md.
bench: $(BENCH_STAMP)
	$(BENCH)/bin/python benchmarks/run.py --write benchmarks/RESULTS.md

# The same in less than a minute, reduced; nothing is written.
bench-quick: $(BENCH_STAMP)
	$(BENCH)/bin/python benchmarks/run.py --quick

# A worker that is killed again and again, with and without the library; SECONDS a run.
bench-kills: $(STAMP)
	PYTHONPATH=tests $(BIN)/python benchmarks/bench_kills.py $(SECONDS)

# Ten minutes, or SECONDS, of calls under random faults: nothing piles up (docs/soak.md).
soak: $(STAMP)
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py $(SECONDS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

# Every branch of the core must be taken by a test of its own, and none of those may sleep long.
coverage: $(STAMP)
	$(BIN)/coverage erase
	PYTHONPATH=tests $(BIN)/coverage run -m pytest -p no:randomly -p support.real_sleeps $(CORE_TESTS)
	$(BIN)/coverage report --include='$(CORE_FILES)' --show-missing --fail-under=100

# Takes the better part of an hour on two cores; docs/correctness.md says how to read the result.
mutate: $(STAMP)
	nice -n 10 $(BIN)/mutmut run --max-children 2
	$(BIN)/python benchmarks/mutation_score.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What editors check policy files against, made from the classes.
schema: $(STAMP)
	$(BIN)/python -m iii_resilience.config.files.schema > policies/schema.json.new
	mv policies/schema.json.new policies/schema.json

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

$(BENCH_STAMP): pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r benchmarks/requirements.txt -e '.[iii,testing]'
	touch $(BENCH_STAMP)

clean:
	rm -rf $(VENV) $(BENCH) .venv-matrix .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants
