# Commands for people. Everything they need is installed into $(VENV) first; nothing outside this folder is changed.
#   PYTHON=python3.12   the interpreter the environment is made with (3.11 to 3.13)
#   VENV=path           where the environment is
#   WORKERS=8           parallel test processes and compilers
#   OPS="fmm inr_layer" for cuda-check and gpu-check: only these folders of ops/

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

INSTALLED := $(VENV)/.installed
BIN := $(abspath $(VENV))/bin
RUN := PATH="$(BIN):$$PATH" $(BIN)/python
# For checks that install nothing: the environment if it is there, else the machine's own Python.
ANY := $(if $(wildcard $(INSTALLED)),$(RUN),$(PYTHON))

.PHONY: help setup demo test lint bench cuda-check gpu-check clean

help:
	@echo "make setup   create $(VENV) and install requirements.txt"
	@echo "make demo    prepare handwritten digits, train on them, generate (under 10 minutes on 2 CPU cores)"
	@echo "make test    the whole test suite on the CPU (under 15 minutes on 2 cores)"
	@echo "make lint    ruff: rules and formatting"
	@echo "make bench   images per second of training and generation, side by side"
	@echo "make cuda-check   compile all kernels with nvcc and g++, no GPU needed; OPS=... for some"
	@echo "make gpu-check    on a machine with a GPU: build, check and time all kernels (8 minutes)"
	@echo "make clean   remove demo-out, gpu-check-out and the tools' caches (not $(VENV))"

setup: $(INSTALLED)

# The stamp is older than requirements.txt after an update of the checkout, so that the next command installs again.
$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] or sys.exit("The pinned requirements need Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv "$(VENV)"
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch "$@"

demo: $(INSTALLED)
	$(RUN) -m analysis.demo

# One thread per worker: several workers with a thread pool each would fight for the cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS)

lint: $(INSTALLED)
	$(RUN) -m ruff check --no-cache .
	$(RUN) -m ruff format --no-cache --check .

bench: $(INSTALLED)
	$(RUN) -m analysis.bench

cuda-check:
	$(ANY) -m analysis.cuda_check --jobs=$(WORKERS) $(OPS)

gpu-check:
	$(ANY) -m analysis.gpu_check $(OPS)

clean:
	rm -rf demo-out gpu-check-out .pytest_cache .ruff_cache .hypothesis
