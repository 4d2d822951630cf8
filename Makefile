# Two commands are all a reader needs: `make demo` and `make test`.
# Each creates .venv on first use and installs there; a second call does not reinstall.
PYTHON ?= python3
VENV   ?= .venv
MINUTES ?= 10
SEED    ?= 0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test torture lint format docs notebooks figures study clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "saddlescope needs Python >= 3.11; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: it is younger than what decides its content, so nothing is reinstalled.
$(VENV)/.core: setup.cfg pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.%: $(VENV)/.core
	$(PIP) install -q -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(VENV)/.core  ## train five optimisers on digits, measure every class, write runs/demo/report.html
	$(BIN)/saddlescope demo

test: $(VENV)/.test  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

torture: $(VENV)/.test  ## damaged input, kills, full disks, HTML, clocks: MINUTES=10 SEED=0; the last line counts
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture.campaign --minutes $(MINUTES) --seed $(SEED)

lint: $(VENV)/.lint  ## ruff (lint, format, docstrings) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# One thread a process: the networks are small, and the demo trains two of them at a time.
notebooks: $(VENV)/.notebooks  ## execute the studies in analysis/ and write .ipynb files with outputs
	cd analysis && PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(abspath $(BIN))/python execute.py
	@echo 'open them: $(BIN)/jupyter lab analysis'

figures: $(VENV)/.core  ## train the small default, draw every figure, write figures/README.md
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python figures/gallery.py

study: $(VENV)/.core  ## train and measure what docs/study.md says (40 thread-hours; SADDLESCOPE_DATA)
	OMP_NUM_THREADS=1 $(BIN)/python analysis/study.py

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
