# The environment lives in .venv; everything is installed with the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
OLDEST_TRANSFORMERS := 5.18.0
OLDEST := build/transformers-$(OLDEST_TRANSFORMERS)
NEWEST_TRANSFORMERS := $(shell sed -n 's/^transformers==//p' constraints.txt)
# The tests that transformers runs on its own models, which only its source distributions hold.
PEERS := $(foreach version,$(OLDEST_TRANSFORMERS) $(NEWEST_TRANSFORMERS),build/transformers-$(version)-tests)
# Programs that read our files, with versions of their own of what .venv holds.
PARTNERS := build/partners
ON_OLDEST := dtypes model_outputs tracing
# Two processes of one thread each: on small tensors faster than one process of two. A process gets whole files, whose
# fixtures it builds once, and takes tests of the other when it has none left. numba, which UMAP runs on, would set the
# threads of PyTorch to its own. Compiled files are kept, whatever the environment says: the tests start many processes.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install develop quickstart real lint test fuzz coverage docs clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/.installed  ## Create .venv with everything that users need

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV), which takes some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) --editable '.[all]'
	@touch $@

develop: $(VENV)/.developing  ## ... and what developers need

$(VENV)/.developing: $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(PIP) --editable '.[dev]'
	@touch $@

include recipes/quickstart.mk recipes/real.mk

lint: develop  ## Check style, types and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/typos

test: lint $(OLDEST) $(PEERS) $(PARTNERS)  ## Run the whole suite, fast tests first
	$(PYTEST) -m 'not slow'
	$(PYTEST) -m slow
	PYTHONPATH=$(OLDEST) $(PYTEST) tests/model tests/peers $(addprefix tests/outside/test_,$(ON_OLDEST:=.py))
	PYTHONPATH=$(OLDEST) $(PYTEST) -m 'not slow' tests/training
	@test ! -d $(PARTNERS) || OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(PARTNERS)/bin/python -m pytest tests/partners

fuzz: develop  ## Read 2,000 damaged files of every kind; what fails is kept in build/fuzz
	$(BIN)/python -m tests.fuzz --seed 0 --cases 2000

coverage: develop  ## Run the whole suite and say which lines it leaves out
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

$(OLDEST): develop
	@test -d $@ || $(BIN)/pip install --quiet --no-deps --target $@ transformers==$(OLDEST_TRANSFORMERS)

# Where the registry cannot be reached, tests/peers skips and says so.
build/transformers-%-tests: develop
	@test -d $@ || { \
		$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest build/sdists \
			transformers==$* \
		&& mkdir -p $@.part && touch $@.part/__init__.py \
		&& tar -xzf build/sdists/transformers-$*.tar.gz -C $@.part --strip-components=2 transformers-$*/tests \
		&& mv $@.part $@; } || echo "The tests of transformers $* could not be fetched: tests/peers will skip"

# What .venv holds is found there; where the registry cannot be reached, tests/partners is left out.
$(PARTNERS): tests/partners/requirements.txt | develop
	@rm -rf $@ $@.part && $(BIN)/python -m venv --without-pip $@.part
	@site=$$(echo $@.part/lib/python3*/site-packages) \
		&& $(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$site/installed_in_venv.pth \
		&& { $(BIN)/pip --python $@.part/bin/python install --quiet --disable-pip-version-check --no-deps \
			--requirement tests/partners/requirements.txt && mv $@.part $@ && touch $@; } \
		|| echo "The programs of tests/partners could not be fetched: these tests are left out"

docs: develop  ## Build the documentation in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with --quiet, warnings would not count

clean:  ## Remove what the commands above made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
