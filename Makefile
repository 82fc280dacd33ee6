# make run     talk to the nano model that ships with small4 (from nothing: needs Python 3.11+ and a package registry)
# make test    the tests, as in `pytest`
# make check   all that a change has to pass: format, lint, types, imports, sizes, banned names, docs, every test
# make lock    resolve the dependencies anew (needs uv)
# make clean   remove the environment and all caches

PYTHON ?= python3
PYTEST_ARGS ?=

.PHONY: run test check format lock docs clean

run:
	@$(PYTHON) tools/environment.py run
	@.venv/bin/small4 chat

test:
	@$(PYTHON) tools/environment.py dev
	@.venv/bin/python -m pytest $(PYTEST_ARGS)

check:
	@$(PYTHON) tools/environment.py dev
	@.venv/bin/python tools/check.py

format:
	@$(PYTHON) tools/environment.py dev
	@.venv/bin/ruff format && .venv/bin/ruff check --fix

docs:
	@$(PYTHON) tools/environment.py dev
	@.venv/bin/mkdocs serve

lock:
	@tools/lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist site
