# make setup | demo | test | slurm | check | bench
#
# Everything happens in .venv, with the versions of constraints.txt. PYTHON chooses the interpreter that .venv is made of.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
CORES  := $(shell nproc 2>/dev/null || echo 2)

.PHONY: setup demo test slurm check bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/nndiff_demo -o $(DEMO)

test: setup  # a process a core, with a thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal --ignore tests/slurm

slurm: setup  # a real one: a controller and a node, both on this machine; needs root, apt-get install slurm-wlm munge
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/slurm

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.preprocess
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.peers

$(VENV)/.bench: $(VENV)/.installed  # the libraries that nndiff is measured beside
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
