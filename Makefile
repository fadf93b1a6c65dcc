# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else: the environment is built in .venv.
# `make test SGLANG=0.5.17` does the same with the other tested stack, in .venv-0.5.17.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(shell $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 && command -v $(p))))
SGLANG ?= 0.5.23
VENV := $(if $(filter 0.5.23,$(SGLANG)),.venv,.venv-$(SGLANG))
BIN := $(VENV)/bin
CONSTRAINTS := constraints/sglang-$(SGLANG).txt
# SGLang and lm-eval are thousands of modules: without their bytecode every process of a run compiles them again.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow test-simulations test-engines test-timed test-all lint docs format clean
demo: $(INSTALLED)
	$(BIN)/sage-eval compare reference_model --candidate sage_attn \
	    --tasks sage_prose,sage_retrieval_kv --task-args 'lengths=[512],depths=3,samples=20,near=8' \
	    --margin sage_retrieval_kv=0.1 --no-calibrate --arms control --output results/demo --fresh

# Under ten minutes on two cores; no GPU, no network. TESTS are folders and files, by default all. A file stays in one
# process, as its tests share an engine.
# One thread each: PyTorch's threads of two processes would wait for one another.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -m "not gpu and not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: test-simulations test-engines test-timed

# Simulations, an interpreter of kernels, a training: they need cores and nothing else.
test-simulations: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -m "slow and not engine and not gpu" -n 2 --dist loadfile

TIMED := tests/engine tests/measure tests/compare/test_engine_servers.py tests/report/test_watch.py
test-engines: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and engine and not gpu" -n 2 --dist loadfile $(TIMED:%=--ignore=%)

# One at a time: they start several engines, kill them midway, or want a machine that is idle. An hour or two.
test-timed: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and engine and not gpu" $(TIMED)

# Everything that needs no GPU.
test-all: test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The documentation, warnings as errors; pages are made of the commands, the schemas and the published runs first.
docs: $(INSTALLED)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(CONSTRAINTS):
	@echo "no tested stack for SGLang $(SGLANG); there are: $(notdir $(basename $(wildcard constraints/*.txt)))" >&2; exit 2

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "sage-eval needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-* results/demo
