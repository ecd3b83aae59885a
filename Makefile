# One command each; every target makes the virtual environment .venv first when it is missing or old.
#   make demo       train the paper's sinusoid regression, about a minute, and draw what it learned
#   make test       build, then the default tests          make test-slow   the long ones
#   make test-cuda  those that need a CUDA device
#   make bench      check, then time, against the rivals   make lint        style and types
#   make sanitize   the core's tests under the sanitizers  make clean       forget what was built
#   make simt       build what runs the device's code on the host, for the tests
#   make docs       write the manual into site/            make venv     only install and build

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
CXX_FILES = $(shell find csrc tests/core tests/simt -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

# The build is repeated when a source changed, came or went (a folder's time changes with its files).
SOURCES := pyproject.toml setup.py CMakeLists.txt \
           $(shell find csrc -type d -o -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
# All that the stages of .ci/run need: every installation compiles the bindings anew. Where there is
# nvcc, tests read the machine code that it emits.
comma := ,
EXTRAS := train,test,dev,docs$(if $(shell command -v nvcc),$(comma)cuda-test)

PARALLEL := -n 2 --dist loadgroup --durations 10

.PHONY: venv demo test test-slow test-slow-beside test-slow-alone test-cuda bench lint sanitize simt docs clean
.DELETE_ON_ERROR:

venv: $(READY)

demo: $(READY)
	$(BIN)/fastmaml train sinusoid --demo --out runs/demo

# Tests take one thread unless they say otherwise, and about 1.5 GB for each of the processes.
test: $(READY) simt
	$(BIN)/python -m pytest $(PARALLEL)

test-slow:
	$(MAKE) test-slow-beside
	$(MAKE) test-slow-alone

# What can stand other work beside it, and what measures the processors' time.
test-slow-beside: $(READY) simt
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not alone"

test-slow-alone: $(READY)
	$(BIN)/python -m pytest --durations 10 -m "slow and alone"

# Without a device every test of it is skipped, with the reason.
test-cuda: $(READY)
	$(BIN)/python -m pytest tests/cuda -m cuda

bench: $(BENCH_READY)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks loops
	$(BIN)/python -m benchmarks overhead
	$(BIN)/python -m benchmarks first-call
	$(BIN)/python -m pytest benchmarks -m bench

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

simt: $(READY)
	$(BIN)/cmake -S . -B build/simt -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	    -DFASTMAML_CUDA=OFF -DFASTMAML_BUILD_SIMT=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	    -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	$(BIN)/cmake --build build/simt --target _simt _simt_checked

# The variable silences a notice of the theme's.
docs: $(READY)
	$(BIN)/python -m docs.layers
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# ThreadSanitizer's runtime of GCC < 13 cannot live with much address randomisation: switched off where allowed.
NO_ASLR = $(shell setarch "$$(uname -m)" -R true 2>/dev/null && echo setarch "$$(uname -m)" -R)

sanitize: sanitize-address,undefined sanitize-thread

sanitize-%: $(READY)
	$(BIN)/cmake -S . -B build/sanitize-$* -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	    -DCMAKE_BUILD_TYPE=Debug -DFASTMAML_SANITIZE=$* -DFASTMAML_WERROR=ON -DFASTMAML_CUDA=OFF \
	    -DFASTMAML_BUILD_TESTS=ON -DFASTMAML_BUILD_MODULE=OFF
	$(BIN)/cmake --build build/sanitize-$*
	UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=second_deadlock_stack=1 \
	    $(NO_ASLR) build/sanitize-$*/core_tests

# torch comes first and alone, so that no extra draws another build of it.
$(VENV)/.torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install '$(TORCH)'
	touch $@

$(READY): $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --editable '.[$(EXTRAS)]'
	touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --editable '.[train,bench]'
	touch $@

clean:
	rm -rf build dist site *.egg-info fastmaml/_C*.so $(READY) $(BENCH_READY)
	rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find fastmaml tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +
