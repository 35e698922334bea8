# Everything a fresh machine needs is Python 3.10 or newer and make; `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Each test starts processes; they need not compile this package's modules anew.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that is new enough; override with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p" && exit; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONSTRAINTS ?= constraints.txt

# What `test-torch` runs with, in a virtual environment for each torch; by default the versions of constraints.txt.
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
TRANSFORMERS ?= $(shell sed -n 's/^transformers==//p' constraints.txt)
OTHER := .venv-torch-$(TORCH)
FLOOR := $(shell sed -nE 's/.*"torch>=([0-9.]+)".*/\1/p' pyproject.toml)

# A test file to a process, each with one torch thread (tests/conftest.py); more than four gain little.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$(( n < 4 ? n : 4 )))
PYTEST_FLAGS ?=
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# Seconds after which the slow tests stop taking up new ones.
SLOW_LIMIT ?= 1500
BENCH ?= decode
# What `gpu-check` runs, the seconds it may take, and where its results go: docs/gpu-check.md.
STAGES ?=
BUDGET ?=
RESULTS ?=

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: venv
venv: $(READY) ## Create .venv with everything the other targets need (they do it themselves).

$(READY): pyproject.toml setup.py $(CONSTRAINTS)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "dynamo_genie needs Python 3.10 or newer, but '$(PYTHON)' is" \
			"$$("$(PYTHON)" --version 2>/dev/null || echo missing). Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) "$$(grep ^torch== $(CONSTRAINTS))"
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev,demo]'
	$(BIN)/python -m pip install --quiet --no-deps "$$(grep ^torchcts== $(CONSTRAINTS))" # asks for an older torch
	@touch $@

.PHONY: demo
demo: $(READY) ## Run a small model through a daemon and compare it with eager PyTorch.
	@$(BIN)/genie demo

.PHONY: test
test: $(READY) ## The fast tests.
	$(PYTEST) $(PYTEST_FLAGS)

.PHONY: test-slow
test-slow: $(READY) ## The slow tests; stops taking up new ones after SLOW_LIMIT seconds.
	@$(PYTEST) -m 'slow and not sweep and not gpu' --timeout 600 --session-timeout $(SLOW_LIMIT) $(PYTEST_FLAGS) \
		|| { status=$$?; test $$status -eq 5 || exit $$status; } # 5: nothing is marked slow

.PHONY: test-sweep
test-sweep: $(READY) ## Every member of a tensor, PyTorch's own samples, whole programs: against eager, for an hour.
	$(PYTEST) -m 'sweep and not gpu' --timeout 1200 $(PYTEST_FLAGS)

# PIP_CONSTRAINT in place of a cap that this machine's pip may have on torch: the version that was asked for counts.
.PHONY: test-torch
test-torch: ## The fast tests with other versions: make test-torch TORCH=2.14.1 TRANSFORMERS=5.24.0.
	@printf '%s\n' $(FLOOR) $(TORCH) | sort --version-sort --check=quiet || { \
		echo "dynamo_genie needs torch $(FLOOR) or newer, not $(TORCH); docs/versions.md says why." >&2; exit 1; }
	@mkdir -p $(OTHER)
	@sed -E 's/^torch==.*/torch==$(TORCH)/; s/^transformers==.*/transformers==$(TRANSFORMERS)/' constraints.txt > $(OTHER)/wanted
	@if cmp -s $(OTHER)/wanted $(OTHER)/constraints.txt; then rm $(OTHER)/wanted; \
		else mv $(OTHER)/wanted $(OTHER)/constraints.txt; fi
	@test -e $(OTHER)/.ready || echo "Installing torch $(TORCH) into $(OTHER); a CUDA build takes 6 GB there" \
		"(docs/versions.md names the index of the CPU builds)."
	@PIP_CONSTRAINT=$(abspath $(OTHER)/constraints.txt) \
		$(MAKE) --no-print-directory venv VENV=$(OTHER) CONSTRAINTS=$(OTHER)/constraints.txt || { \
		$(OTHER)/bin/python -m pip --quiet show torch &>/dev/null || rm -rf $(OTHER); \
		echo "pip cannot install torch $(TORCH) with transformers $(TRANSFORMERS) for $$("$(PYTHON)" --version):" \
			"above it says why. It offers torch" \
			"$$("$(PYTHON)" -m pip index versions torch 2>/dev/null | sed -n 's/^Available versions: //p')." >&2; exit 1; }
	@$(OTHER)/bin/python -c 'import platform, torch, transformers; print("Python", platform.python_version(), \
		"torch", torch.__version__, "transformers", transformers.__version__)'
	@$(MAKE) --no-print-directory test VENV=$(OTHER) CONSTRAINTS=$(OTHER)/constraints.txt

.PHONY: check lint format-check types imports
check: lint format-check types imports ## Lint, format, types and import rules.

lint: $(READY)
	$(BIN)/ruff check .

format-check: $(READY)
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Let ruff fix and format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(READY) ## A benchmark: make bench BENCH=decode.
	@$(BIN)/genie bench $(BENCH)

# Uses the environment of PYTHON as it is: a machine with a GPU often brings its own torch. docs/gpu-check.md has the rest.
.PHONY: gpu-check
gpu-check: ## Check the real GPU in stages: make gpu-check PYTHON=python3 STAGES=a,c BUDGET=240 RESULTS=folder.
	@if [ -z "$${GPU_CHECK_REHEARSE:-}" ] && ! nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; then \
		echo "skipped: no NVIDIA GPU"; exit 0; fi; \
		"$(PYTHON)" -m dynamo_genie.bench.gpu_check --stages "$(STAGES)" --budget "$(BUDGET)" \
			$(if $(RESULTS),--results "$(RESULTS)")

.PHONY: clean
clean: ## Remove .venv, .venv-torch-*, caches and build products.
	rm -rf $(VENV) .venv-torch-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache \
		.hypothesis torch_compile_debug
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
