# Every target makes what it needs in .venv, once; `make` alone lists the targets.
PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
# A test that hangs fails, with where each thread was; the others go on.  The slowest takes 20 s on two cores.
HANGS  := -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu goldens bench bench-gpu bench-memory bench-handwritten lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.demo ## embed real sentences with MiniLM, eager and compiled, and write its kernels for GPUs
	$(BIN)/python examples/minilm_demo.py $(ARGS)

test: $(VENV)/.test ## run the tests (ARGS="-k softmax" goes to pytest)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(HANGS) $(ARGS)

test-slow: $(VENV)/.test $(VENV)/.cluster ## run the slow tests, with hypothesis at its long profile
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -m slow $(ARGS)

test-gpu: $(VENV)/.test ## run the tests that need a CUDA device
	TRITON_INTERPRET=0 $(BIN)/pytest -m gpu $(ARGS)

goldens: $(VENV)/.test ## write the golden kernels anew; read the diff before you commit it
	$(BIN)/pytest -n $(JOBS) --update-goldens $(ARGS)

bench: $(VENV)/.demo ## time eager, Inductor and Fusecade (ARGS="--quick --case kmeans")
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-gpu: $(VENV)/.demo ## the same on a CUDA device, with predictions and achieved bandwidth (ARGS=--dry-run without one)
	$(BIN)/python benchmarks/gpu.py $(ARGS)

bench-memory: $(VENV)/.demo ## arenas for the intermediates of BERT, GPT-2 and Llama, beside published heuristics
	$(BIN)/python benchmarks/memory.py $(ARGS)

bench-handwritten: $(VENV)/.bench-handwritten ## hold the kernels against hand-written ones from PyPI; needs no GPU
	$(BIN)/python benchmarks/handwritten.py $(ARGS)

lint: $(VENV)/.test $(VENV)/.lint build/typing/fusecade ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.lint ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built, and the virtual environment
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Fusecade needs Python 3.11 or newer; next: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra of pyproject.toml: the second run installs nothing.
$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "installing fusecade[$*] into $(VENV); the first time takes a few minutes"
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

# An editable install is found by a hook at run time, which type checkers do not follow; they follow this link.
build/typing/fusecade:
	@mkdir -p $(@D)
	ln -sfn ../.. $@
