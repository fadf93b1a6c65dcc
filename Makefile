# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else: the environment is built in .venv.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(shell $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 && command -v $(p))))
BIN := .venv/bin
# SGLang and lm-eval are thousands of modules: without their bytecode every process of a run compiles them again.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
INSTALLED := .venv/.installed

.PHONY: demo test test-all lint format clean
demo: $(INSTALLED)
	$(BIN)/sage-eval compare reference_model --candidate sage_attn \
	    --tasks sage_prose,sage_retrieval --task-args 'lengths=[512,1024,2048],depths=3,samples=2' \
	    --output results/demo --fresh

# Under ten minutes on two cores; no GPU, no network.
test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu and not slow"

# Everything that needs no GPU.
test-all: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "sage-eval needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv results/demo
