# `make sweep` and `make test` do all their set-up by themselves, once; see `make help`.

PYTHON ?= python3
SPACE  ?= search_spaces/loss_beta.yaml
ARGS   ?=

# Hundreds of processes of a run of the tests import the package: it is compiled once.
unexport PYTHONDONTWRITEBYTECODE

VENV  := .venv
BIN   := $(VENV)/bin
# Named after what is installed and where (scripts hold the path): a change of it is another stamp.
READY := .make/ready-$(shell { cat pyproject.toml constraints.txt; pwd; } | cksum | tr ' ' '-')
ifeq ($(wildcard $(BIN)/python),)
$(shell rm -rf .make)
endif

.DEFAULT_GOAL := help
.PHONY: help ready sweep test test-old-cpu rig check clean

help:
	@echo "make sweep   answer $(SPACE); ARGS=\"--profile chase\" is passed on"
	@echo "make test    the tests, on two cores; ARGS=\"-k losses\" is passed on"
	@echo "make test-old-cpu   the tests of what computes numbers, on the oldest CPU instructions"
	@echo "make rig     the shipped cluster files on machines of namespaces, as root (tests/rig/README.md)"
	@echo "make check   lint, format and types"
	@echo "make clean   remove caches and the stamp of the set-up; keeps $(VENV), data and results"
	@echo "The first of them creates $(VENV) (about 6 GB). PYTHON=python3.12 chooses the interpreter."

# What all others do first; for scripts that then start several of them at once.
ready: $(READY)

sweep: $(READY)
	$(BIN)/vesselflow sweep $(SPACE) $(ARGS)

# Both halves run, whatever the first one says. Exit code 5: $(ARGS) chose no test of that half.
# A file's tests, in one of the processes, share what they prepare.
QUICK := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not ray and not bench and not long and not rig"
RAY   := $(BIN)/python -m pytest --durations=15 -m "ray and not bench and not long and not rig"
# What computes numbers that a CPU could change: rooms, and files of rooms of which most compute none.
NUMBERS := augment contracts feed inference losses metrics models optimizers stores targets tasks \
  $(addprefix training/test_training_,$(addsuffix .py,loop packing reduction runs)) \
  $(addprefix evaluation/test_evaluation_,$(addsuffix .py,evaluated kept metrics scoring tables))

# Of those, what has nothing to compute: sizes and names of models, files and their bytes, places.
EXACT := contracts/test_contract_run_ids.py \
  $(addprefix feed/test_feed_,$(addsuffix .py,bench folds layout order placement ray shared)) \
  $(addprefix models/test_models_,$(addsuffix .py,encoders facts needs smp weights widths)) \
  $(addprefix stores/test_stores_,$(addsuffix .py,damage deep folder importers shards store suspicions))

test: $(READY)
	@failed=""; \
	echo '$(QUICK) $(ARGS)'; $(QUICK) $(ARGS) || [ $$? -eq 5 ] || failed="those without a cluster"; \
	echo '$(RAY) $(ARGS)'; $(RAY) $(ARGS) || [ $$? -eq 5 ] || failed="$${failed:+$$failed and }those with one"; \
	[ -z "$$failed" ] || { echo "tests failed: $$failed" >&2; exit 1; }

# The oldest instructions that numpy, torch and oneDNN have: no golden value may hang on newer ones.
test-old-cpu: $(READY)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="$$($(BIN)/python -c 'from numpy._core import _multiarray_umath as c; \
	  print(*(f for f in c.__cpu_dispatch__ if c.__cpu_features__.get(f)))')" \
	$(QUICK) $(addprefix tests/,$(NUMBERS)) $(addprefix --ignore=tests/,$(EXACT)) $(ARGS) || [ $$? -eq 5 ]

# Several machines and an emulated cloud on this one.
rig: $(READY)
	$(BIN)/python -m pytest -s -m rig $(ARGS) tests/rig

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf .make .mypy_cache .ruff_cache .pytest_cache .hypothesis build
	find vesselflow tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is there and new enough is kept; pip then installs only what is missing in it.
$(READY):
	@if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "vesselflow needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing);" \
	         "name another one: make PYTHON=python3.12" >&2; exit 2; }; \
	  echo "creating $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, install the package python3-venv" >&2; \
	    exit 2; }; \
	fi
	@echo "installing: about 6 GB the first time, some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev,bench]' -c constraints.txt
	@rm -rf .make && mkdir .make && touch $@
