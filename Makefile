# Targets for people and for continuous integration. `make help` lists them.
#
# Variables, given as `make TARGET NAME=value`:
#   PYTHON       the interpreter that makes the environment (python3)
#   VENV         where the environment lies (.venv)
#   EXTRAS       extras of setup.cfg to install, separated by commas (demo,dev)
#   FULL         1: the demo takes its whole data set
#   QUICK        1: the demo takes a small part of it, which shows little and is soon done
#   PYTEST_ARGS  arguments for pytest (-n 2 --dist loadfile), such as 'tests/test_metrics.py -k ranks'

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= demo,dev
FULL ?= 0
PYTEST_ARGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
comma := ,
# A stamp for each choice of extras, so that another choice installs again.
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
# Says that this Makefile made the folder and may therefore empty it.
MARKER := $(VENV)/.made-by-make
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off
# TensorFlow has wheels for these versions alone.
SUPPORTED := (3, 10) <= sys.version_info[:2] <= (3, 13)

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format types clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-17s%s\n", $$1, $$2}'

env: $(STAMP) ## make the environment and install the project into it, once

demo: $(STAMP) ## run the demo; FULL=1 takes its whole data set
	$(BIN)/bottleneck demo$(if $(filter 1,$(FULL)), --full)$(if $(filter 1,$(QUICK)), --quick)

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## mend what lint finds, where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## check types
	$(BIN)/mypy

clean: ## remove caches, build leftovers and the demo's workspace
	rm -rf build dist demo demo-full demo-quick .pytest_cache .mypy_cache .ruff_cache
	find . -name $(notdir $(VENV)) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	@if [ -e $(MARKER) ]; then rm -rf $(VENV) *.egg-info; fi

# The stamp is written last, and the old one goes first: an install that was killed is no install.
# Without any stamp the folder is emptied; with one that is out of date only the difference is installed.
$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not $(SUPPORTED))' || { \
		echo "error: '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1); expected Python 3.10 to 3.13;" \
			"name another one with make PYTHON=python3.12" >&2; exit 1; }
	@if [ -n "$$(ls -A $(VENV) 2>/dev/null)" ] && [ ! -e $(MARKER) ]; then \
		echo "error: $(VENV) was not made by this Makefile; remove it or choose another place with make VENV=..." >&2; \
		exit 1; fi
	@echo "installing bottleneck$(if $(EXTRAS),[$(EXTRAS)]) into $(VENV); the first time takes minutes, mostly for TensorFlow" >&2
	@if ls $(VENV)/.installed-* >/dev/null 2>&1; then rm -f $(VENV)/.installed-*; else \
		mkdir -p $(VENV) && touch $(MARKER) && \
		find $(VENV) -mindepth 1 ! -path $(MARKER) -delete && \
		$(PYTHON) -m venv $(VENV); fi
	@$(PIP_INSTALL) --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@
