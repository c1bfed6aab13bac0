PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two processes share out the tests, each one half, and who is done first takes over from the other
SHARE := -n 2 --dist worksteal
export ISOCENTER_HOME ?= $(CURDIR)/.isocenter

.PHONY: setup demo test test-all check types docs bench gpu clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and by itself: as a dependency, pip may choose a build with CUDA
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cpu,export,gadgetron,pictures,train,ray,test,check,docs]'
	touch $@

demo: setup
	$(BIN)/isocenter demo -o demo

test: setup
	$(BIN)/python -m pytest $(SHARE) -m "not long"

# what is long alone: crowds of clients and killed hosts want both cores
test-all: test
	$(BIN)/python -m pytest -m long

check: setup types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# what users see of our types: those of the wheel, not of the checkout
types: setup
	rm -rf build/lib build/types
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w build/types .
	$(BIN)/python -m pip install --quiet --no-deps --target build/types/site build/types/isocenter-*.whl
	$(BIN)/python -m tests.completeness build/types/site

# pages that are made from the code first; then the site in build/site, where a warning is an error
docs: setup
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: setup
	$(BIN)/python -W ignore benchmarks/latency.py
	$(BIN)/python -W ignore benchmarks/throughput.py
	$(BIN)/python -W ignore benchmarks/classical.py
	$(BIN)/python -W ignore benchmarks/methods.py
	$(BIN)/python -W ignore benchmarks/scaling.py
	$(BIN)/python -W ignore benchmarks/ingest.py
	$(BIN)/python -W ignore benchmarks/runtimes.py
	$(BIN)/python -W ignore benchmarks/export.py
	$(BIN)/python -W ignore benchmarks/busy.py
	$(BIN)/python -W ignore benchmarks/soak.py

gpu: setup
	$(BIN)/python -W ignore benchmarks/gpu_acceptance.py

clean:
	rm -rf $(VENV) .isocenter demo build *.egg-info
