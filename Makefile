# Every target does its own set-up: a bare machine needs Python 3.11 or newer and make.

PYTHON ?= python3
SEED ?= 0
SLOW ?= slow

VENV := .venv
BIN := $(VENV)/bin
# Most of a test's time is one thread's compiling: a process a core, but each compiles its own programs.
PARALLEL := -n auto --maxprocesses=4
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_NOTEBOOKS := $(VENV)/.installed-notebooks

.DEFAULT_GOAL := help
.PHONY: help quickstart r1 experiments test test-slow check smoke bench notebooks clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON=$(PYTHON) SEED=$(SEED) WORKDIR=runs/quickstart, or runs/r1"

quickstart: WORKDIR ?= runs/quickstart
quickstart: $(INSTALLED)  ## train a base, then R1-Zero, evaluate both, sample three completions
	$(BIN)/python -m r1jax.main --config=configs/r1_zero_tiny.py --workdir=$(WORKDIR) --config.seed=$(SEED)
	$(BIN)/python -m r1jax.generate --checkpoint=$(WORKDIR)/zero --prompt='What is 2 + 3 * 4?' --samples=3
	@echo "report: $(WORKDIR)/report.html"

r1: WORKDIR ?= runs/r1
r1: $(INSTALLED)  ## the whole recipe: every stage of DeepSeek-R1, about an hour at most; run again, it goes on where it was
	$(BIN)/python -m r1jax.main --config=configs/r1_tiny.py --workdir=$(WORKDIR) --config.seed=$(SEED)
	@echo "report: $(WORKDIR)/report.html"

experiments: $(INSTALLED)  ## every experiment, what is finished left as it is; tables go into experiments/
	$(BIN)/python -m experiments.run_all

test: $(INSTALLED_DEV)  ## the tests, on eight simulated CPU devices (tests/conftest.py)
	$(BIN)/python -m pytest -q -m "not slow" $(PARALLEL)

test-slow: $(INSTALLED_DEV)  ## the long tests; SLOW="slow and not longest" for those that CI runs
	$(BIN)/python -m pytest -q -m "$(SLOW)" -n 2

check: $(INSTALLED_DEV)  ## format, lint, types, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck tpu_scripts/*.sh

smoke: $(INSTALLED)  ## the whole pipeline at its smallest, afresh
	rm -rf runs/smoke
	$(BIN)/python -m r1jax.main --config=configs/smoke.py --workdir=runs/smoke

bench: ROUNDS ?= 5
bench: $(INSTALLED)  ## speed on the fixed workloads; with PEERS=DIR TORCH_PYTHON=PY TUNIX_PYTHON=PY, beside TRL and Tunix
	mkdir -p runs
	-$(BIN)/python bench/compare.py --out=runs/bench.jsonl --rounds=$(ROUNDS) --peers='$(PEERS)' \
	  --torch-python='$(TORCH_PYTHON)' --tunix-python='$(TUNIX_PYTHON)'
	for model in dense-S moe-S; do for measure in cut refill; do \
	  $(BIN)/python bench/ragged.py --model=$$model --measure=$$measure || exit; done; done > runs/ragged.jsonl
	$(BIN)/python bench/startup.py > runs/startup.jsonl
	$(BIN)/python bench/kernels.py > runs/kernels.jsonl
	$(BIN)/python bench/growth.py > runs/growth.jsonl
	$(BIN)/python bench/page_growth.py runs/growth.jsonl --figure=docs/benchmarks_growth.svg > /dev/null
	$(BIN)/python bench/page.py runs/bench.jsonl runs/ragged.jsonl runs/startup.jsonl runs/kernels.jsonl \
	  runs/growth.jsonl > docs/benchmarks.md

notebooks: $(INSTALLED_NOTEBOOKS)  ## run every notebook in its short form; results go to runs/notebooks
	@find experiments notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' | sort | \
	  R1JAX_SHORT=1 xargs $(BIN)/jupyter nbconvert --to notebook --execute --output-dir runs/notebooks

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# uv installs in a quarter of pip's time; where it cannot be had, pip does the same.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "r1jax needs Python 3.11 or newer, and $(PYTHON) is " + v + "; name another: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv || echo "no uv; pip will do"

install = @echo "installing r1jax$(1)"; \
	{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install -q --python $(BIN)/python -e '.$(1)'; } || \
	$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar on -e '.$(1)'

$(INSTALLED): setup.py | $(BIN)/python
	$(call install,)
	@touch $@

$(INSTALLED_DEV): setup.py | $(BIN)/python
	$(call install,[dev])
	@touch $@ $(INSTALLED)

$(INSTALLED_NOTEBOOKS): setup.py | $(BIN)/python
	$(call install,[notebooks])
	@touch $@ $(INSTALLED)
