# make demo: the whole job on a synthetic dataset    make test: the tests    make lint: the linters
# make test-cluster: the tests on a Ray cluster of three nodes
# make test-heavy: whole jobs that are killed, with the clients of experiment trackers, or in kernels; compilation
# make faults: fault injection into whole jobs, 20 minutes
# make fuzz FUZZ_SECONDS=120: coverage-guided fuzzing of all file readers, seconds per target
# make bench: ratios of timings, see benchmarks/README.md    make bench-models: which timm models train, 10 minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 20

.PHONY: setup demo test test-cluster test-heavy lint faults fuzz bench bench-models

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

$(VENV)/.installed-cluster: requirements-cluster.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --requirement requirements-cluster.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python run.py demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-cluster: $(VENV)/.installed-cluster
	$(BIN)/python -m pytest -m cluster

test-heavy: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m heavy --numprocesses auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python -m tests.faults

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet atheris==3.0.0
	PYTHONPATH=. FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m tests.fuzz

bench: $(VENV)/.installed-cluster
	PYTHONPATH=. $(BIN)/python benchmarks/start_up.py
	PYTHONPATH=. $(BIN)/python benchmarks/training.py
	PYTHONPATH=. $(BIN)/python benchmarks/validation.py
	PYTHONPATH=. $(BIN)/python benchmarks/finetuning.py
	PYTHONPATH=. $(BIN)/python benchmarks/jobs.py
	PYTHONPATH=. $(BIN)/python benchmarks/prediction.py
	PYTHONPATH=. $(BIN)/python benchmarks/decoding.py $(INPUT)
	PYTHONPATH=. $(BIN)/python benchmarks/cluster.py

bench-models: $(VENV)/.installed
	PYTHONPATH=. $(BIN)/python benchmarks/timm_models.py
