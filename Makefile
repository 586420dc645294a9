# Everything runs in .venv, which each target sets up when it is missing or out of date.
# PYTHON=python3.12 chooses the interpreter; PYTEST_ARGS adds to the test run.

PYTHON ?= python3
PYTEST_ARGS ?= -n auto --dist loadfile
BIN := .venv/bin

.PHONY: help install install-dev demo test lint format types docs docs-serve clean

help:
	@echo "make demo     refine a generated slide whose truth is known, and show the result in demo/"
	@echo "make test     run the tests"
	@echo "make lint     check style and formatting       make format  apply them"
	@echo "make types    check the types"
	@echo "make docs     build the documentation in site/ make docs-serve  serve it while writing"
	@echo "make install  set up .venv only                make clean   remove what was built"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 14) and "recontour needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d; try make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv

# Two stamps: the demo waits for no linter, and the developer's set includes the user's.
.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch .venv/.installed $@

install: .venv/.installed

install-dev: .venv/.installed-dev

demo: .venv/.installed
	$(BIN)/recontour demo -o demo

test: .venv/.installed-dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed-dev
	$(BIN)/mypy

docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: .venv/.installed-dev
	$(BIN)/mkdocs serve

clean:
	rm -rf .venv site demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
