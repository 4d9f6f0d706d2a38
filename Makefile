# What a checkout offers. `make help` lists it; nothing has to be installed before.

VENV ?= .venv
DEMO_OUT ?= preds/demo
DEMO_ARGS ?= --model demo --seeds 101 --samples 1
TEST_ARGS ?=
# A file of tests stays in one process, with what its tests share. A process takes up to 2 GB, so they are few.
TEST_PROCESSES := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BENCH_ARGS ?=

BIN := $(VENV)/bin
INSTALL := scripts/install.sh --venv $(VENV) --editable

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-long lint bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install:  ## flashbias-fold and its pinned requirements into .venv (FLASHBIAS_FOLD_SET=cpu or gpu chooses)
	@$(INSTALL)

install-dev:
	@$(INSTALL) --dev

demo: install  ## predict the example inputs with the demonstration model, on any machine
	@echo "demo: predicting the proteins of data/examples with the small demonstration model (not for science)"
	@$(BIN)/flashbias-fold predict data/examples --out $(DEMO_OUT) $(DEMO_ARGS)
	@echo "demo: $(DEMO_OUT)/summary.csv has a line for each structure, with its scores; the structures:"
	@find $(DEMO_OUT) -name '*.cif' | sort | sed 's/^/demo:   /'
	@echo "demo: how close they are to experiment; the model was trained on all but 1a1t"
	@scores=$$($(BIN)/python scripts/evaluate_demo.py --score $(DEMO_OUT)) && echo "$$scores" | sed 's/^/demo:   /'

test: install-dev  ## the tests, some of them shortened, in several processes; TEST_ARGS="-k kernels" runs some, "-n 0" in one
	@$(BIN)/python -m pytest $(TEST_PROCESSES) $(TEST_ARGS)

test-long: export FLASHBIAS_FOLD_LONG_TESTS = 1
test-long: test  ## the same with every case and more examples: twice as long

lint: install-dev  ## formatting, lint rules and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: install  ## time whole predictions against stock Protenix; BENCH_ARGS="--tokens 64,128 --out runs/model"
	@$(BIN)/flashbias-fold bench model $(BENCH_ARGS)

clean:  ## remove .venv and what tools left behind; predictions stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
