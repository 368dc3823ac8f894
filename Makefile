# The environment lives in .venv; everything is installed with the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST_TRANSFORMERS := 5.18.0
OLDEST := build/transformers-$(OLDEST_TRANSFORMERS)
# Two processes of one thread each: on small tensors faster than one process of two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: help install lint test clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/.installed  ## Create .venv with everything that users and developers need

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: install  ## Check style, types and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/typos

test: lint $(OLDEST)  ## Run the whole suite, fast tests first
	$(PYTEST) -m 'not slow'
	$(PYTEST) -m slow
	PYTHONPATH=$(OLDEST) $(PYTEST) tests/model tests/hub

$(OLDEST): install
	test -d $@ || $(BIN)/pip install --quiet --no-deps --target $@ transformers==$(OLDEST_TRANSFORMERS)

clean:  ## Remove what the commands above made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
