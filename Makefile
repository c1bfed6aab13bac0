PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two processes share out the tests, each one half, and who is done first takes over from the other
SHARE := -n 2 --dist worksteal
# The package of Gadgetron, which some tests compare with, comes with wheels that contain FFTW, which is under the GPL:
# `make setup GADGETRON=yes` installs it, and nothing else does.
GADGETRON ?=
comma := ,
EXTRAS := cpu,export,train,ray,docs,dev$(if $(GADGETRON),$(comma)gadgetron)
READY := $(VENV)/.ready$(if $(GADGETRON),-gadgetron)
export ISOCENTER_HOME ?= $(CURDIR)/.isocenter
# the tests start a hundred programs, each of which would compile this package anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-all check types lock docs bench gpu clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and by itself: as a dependency, pip may choose a build with CUDA
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	# where other folders have a package's name, an editable one is found after them, which setuptools says each time
	PYTHONWARNINGS='ignore:Editable installation' \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
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

# constraints.txt anew: what pip chooses today of every package that any extra brings; the torch that is tested with is named
TORCH ?= torch==2.13.0
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet $(TORCH)
	build/lock/bin/python -m pip install --quiet '.[cpu,export,train,ray,gadgetron,zfp,docs,dev]'
	( echo "# Every package that any extra brings, in the versions that this was tested with; made by \`make lock\`."; \
	  echo "# torch by its version alone: its builds differ by index."; \
	  build/lock/bin/python -m pip freeze --all --exclude isocenter --exclude pip --exclude torch; \
	  build/lock/bin/python -c "import importlib.metadata as m; print('torch==' + m.version('torch').partition('+')[0]); \
	  print('onnxruntime-gpu==' + m.version('onnxruntime'))" ) > build/constraints.txt
	mv build/constraints.txt constraints.txt

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
