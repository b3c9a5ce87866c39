# The commands of this repository. `make help` lists them.
# Requires only Python 3.11 to 3.13, make and git; everything else is installed into .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first interpreter that fits; `make install PYTHON=python3.12` overrides it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
PY := .venv/bin/python
WORKERS ?= 2
STAMP := .venv/.installed

.PHONY: help install quickstart test test-fast lint format notebooks lock model-info list-experiments clean clean-runs

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(STAMP) ## set up .venv with the locked versions (with uv if available, else pip)

$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "make: no Python 3.11, 3.12 or 3.13 found; install one or run make install PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@if command -v uv >/dev/null 2>&1; then uv=uv; \
	else $(PY) -m pip install --quiet --disable-pip-version-check uv && uv=.venv/bin/uv || uv=; fi; \
	if [ -n "$$uv" ]; then \
		echo "installing the locked versions with uv (about 3 GB the first time)"; \
		$$uv pip install --quiet --python $(PY) --require-hashes -r requirements.lock && \
		$$uv pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .; \
	else \
		echo "installing the locked versions with pip (about 3 GB the first time)"; \
		$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

quickstart: $(STAMP) ## train, evaluate and draw on the built-in data, in a few minutes on two cores
	@$(PY) train.py

test: $(STAMP) ## all tests, including slow ones, in WORKERS processes (default: 2)
	@# Exporters and runtimes in processes of their own: together with all that other tests load, one of them crashed.
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal tests/export
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal --ignore tests/export

test-fast: $(STAMP) ## the tests that take seconds
	@$(PY) -m pytest -m "not slow"

model-info: $(STAMP) ## parameters, multiply-accumulates and stride of every network
	@$(PY) scripts/model_info.py

list-experiments: $(STAMP) ## the presets: network, task, data, schedule, published result
	@$(PY) scripts/list_experiments.py

lint: $(STAMP) ## ruff: rules and formatting
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

format: $(STAMP) ## ruff: fix and format
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

notebooks: $(STAMP) ## run the notebooks from top to bottom and keep their outputs (after make quickstart)
	@$(PY) scripts/run_notebooks.py notebooks/*.ipynb

lock: $(STAMP) ## update requirements.lock from pyproject.toml (needs uv)
	@uv=$$(command -v uv || echo .venv/bin/uv); $$uv pip compile --quiet --universal --python-version 3.11 --extra dev \
		--generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.lock

# Generated data sets are known by the file that their drawing leaves; other folders in data/ are yours.
clean: ## remove caches and generated data; keep runs, your data and .venv
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
	@find . -name __pycache__ -type d -not -path './.venv/*' -not -path './data/*' -prune -exec rm -rf {} +
	@for stamp in data/*/drawn.json; do if [ -f "$$stamp" ]; then rm -rf "$${stamp%/drawn.json}" && echo "removed $${stamp%/drawn.json}"; fi; done
	@rmdir data 2>/dev/null || true

clean-runs: ## remove runs/ with all checkpoints, after saying what it holds (YES=1: without asking)
	@if [ ! -d runs ]; then echo "there is no folder runs"; exit 0; fi; \
	find -L runs -name .hydra -type d | sed 's|/.hydra$$||' | sort; \
	echo "runs/ holds $$(find -L runs -name .hydra -type d | wc -l) runs with $$(find -L runs -name '*.ckpt' | wc -l) checkpoints, $$(du -shL runs | cut -f1)"; \
	if [ -z "$(YES)" ]; then read -r -p "remove all of it? [y/N] " answer || { echo; echo "nothing was removed; make clean-runs YES=1 does not ask"; exit 1; }; \
		if [ "$$answer" != y ]; then echo "nothing was removed"; exit 1; fi; fi; \
	find -L runs -mindepth 1 -maxdepth 1 -exec rm -rf {} +; rmdir runs 2>/dev/null; echo "removed what was in runs"
