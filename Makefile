# make setup | demo | test | slurm | check | bench
#
# Everything happens in .venv, with the versions of constraints.txt. PYTHON is the interpreter that .venv is made of.
# TORCH_INDEX is where the build of torch comes from: an index of PyTorch, or empty for pip's own. On a machine with an
# NVIDIA driver that is PyPI, whose build for Linux computes with CUDA; without one it is the much smaller build for the
# CPU. An index that cannot be reached, or lacks the build, is left out.

PYTHON ?= python3
LEAST  := 3.11
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
CORES  := $(shell nproc 2>/dev/null || echo 2)

.PHONY: setup demo test slurm check bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "There is no $(PYTHON): install Python $(LEAST) or later (Debian, \
	Ubuntu: apt-get install python3 python3-venv), or name another one: make setup PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(LEAST)".split("."))))' || \
	{ echo "nndiff needs Python $(LEAST) or later, and $(PYTHON) is $$($(PYTHON) -V 2>&1): name another one: \
	make setup PYTHON=python$(LEAST) (Debian, Ubuntu: apt-get install python$(LEAST) python$(LEAST)-venv)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "$(PYTHON) cannot make an environment, because its \
	module venv or ensurepip is missing: apt-get install python3-venv (Debian, Ubuntu)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@[ -z "$(TORCH_INDEX)" ] || \
	$(PIP) --no-deps --retries 0 --timeout 15 --index-url $(TORCH_INDEX) torch 2> /dev/null || \
	echo "$(TORCH_INDEX) cannot be reached or lacks this torch: it is taken from where pip finds it"
	@$(PIP) -e ".[dev]" || { echo "The installation failed, see above. Where pip tried to compile a package, there is no \
	ready build of it for this Python: take another (make setup PYTHON=python$(LEAST)), or install a compiler (Debian, \
	Ubuntu: apt-get install build-essential python3-dev)"; exit 1; }
	@touch $@
	@echo "nndiff is installed in $(VENV). Next:"
	@echo "  source $(BIN)/activate"
	@echo "  nndiff doctor      # is this machine ready?"
	@echo "  nndiff             # all commands, and which come first"

demo: setup
	$(BIN)/nndiff_demo -o $(DEMO)

test: setup  # a process a core, with a thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal --ignore tests/slurm --durations 25

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
	$(PIP) -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
