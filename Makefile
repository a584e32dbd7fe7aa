# callstream: `make demo` runs the whole thing on this machine, `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SAY := echo "callstream:"
# The stamp holds this folder's path: scripts in a virtual environment break when their folder moves.
MOVED := $(if $(filter-out $(CURDIR),$(shell cat $(STAMP) 2>/dev/null)),moved)

# pip's own lines would be hundreds: count the packages instead; errors go to stderr and are shown whole.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --no-input install --progress-bar off
COUNT := n=0; while read -r word _; do [ "$$word" != Collecting ] || { n=$$((n + 1)); \
  [ $$((n % 25)) -ne 0 ] || $(SAY) "  $$n packages"; }; done

COMPILE := $(BIN)/uv pip compile pyproject.toml --generate-hashes --universal --python-version 3.11 \
  --no-emit-index-url --no-header --no-annotate --quiet

FAULTS_REPORT := build/faults.jsonl
ACCURACY_DATA ?= ../shared/speech
EVALUATE = $(BIN)/callstream evaluate --output build/accuracy $(ACCURACY_ARGS)

.PHONY: demo test faults lint setup lock bench accuracy clean help system test-tools $(MOVED)

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: setup ## stream a bundled call through everything (DEMO_ARGS="FILE ... --json")
	@$(BIN)/callstream demo $(DEMO_ARGS)

test: setup test-tools ## run the tests, in two lanes (PYTEST_ARGS="-k name", "-n 0" for one)
	@$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: setup ## style, types, import directions, schemas, compose file
	@$(SAY) "ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(SAY) "mypy"; $(BIN)/mypy
	@$(SAY) "import-linter"; $(BIN)/lint-imports
	@if [ -e tools/check_schemas.py ]; then $(SAY) "schemas"; $(BIN)/python -m tools.check_schemas --check; fi
	@if docker compose version >/dev/null 2>&1; then $(SAY) "compose.yaml"; docker compose config -q; \
	  else $(SAY) "compose.yaml not checked: no docker compose here"; fi

faults: setup test-tools ## disturb everything for about four hours: kills, cuts, bounced brokers, full disks (FAULTS_ARGS="-k network")
	@mkdir -p build && rm -f $(FAULTS_REPORT)
	@CALLSTREAM_FAULTS=long CALLSTREAM_FAULTS_REPORT=$(FAULTS_REPORT) $(BIN)/python -m pytest tests/faults -v $(FAULTS_ARGS); \
	  status=$$?; $(BIN)/python -m tests.faults.table $(FAULTS_REPORT); exit $$status

bench: setup ## measure what calls cost and how many a core bears, against peers and limits, into build/ (BENCH_ARGS="live vad")
	@$(BIN)/python -m pip show -q sherpa-onnx 2>/dev/null || { $(SAY) "installing sherpa-onnx, a peer"; $(PIP) -q sherpa-onnx; }
	@$(BIN)/python -m benchmarks.everything $(BENCH_ARGS)

accuracy: setup ## measure how good the answers are, into build/accuracy (ACCURACY_DATA=FOLDER ACCURACY_ARGS="--resamples 1000")
	@if [ ! -e "$(ACCURACY_DATA)" ]; then $(SAY) "no folder $(ACCURACY_DATA): nothing measured;" \
	  "callstream evaluate MANIFEST.csv takes recordings of your own"; exit 0; fi; \
	if [ -e "$(ACCURACY_DATA)/vad_segments.csv" ]; then \
	  $(EVALUATE) "$(ACCURACY_DATA)/vad_segments.csv" --technology vad; fi; \
	if [ -e "$(ACCURACY_DATA)/clips.csv" ]; then \
	  $(EVALUATE) "$(ACCURACY_DATA)/clips.csv" --technology voiceprint --technology language --technology gender; fi

setup: system $(STAMP) ## install what is missing: system packages, Python packages

system:
	@tools/system_packages.sh

test-tools:
	@tools/system_packages.sh tests

$(STAMP): requirements.lock pyproject.toml $(MOVED)
	@tools/system_packages.sh python
	@if ! $(BIN)/python -c 'import pip, sys; assert (3, 11) <= sys.version_info < (3, 14)' 2>/dev/null || [ "$(MOVED)" ]; then \
	  $(SAY) "making $(VENV)"; "$$(tools/find_python.sh)" -m venv --clear $(VENV); fi
	@$(SAY) "installing Python packages (about 30 s the first time)"
	@$(PIP) --require-hashes -r requirements.lock | { $(COUNT); }
	@$(PIP) --no-deps -e . | { $(COUNT); }
	@echo "$(CURDIR)" > $(STAMP)
	@$(SAY) "Python packages are installed"

lock: setup ## resolve pyproject.toml into requirements.lock (LOCK_ARGS=--upgrade)
	@$(BIN)/python -m pip show -q uv 2>/dev/null || { $(SAY) "installing uv"; $(PIP) -q uv; }
	@$(COMPILE) --extra dev $(LOCK_ARGS) -o requirements.lock
	@$(COMPILE) --constraint requirements.lock -o requirements.runtime.lock
	@$(SAY) "requirements.lock: $$(grep -c == requirements.lock) packages, $$(grep -c == requirements.runtime.lock) of them in the image; run make test"

clean: ## remove the virtual environment and everything built or cached in this folder
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
