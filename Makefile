PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all check clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: setup  ## pre-train on Hopper data, hand over, fine-tune in the simulator, report
	$(BIN)/segue run pex hopper-medium --offline-steps 10000 --online-steps 10000 --eval-every 5000 --eval-episodes 5 --out runs/demo
	@echo "on your own: . $(BIN)/activate, then segue --help"

test: setup  ## what must hold on every change; programs are compiled without LLVM's optimisation, which takes half the time
	MUJOCO_GL=disable XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: setup  ## everything, an hour, programs as users run them
	MUJOCO_GL=disable $(BIN)/python -m pytest -n 2 --dist worksteal

check: setup  ## format, lint, types
	$(BIN)/ruff format --check segue tests tools benchmarks
	$(BIN)/ruff check segue tests tools benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) runs/demo
