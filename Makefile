# Two commands set everything up on a machine that has Python 3.11 or newer and make:
#   make serve    the gateway with a real MCP server behind it        make test    the tests
# Everything is installed into .venv (and nowhere else); `make clean` takes it away again.

PYTHON ?= python3
LISTEN ?= 127.0.0.1:8080
STORE ?= sqlite:./data/outlast.db

VENV := .venv
BIN := $(VENV)/bin
# The server behind the gateway has a virtual environment of its own, inside the other so that one folder holds all.
# It depends on the MCP SDK and its web stack; the gateway depends on neither, and must never get a library's
# version from it (nor show that it works only because of it).
SERVERS := $(VENV)/servers
TIME_SERVER := $(SERVERS)/bin/mcp-server-time

# ARGS names some tests (or options of pytest's). Without it all tests run: files of them side by side in two processes,
# or in as many as WORKERS says (auto: one for each core; 0: one after the other). A file stays in one process, with
# what its tests share; what is collected last are the small ones.
WORKERS ?= 2
ARGS ?=
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

PIP_INSTALL := -m pip install --quiet --progress-bar off --disable-pip-version-check

# A recipe that fails half-way leaves no target behind that looks finished.
.DELETE_ON_ERROR:
.PHONY: help serve test check format bench faults restarts image-test dist clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

serve: $(VENV)/installed $(TIME_SERVER) ## serve mcp-server-time on http://$(LISTEN)/mcp, sessions in $(STORE)
	@# exec: a signal for make is to reach the gateway, and not a shell between them
	exec $(BIN)/outlast serve --listen "$(LISTEN)" --store "$(STORE)" --server time=stdio:$(TIME_SERVER)

test: $(VENV)/installed-test ## run all tests, or those that ARGS names
	$(BIN)/python -m pytest $(or $(ARGS),$(SIDE_BY_SIDE))

check: $(VENV)/installed-test ## formatting, lint, strict types, layers, tests: what must be green
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py
	$(MAKE) --no-print-directory test

format: $(VENV)/installed-test ## format the code, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-test ## measure calls through the gateway, and durable commits
	$(BIN)/python -m bench calls
	$(BIN)/python -m bench commits

faults: $(VENV)/installed-test ## try every fault, and its negative controls (as root: power cuts and full disks, too)
	$(BIN)/python -m tests.faults

restarts: $(VENV)/installed-test ## restart everything in the middle of everything, in all combinations (minutes)
	E2E_RESTARTS=full $(BIN)/python -m pytest tests/e2e/restarts

image-test: $(VENV)/installed-test ## build the container image, run it, kill it, start it again (as root; minutes)
	$(BIN)/python -m tests.image --folder $(VENV)/image

dist: $(VENV)/installed-test ## build the wheel and the source distribution, into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

clean: ## remove what was installed and cached; ./data stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "python3 cannot make virtual environments (Debian: apt install python3-venv)" >&2; exit 2; }

# Editable, so that a change of the code needs no new installation; a change of the dependencies does.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing outlast into $(VENV) ..."
	@$(BIN)/python $(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	@echo "installing outlast and what its tests need into $(VENV) ..."
	@$(BIN)/python $(PIP_INSTALL) --editable '.[test]'
	@touch $(VENV)/installed $@

$(TIME_SERVER): | $(BIN)/python
	@echo "installing mcp-server-time into $(SERVERS) ..."
	@$(BIN)/python -m venv $(SERVERS)
	@$(SERVERS)/bin/python $(PIP_INSTALL) "mcp-server-time>=2026.1"
