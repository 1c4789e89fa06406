# make demo   back up sample databases on an embedded PostgreSQL; needs nothing but Python and make
# make test   install what the tests need and run all of them, on real servers
# make lint   ruff and mypy, both strict
# make bench  compare with pg_dump | gzip and its kin; see bench/README.md

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
MODULES := asyncbackup tests bench docs

.PHONY: demo test test-quick lint format bench lock docs servers ftp-servers clean

demo: $(VENV)/.runtime
	@$(BIN)/asyncbackup demo

test: $(VENV)/.dev servers ftp-servers
	$(BIN)/python -m pytest

test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit

lint: $(VENV)/.dev
	$(BIN)/ruff check $(MODULES)
	$(BIN)/ruff format --check $(MODULES)
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(MODULES)
	$(BIN)/ruff format $(MODULES)

bench: $(VENV)/.dev
	$(BIN)/python bench/fleet.py

# What the reference pages say is generated from the code; a test fails when they differ.
docs: $(VENV)/.dev
	$(BIN)/python -m docs.generate

# The tests run on the embedded PostgreSQL 16 and 18, and on the distribution's own where it is
# installed. Root on a Debian without one gets it, without the cluster the package would start.
servers:
	@if [ -z "$$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null)" ] \
	  && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  mkdir -p /etc/postgresql-common; \
	  [ -e /etc/postgresql-common/createcluster.conf ] \
	    || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends postgresql postgresql-contrib strace; \
	fi

# Uploads are tested on real FTP servers. Their packages exclude each other, hence nothing is installed: they
# are unpacked into .cache. Where that can't be, it says so, and so do the tests, which are skipped then.
ftp-servers: $(VENV)/.dev
	@$(BIN)/python -m tests.ftp_packages

# The locked versions, with hashes and without the address of any index.
lock: $(VENV)/.dev
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --extra embedded \
	  --no-emit-index-url --custom-compile-command 'make lock' --upgrade --quiet \
	  pyproject.toml requirements/build.in -o requirements/runtime.txt
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras \
	  --no-emit-index-url --custom-compile-command 'make lock' --upgrade --quiet \
	  pyproject.toml requirements/build.in requirements/dev.in -o requirements/dev.txt

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed: apt install python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; \
	  else echo 'Python can make no virtual environment yet: apt install python3-venv'; exit 1; fi; }
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
