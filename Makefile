# make demo: a root and two workers tell a story. make test: the tests of everyday, in minutes. make test-all: every test.
# make real-models: small real models into .real-models, for the tests that run them. All of them set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three processes, since some wait; the tests of a file stay together, since they share servers, workers or a browser.
PYTEST := $(BIN)/python -m pytest --numprocesses=3 --dist=loadfile
NATIVE := CMakeLists.txt $(wildcard native/*)

.PHONY: demo test test-all real-models lint types clean

demo: $(VENV)/.program
	$(BIN)/python tools/demo.py

test: $(VENV)/.dev
	$(PYTEST)

test-all: $(VENV)/.dev
	$(PYTEST) -m ''

real-models: $(VENV)/.dev
	$(BIN)/python tools/real_models.py

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests tools
	$(BIN)/ruff format --check src tests tools

types: $(VENV)/.dev
	$(BIN)/mypy

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "dllama needs Python 3.11 or newer; set one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.program: $(VENV)/.venv pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.program
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build
