# Every target sets up what it needs in .venv; a second run with nothing changed takes seconds.
# PYTHON chooses the interpreter of a new .venv; ARGS is passed on: make test ARGS="-k linear -x".
# FUZZ is the number of random calls of `make sanitize`: make sanitize FUZZ=10000

PYTHON ?= python3
ARGS ?=
FUZZ ?= 300
BIN := .venv/bin
READY := .venv/.ready
CPP := $(shell find bench csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test other matrix oldest newest gpu sanitize aarch64 wheel lint format bench build clean

# For development a compiler that fails is an error; elsewhere the package is installed without what can't be built.
export KAN_FAST_NATIVE ?= 1

help:  ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: build  ## the main job on real data: text, pictures and figures (under 2 minutes)
	$(BIN)/python -m kan_fast demo $(ARGS)

test: build  ## the whole test suite (under 10 minutes)
	$(BIN)/python -m pytest $(ARGS)

# Results must not depend on the BLAS or the instruction set. These variables make torch use kernels without vector
# instructions, and make MKL multiply as on a processor that it does not know.
OTHER := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE
ISAS = $(shell $(BIN)/python -c "from kan_fast.ops import native; print(*native.isas())")

other: build  ## the quick part of the suite, as on another processor (7 minutes)
	$(OTHER) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not exhaustive" --isa baseline $(ARGS)

matrix: build  ## the suite with each instruction set, another BLAS, 1 and 2 threads (an hour)
	set -e; for isa in $(ISAS); do OMP_NUM_THREADS=2 $(BIN)/python -m pytest --isa $$isa $(ARGS); done
	MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2 $(BIN)/python -m pytest $(ARGS)
	$(OTHER) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --isa baseline $(ARGS)

# In environments of their own: on Linux 3 GB to download for each, since torch from the registry is a CUDA build.
oldest: .venv-oldest-$(notdir $(PYTHON))/.ready  ## the quick tests with the lower bounds of pyproject.toml (PYTHON=python3.10)
newest: .venv-newest-$(notdir $(PYTHON))/.ready  ## the quick tests with the newest releases (PYTHON=python3.13)
oldest newest:
	$(<D)/bin/python setup.py --quiet build_ext --inplace
	$(<D)/bin/python -m pytest -m 'not slow' $(ARGS)

gpu: build  ## the GPU kernels without a GPU: all combinations and architectures, sanitizers (under 15 minutes)
	$(BIN)/python -m pytest -m exhaustive --durations=0 $(ARGS)

# Builds a copy of the tree, because build/ holds objects with the usual flags. Leaks are not reported: torch itself
# leaks. The checks for null and alignment are off, because they double the time of the build; AddressSanitizer finds
# null. -fexpensive-optimizations is on, because g++ needs it to form multiply-adds, and the tests of accuracy need those.
SANITIZED := build/sanitize
SANITIZERS := -fsanitize=address,undefined
SANITIZING = PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0 \
    LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)"

sanitize: $(READY)  ## tests and random calls of the CPU kernels under AddressSanitizer and UBSan (10 minutes)
	rm -rf $(SANITIZED)/csrc $(SANITIZED)/tests $(SANITIZED)/kan_fast
	mkdir -p $(SANITIZED)/kan_fast
	cp -r setup.py pyproject.toml README.md csrc tests yardstick $(SANITIZED)
	cp -r kan_fast/*.py kan_fast/*/ $(SANITIZED)/kan_fast
	cd $(SANITIZED) && KAN_FAST_CUDA=0 LDFLAGS="$(SANITIZERS)" \
	    CXXFLAGS="-O1 -fexpensive-optimizations -g1 $(SANITIZERS) -fno-sanitize=null,object-size,alignment -fno-sanitize-recover=undefined" \
	    $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(SANITIZED) && $(SANITIZING) $(CURDIR)/$(BIN)/python -m tests.fuzz.calls $(FUZZ)
	cd $(SANITIZED) && $(SANITIZING) $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider \
	    tests/ops/test_native.py tests/ops/test_parity.py tests/ops/test_operators.py $(ARGS)

# SETUPTOOLS_EXT_SUFFIX names the folder of the build. The checks run without Python. Needs g++-aarch64-linux-gnu and qemu-user-static.
ARM := aarch64-linux-gnu
ARM_KERNELS := build/ninja-cpython-$(ARM)/csrc/cpu

aarch64: $(READY)  ## the CPU kernels cross-compiled for 64-bit Arm, and checked under qemu (3 minutes)
	CXX=$(ARM)-g++ CXXFLAGS=-Werror KAN_FAST_CUDA=0 SETUPTOOLS_EXT_SUFFIX=.cpython-$(ARM).so \
	    $(BIN)/python setup.py --quiet build_ext --build-lib build/$(ARM)
	$(ARM)-g++ -O2 -std=c++17 -Wall -Wextra -Werror -fopenmp -Icsrc tests/packaging/cross/check.cpp $$(find $(ARM_KERNELS) -name '*.o') -o build/$(ARM)/check
	@for lanes in 4s 2d; do \
	    echo "multiply-adds of $$lanes vectors:"; \
	    $(ARM)-objdump -d $(ARM_KERNELS)/kernels_baseline.o | grep -c "fmla.*\.$$lanes" || exit 1; \
	done
	qemu-aarch64-static -L /usr/$(ARM) build/$(ARM)/check

# The wheel is built from the sdist in isolation, so without torch. Both are then run with TORCH, on Linux a download of
# 3 GB, since torch from the registry is a CUDA build.
TORCH ?= torch==2.6.0
DIST := build/dist

wheel: $(READY)  ## a manylinux wheel and an sdist in dist/, each installed into a clean environment and run (15 minutes)
	rm -rf $(DIST) dist
	$(BIN)/python -m build --outdir $(DIST)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist $(DIST)/*.whl
	cp $(DIST)/*.tar.gz dist
	for file in dist/*; do tests/packaging/install/run.sh $(abspath $(BIN))/python $(TORCH) $$file || exit 1; done

lint: $(READY)  ## formatting, ruff, mypy, clang-format; changes nothing
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(READY)  ## apply the formatters
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

bench: build  ## speed against torch and other baselines
	$(BIN)/python -m bench $(ARGS)

build: $(READY)  ## compile what changed of the extension
	@$(BIN)/python setup.py --quiet build_ext --inplace

clean:  ## remove the environment and everything built
	rm -rf .venv .venv-* build dist *.egg-info kan_fast/_C.* kan_fast/_cuda_kernels.*

.venv-%/.ready: pyproject.toml tests/packaging/promised_versions.py
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python tests/packaging/promised_versions.py $(firstword $(subst -, ,$*)) >$(@D)/requirements.txt
	$(@D)/bin/python -m pip install --quiet --only-binary :all: -r $(@D)/requirements.txt
	$(@D)/bin/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

# torch first and pinned: the package declares a range, from which pip would choose another build of it.
$(READY): pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev]'
	@touch $@
