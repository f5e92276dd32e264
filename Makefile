# Hive. `make` lists what there is; the work is done by hivectl and the tools in .venv.

PYTHON ?= python3
FALLBACKS := python3.13 python3.12 python3.11 python3.14
HIVE_DATA ?= $(CURDIR)/.hive
export HIVE_DATA

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := requirements/dev.txt pyproject.toml
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
WORKERS ?= auto
ARGS ?=
NAME ?= throughput

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check bench clean lock

help: ## list the targets
	@echo "Hive: make TARGET, with"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12
	@echo "Data goes to HIVE_DATA, now $(HIVE_DATA)"

# Installs again only when a lock file changed (by content: a fresh checkout's dates say nothing), the folder moved, or
# the interpreter is gone.
setup: ## create .venv and install the locked dependencies
	@set -eu; \
	wanted="$$(cat $(LOCKS) | cksum) $(CURDIR)"; \
	if [ -x $(BIN)/hivectl ] && $(BIN)/python -c '' 2>/dev/null && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in "$(PYTHON)" $(FALLBACKS); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: Hive needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1 || echo missing)." >&2; \
	    echo "  try: install one, then make setup PYTHON=/path/to/python3" >&2; exit 1; \
	  fi; \
	  echo "Creating $(VENV) with $$("$$found" -V)"; \
	  if ! "$$found" -m venv --clear $(VENV); then \
	    echo "error: $$found cannot make a virtual environment; its message is above." >&2; \
	    echo "  try: install its venv module (Debian, Ubuntu: apt install python3-venv), then make setup" >&2; exit 1; \
	  fi; \
	fi; \
	echo "Installing the locked dependencies (the first time takes a minute or two)"; \
	if ! $(PIP) install --quiet --retries 2 --timeout 20 --require-hashes -r requirements/dev.txt; then \
	  echo "error: the dependencies could not be installed; pip's message is above." >&2; \
	  echo "  try: check the network (a proxy: https_proxy, a mirror: PIP_INDEX_URL), then make setup; what came goes on from there" >&2; exit 1; \
	fi; \
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .; \
	echo "$$wanted" > $(STAMP); \
	echo "Ready: $(BIN)/hivectl"

demo: setup ## run a real job through every part, then prove the result from the log
	@$(BIN)/hivectl demo $(ARGS)

up: setup ## leave a hive running here with one worker (Ctrl-C stops it)
	@$(BIN)/hivectl up $(ARGS)

test: setup ## run every test, in parallel, and say what was skipped and why
	@$(BIN)/python -m pytest -n $(WORKERS) -q -rs tests $(ARGS)

check: setup ## format, lint, types, import directions, generated files
	@.ci/run check

bench: setup ## measure: make bench NAME=throughput
	@$(BIN)/hivectl bench $(NAME) $(ARGS)

lock: ## write the lock files again from pyproject.toml
	@set -eu; uv=$(BIN)/uv; [ -x $$uv ] || uv="$$(command -v uv)" || { \
	  echo "error: uv is not installed." >&2; echo "  try: $(BIN)/pip install uv" >&2; exit 1; }; \
	compile="$$uv pip compile --quiet --generate-hashes --universal --no-header --no-emit-index-url pyproject.toml"; \
	$$compile --output-file requirements/runtime.txt; \
	$$compile --extra dev --constraint requirements/runtime.txt --output-file requirements/dev.txt

clean: ## remove .venv and caches; what a hive keeps in HIVE_DATA stays
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -d "$(HIVE_DATA)" ]; then echo "Kept the data in $(HIVE_DATA); to forget it all: rm -r $(HIVE_DATA)"; fi
