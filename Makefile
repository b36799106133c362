# make quickstart   make data, train, sample, score: some minutes on two cores
# make test         format, lint, types, tests: what continuous integration runs
# make parity       hold modules and files to PyTorch's, which it installs
# make compile-all  compile every pod experiment for its pod: an hour or so
# make clean        delete the virtual environment and what tools left behind
#
# All set up .venv first, anew only when setup.cfg or pyproject.toml changed.

# The first Python that is new enough; `make PYTHON=... test` takes another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
MOCHA := $(BIN)/mocha
QUICKSTART := --config quickstart

# On what all of it runs; `make JAX_PLATFORMS= ...` lets JAX choose. The extra
# dev brings the TPU compiler, which JAX would try, loudly, as a TPU.
JAX_PLATFORMS ?= cpu
export JAX_PLATFORMS

.PHONY: quickstart test parity compile-all clean
.DELETE_ON_ERROR:

# Each of the four goes on from where it was stopped.
quickstart: .venv/installed
	$(MOCHA) data toy $(QUICKSTART)
	$(MOCHA) data encode $(QUICKSTART)
	$(MOCHA) train $(QUICKSTART)
	$(MOCHA) score runs/quickstart

test: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2 --ignore=tests/parity

parity: .venv/installed-torch
	$(BIN)/pytest -n 2 tests/parity

compile-all: .venv/installed-dev
	$(MOCHA) compile --all

.venv/bin/pip:
	@test -n "$(PYTHON)" || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) lacks venv: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml | .venv/bin/pip
	@echo "Installing into .venv; this takes a few minutes the first time."
	$(PIP) install -e '.[data,toy]'
	@touch $@

# The extra dev holds data and toy.
.venv/installed-dev: setup.cfg pyproject.toml | .venv/bin/pip
	@echo "Installing into .venv; this takes a few minutes the first time."
	$(PIP) install -e '.[dev]'
	@touch .venv/installed $@

# PyTorch alone at first: so pip takes a build for CPUs where one is offered.
.venv/installed-torch: .venv/installed-dev
	$(PIP) install $$(sed -n 's/^ *\(torch==.*\)/\1/p' setup.cfg)
	$(PIP) install -e '.[dev,torch]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
