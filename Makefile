# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed

export OTEL_ENABLED = false
# Bytecode is written wherever it was switched off: the tests start hundreds of processes, and each
# would compile the package anew; pytest would rewrite the assertions of all tests in each run.
export PYTHONDONTWRITEBYTECODE =
# Tracebacks without carets: to place them Python parses the source again, in whichever thread logs,
# and 3.11's parser fails in another thread that parses at that moment (CPython issue 106905).
export PYTHONNODEBUGRANGES = 1

# What `make coverage` covers; `make mutate` has its own list in pyproject.toml. Not the tables of
# other libraries' exceptions: some of their rows are raised by servers that no test starts.
CORE_PARTS := $(addprefix core/,*.py codes/* guards/*)
CLASSIFIERS := $(filter-out %/database_details.py %/grpc_details.py %/library_details.py \
	%/library_exceptions.py %/printed_exceptions.py %/registered_exceptions.py,\
	$(patsubst src/iii_resilience/%,%,$(wildcard src/iii_resilience/core/classifiers/*.py)))
CORE := $(CORE_PARTS) $(CLASSIFIERS) retry/* telemetry/__init__.py telemetry/call_events.py telemetry/logs.py \
	telemetry/instruments.py telemetry/metrics.py telemetry/spans.py
CORE_TESTS := tests/core tests/retry tests/telemetry/test_call_events.py \
	tests/telemetry/test_metrics.py tests/telemetry/test_worker_metrics.py \
	tests/telemetry/test_logs.py tests/telemetry/test_spans.py tests/telemetry/test_observer_faults.py \
	tests/handling/decorators/test_decorator_order.py
SCENARIOS := src/iii_resilience/cli/simulation/scenarios
comma := ,
empty :=
CORE_FILES := $(subst $(empty) ,$(comma),$(strip $(CORE:%=src/iii_resilience/%)))

.PHONY: demo help test test-long test-matrix bench bench-quick bench-fleet bench-kills soak check coverage \
	mutate format schema pictures reference docs pins clean

demo: $(STAMP) ## 1 min: show real workers being killed under real calls, with the library and without
	$(BIN)/iii-resilience demo

# The text behind `##` is the only list of targets: CONTRIBUTING.md shows what this prints.
help: ## 1 s: print this list, with durations on two cores
	@awk -F' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); n = index($$2, ": "); \
		printf "make %-12s %6s  %s\n", $$1, substr($$2, 1, n - 1), substr($$2, n + 2) }' Makefile

# More processes than cores, for most of a test's time is waiting; a file of tests at a time, in the
# order of tests/conftest.py.
test: $(STAMP) ## 5 min: run the tests
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# What takes minutes: outages and deploys at full size, with the bounds that hold on a machine with
# nothing else to do.
test-long: $(STAMP) ## 30 min: run the tests at full size; with III_URL=ws://... against a real engine too
	III_LONG=1 $(BIN)/python -m pytest -s -m "long or engine"

# The wrapper's tests against released versions of iii's SDK: all, or VERSIONS="0.11.6 0.24.6".
test-matrix: ## 15 min: run the wrapper's tests on eight SDK versions, or VERSIONS="0.11.6 0.24.6"
	$(PYTHON) tests/matrix/run.py $(VERSIONS)

# Side by side with the peers, in an environment of its own; the tables go into RESULTS.md.
bench: $(BENCH_STAMP) ## 10 min: measure side by side with peers; writes benchmarks/RESULTS.md
	$(BENCH)/bin/python benchmarks/run.py --write benchmarks/RESULTS.md

# The same in less than a minute, reduced; nothing is written.
bench-quick: $(BENCH_STAMP) ## 1 min: the same at reduced size; writes nothing
	$(BENCH)/bin/python benchmarks/run.py --quick

# A fleet against a service that becomes slow, in virtual time; writes docs/fleet.md and its picture.
bench-fleet: $(STAMP) ## 15 min: measure what the retries of a fleet add to an outage; writes docs/fleet.md
	PYTHONPATH=tests $(BIN)/python benchmarks/bench_fleet.py --write docs/fleet.md --plot docs/fleet.svg

# A worker that is killed again and again, with and without the library; SECONDS a run.
bench-kills: $(STAMP) ## 2 min: kill a worker again and again for SECONDS, with the library and without
	PYTHONPATH=tests $(BIN)/python benchmarks/bench_kills.py $(SECONDS)

# Ten minutes, or SECONDS, of calls under random faults: nothing piles up (docs/soak.md).
soak: $(STAMP) ## 10 min: call under random faults for SECONDS (docs/soak.md)
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py $(SECONDS)

check: $(STAMP) ## 2 min: run the linter, the formatter and both type checkers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

# Every branch of the core must be taken by a test of its own, and none of those may sleep long.
coverage: $(STAMP) ## 3 min: run the core's tests; fails unless each of its branches is taken
	$(BIN)/coverage erase
	PYTHONPATH=tests $(BIN)/coverage run -m pytest -p no:randomly -p support.real_sleeps \
		-m "not long or library" $(CORE_TESTS)
	$(BIN)/coverage report --include='$(CORE_FILES)' --show-missing --fail-under=100

# docs/correctness.md says how to read the result.
mutate: $(STAMP) ## 3 h: change what has no I/O in one place at a time; fails below 90 % noticed
	nice -n 10 $(BIN)/mutmut run --max-children 2
	$(BIN)/python benchmarks/mutation_score.py

format: $(STAMP) ## 1 s: format the code, and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What editors check policy files against, made from the classes.
schema: $(STAMP) ## 1 s: write the schemas of policy and scenario files from the classes
	$(BIN)/python -m iii_resilience.config.files.schema > policies/schema.json.new
	mv policies/schema.json.new policies/schema.json
	$(BIN)/python -m iii_resilience.cli.simulation.scenario_files > $(SCENARIOS)/schema.json.new
	mv $(SCENARIOS)/schema.json.new $(SCENARIOS)/schema.json

# docs/layers.svg, from the table that tests/test_layers.py enforces; the others from the code.
pictures: $(STAMP) ## 1 min: draw the diagrams and plots of the documents
	PYTHONPATH=tests $(BIN)/python benchmarks/layers_picture.py
	$(BIN)/python docs/tools/document_pictures.py
	$(BIN)/python docs/tools/policy_plots.py

# The pages of docs/reference, from the code: policy fields, codes, commands and so on.
reference: $(STAMP) ## 2 s: write docs/reference from the code
	$(BIN)/python docs/tools/reference_pages.py

# The site, with warnings as errors, and a check of its links. Open docs/_site/index.html.
docs: $(STAMP) ## 30 s: build the documentation site in docs/_site and check its links
	$(BIN)/python docs/tools/reference_pages.py --check
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_site
	$(BIN)/python docs/tools/links.py docs/_site

# The pinned answers, to be read in the diff: every row of the code tables, and what classify says.
pins: $(STAMP) ## 5 s: write the pinned code rows and classifications in tests/data anew
	PYTHONPATH=tests $(BIN)/python tests/core/codes/test_rows_pinned.py
	PYTHONPATH=tests $(BIN)/python tests/core/classifiers/test_answers_pinned.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

$(BENCH_STAMP): pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r benchmarks/requirements.txt -e '.[iii,postgres,redis,testing]' pytest
	touch $(BENCH_STAMP)

clean: ## 1 s: remove the environments and caches
	rm -rf $(VENV) $(BENCH) .venv-matrix .venv-3.* .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants
