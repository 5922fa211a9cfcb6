# Every target installs first what it needs into .venv; nothing else on the machine is touched.

# The first of these that is new enough makes the virtual environment; name another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed

# Two processes of one thread each, so that two cores are both used and not fought over.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format docs docs-serve bench faults clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with Jackfield and its tools (again only when pyproject.toml or constraints.txt change)

demo: $(STAMP) ## the whole job on a real language model; ends with demo/report.html
	$(BIN)/jackfield demo

test: $(STAMP) ## the quick tests, with every example of the docstrings and the pages
	$(PYTEST) -m "not slow"

test-all: $(STAMP) ## all tests
	$(PYTEST)

check: $(STAMP) ## style, types, the order of the rooms, the examples in the docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q src

format: $(STAMP) ## put the code into its one layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) .venv/.docs ## build the pages into site/
	$(MKDOCS) build --strict

docs-serve: $(STAMP) .venv/.docs ## show the pages at localhost:8000, rebuilt as they change
	$(MKDOCS) serve --strict

bench: $(STAMP) .venv/.bench ## speed and memory beside the peer libraries
	$(BIN)/python -m benchmarks

faults: $(STAMP) ## kill writers, fill disks, flip bytes: show that a store loses nothing
	$(BIN)/python scripts/faults.py

clean: ## remove .venv and everything else that was made
	rm -rf .venv demo site build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "Jackfield needs Python 3.11 or newer; this machine has $$(python3 --version 2>&1 || echo none)."; \
		echo "Install one, or name it: make install PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

.venv/.docs .venv/.bench: .venv/.%: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[$*]"
	@touch $@
