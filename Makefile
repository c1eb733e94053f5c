# Everything a newcomer, a contributor and CI type. `make help` lists it.
# Works on a machine with make, a C++17 compiler, and Python >= 3.10 with its venv module.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
BENCH_PYTHON ?= $(PY)
TEST_PYTHON ?= $(PY)
BUILD_TOOLS := setuptools wheel pybind11 cmake ninja

NATIVE_FILES := setup.py pyproject.toml constraints.txt $(wildcard CMakeLists.txt) \
                $(shell find cmake csrc kernels -type f 2>/dev/null) tee_sim/gather.cpp
CXX_FILES    := $(shell find csrc kernels tee_sim tests/csrc tests/cuda -type f \( -name '*.h' -o -name '*.hpp' \
                -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null)
CMAKE_FLAGS   = -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja \
                -DPTMO_BUILD_TESTS=ON -DPTMO_BUILD_PYTHON=OFF -DPTMO_COUNT_COUNTERS=ON -DPTMO_CUDA=OFF
# Where a `_cuda` module on the emulator is built for the Python tests, and how they are told.
MODULE_FLAGS  = -DPTMO_EMULATED_MODULE=ON -DPython_EXECUTABLE=$(CURDIR)/$(PY) \
                -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
ON_EMULATOR  := PTMO_EMULATED_MODULE=$(CURDIR)/build/tests/emulated_module
# Two test files at a time, in the order of tests/conftest.py.
IN_TWO       := --numprocesses 2 --dist loadfile --no-loadscope-reorder
JOBS         := $(shell nproc 2>/dev/null || echo 2)
# Without `make -j`'s flags: Ninja has its own number of jobs.
CMAKE        := env -u MAKEFLAGS $(VENV)/bin/cmake
CTEST        := $(VENV)/bin/ctest

# A stamp stands for a finished set-up step, so that nothing is done twice.
VENV_STAMP  := $(VENV)/.ptmo-venv
TOOLS_STAMP := $(VENV)/.ptmo-tools
CORE_STAMP  := $(VENV)/.ptmo-core
DEV_STAMP   := $(VENV)/.ptmo-dev

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-py test-cpp test-emulated test-slow test-neon test-asan \
        test-tsan test-gpu build-tests build-cuda lint types format bench bench-kernels \
        bench-peers bench-ratios bench-gpu clean distclean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | \
	  while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

# ---------------------------------------------------------------- set-up

$(VENV_STAMP):
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: $(PYTHON) not found; install Python >= 3.10 or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than 3.10; say make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	  { echo "error: no C++ compiler found; install g++ or clang++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(TOOLS_STAMP): $(VENV_STAMP) constraints.txt
	$(PIP) install --quiet -c constraints.txt $(BUILD_TOOLS)
	@touch $@

$(CORE_STAMP): $(TOOLS_STAMP) $(NATIVE_FILES)
	$(PIP) install --quiet -c constraints.txt --no-build-isolation -e .
	@touch $@

# The native module is the core stamp's; a source file that changes rebuilds it there, and only a
# change of the dependencies runs the long install again: of what the package's metadata lists as its
# extra, since naming the package itself would build and link it a second time.
DEV_REQUIREMENTS := from importlib.metadata import requires; \
  lines = [line.split(";") for line in requires("ptmo-secure")]; \
  print(*(line[0] for line in lines if line[1:] == [" extra == \"dev\""]))
$(DEV_STAMP): $(VENV_STAMP) pyproject.toml constraints.txt | $(CORE_STAMP)
	$(PIP) install --quiet -c constraints.txt $$($(PY) -c '$(DEV_REQUIREMENTS)')
	@touch $@

setup: $(CORE_STAMP) $(DEV_STAMP)  ## venv, dependencies and the native module, for development

demo: $(CORE_STAMP)  ## set up, fetch the model, answer a query, attack its KV cache
	$(VENV)/bin/ptmo demo

# ---------------------------------------------------------------- checks

# Installing, compiling and checking overlap; the Python tests then have the cores to themselves.
test:  ## what CI runs: lint, types, C++ and Python tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target setup lint types test-cpp test-neon
	@$(MAKE) --no-print-directory test-py test-emulated

lint: setup  ## ruff, clang-format, the layer rules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(if $(CXX_FILES),$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES))
	$(VENV)/bin/lint-imports

types: setup  ## mypy --strict
	$(PY) -m mypy

build-tests: $(TOOLS_STAMP)
	$(CMAKE) -S . -B build/tests $(CMAKE_FLAGS) $(MODULE_FLAGS) -DCMAKE_BUILD_TYPE=Release
	$(CMAKE) --build build/tests --parallel $(JOBS)

test-cpp: build-tests  ## the C++ tests
	$(CTEST) --test-dir build/tests --parallel 2 --output-on-failure --no-tests=error

test-neon: $(TOOLS_STAMP)  ## the C++ tests for 64-bit ARM, cross-built and run under qemu
	@if [ "$$(uname -m)" = aarch64 ]; then \
	  echo "test-neon skipped: this machine is 64-bit ARM itself, test-cpp runs them"; \
	elif ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then \
	  echo "test-neon skipped: no ARM compiler or emulator (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)"; \
	else \
	  CMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64-linux-gnu.cmake \
	    $(CMAKE) -S . -B build/neon $(CMAKE_FLAGS) -DCMAKE_BUILD_TYPE=Release && \
	  $(CMAKE) --build build/neon --parallel $(JOBS) && \
	  $(CTEST) --test-dir build/neon --parallel 2 --output-on-failure --no-tests=error; \
	fi

test-py: setup  ## the Python tests (no GPU); those of the real model skip when it cannot be pulled
	-$(VENV)/bin/ptmo model pull
	$(PY) -m pytest $(IN_TWO)

test-emulated: setup build-tests  ## the Python tests of a CUDA device, a sample, on the emulator
	$(ON_EMULATOR) $(PY) -m pytest $(IN_TWO) -m 'gpu and not slow' tests/gpu

test-slow: setup build-tests  ## the full counts and the long fuzzing
	$(PY) -m pytest $(IN_TWO) -m 'slow and not gpu'
	$(ON_EMULATOR) $(PY) -m pytest $(IN_TWO) -m gpu tests/gpu

build-cuda: setup  ## compile the CUDA kernels for Orin and Hopper, hold them to their resources
	$(PY) kernels/cuda/build_gate.py

# TEST_PYTHON is a Python whose torch has CUDA, and that has CuPy (CONTRIBUTING.md).
test-gpu: setup  ## the tests that need a CUDA device; one line says why where they cannot run
	$(PY) tests/gpu/run.py --python $(TEST_PYTHON)

test-asan: setup  ## the C++ tests under AddressSanitizer and UBSan
	$(CMAKE) -S . -B build/asan $(CMAKE_FLAGS) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DPTMO_SANITIZE=address,undefined
	$(CMAKE) --build build/asan --parallel
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(CTEST) --test-dir build/asan --parallel 2 --output-on-failure --no-tests=error

test-tsan: setup  ## the C++ tests under ThreadSanitizer
	$(CMAKE) -S . -B build/tsan $(CMAKE_FLAGS) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DPTMO_SANITIZE=thread
	$(CMAKE) --build build/tsan --parallel
	TSAN_OPTIONS=halt_on_error=1 \
	  $(CTEST) --test-dir build/tsan --output-on-failure --no-tests=error

bench: setup  ## tokens per second, bytes and TEE crossings, per shield
	@mkdir -p out
	$(VENV)/bin/ptmo model pull
	$(VENV)/bin/ptmo bench --json > out/bench.json
	@echo "written: out/bench.json"

bench-kernels: setup  ## every kernel at the layer shapes of five models, beside the read bandwidth
	@mkdir -p out
	$(PY) -m pytest benchmarks --benchmark-json=out/kernels.json --benchmark-columns=median

bench-peers: setup  ## build llama.cpp's Python binding in .venv-peers, for the comparison
	$(VENV)/bin/ptmo model pull
	$(PY) benchmarks/peers/install.py .venv-peers

# The first command fails when a floor is missed or was not measured, and its result is wanted all the
# same: the second one prints it, and fails then.
bench-ratios: setup  ## the ratios of benchmarks/floors.py; fails unless all floors are kept
	@mkdir -p out
	$(VENV)/bin/ptmo model pull
	-$(PY) benchmarks/check_ratios.py --json > out/ratios.json
	$(PY) benchmarks/check_ratios.py --from out/ratios.json

# The module is built for the device, where there is one, in a folder of its own. BENCH_PYTHON is a
# Python whose torch has CUDA (benchmarks/README.md).
bench-gpu: setup  ## the CUDA kernels beside the device's ceilings and torch; fails on a missed floor
	@mkdir -p out
	-$(VENV)/bin/ptmo model pull
	$(PY) tests/gpu/device_build.py --python $(BENCH_PYTHON)
	$(BENCH_PYTHON) benchmarks/bench_gpu.py --output out/gpu.json

format: setup  ## rewrite the sources in the house format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(if $(CXX_FILES),$(VENV)/bin/clang-format -i $(CXX_FILES))

clean:  ## remove what the build and the tools wrote (the venv stays)
	rm -rf build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache .benchmarks ptmo_secure/_native*.so ptmo_secure/_cuda*.so tee_sim/_gather*.so
	find ptmo_secure tee_sim tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(TOOLS_STAMP) $(CORE_STAMP) $(DEV_STAMP)

distclean: clean  ## clean, and the venvs too
	rm -rf $(VENV) .venv-peers .venv-gpu
