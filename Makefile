# The whole study is `make demo`. Only make and Python 3.11, 3.12 or 3.13 are needed beforehand.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c '$(FITS)' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ITK := $(VENV)/share/itk-vtk-viewer

.DEFAULT_GOAL := help
.PHONY: help environment demo test test-fast test-all lab itk-viewer docs lint format lock clean

help: ## show this help
	@echo "ctlib: does video pretraining help 3D networks on chest CT?"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Made once, and again only when the pins change. By uv, which takes a third of pip's time; by pip where uv fails.
# With bytecode, as pip has it: without, each kernel and worker compiles all packages again where nothing is written
# (PYTHONDONTWRITEBYTECODE): 22 s of CPU for what the analysis imports, 11 s with it.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
UV := $(BIN)/python -m uv --quiet
$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c '$(FITS)' 2>/dev/null || { echo "No Python 3.11 to 3.13 was found: install one, or name it: make PYTHON=/path/to/python3.13"; exit 1; }
	@echo "Making the environment in $(VENV) (some minutes, some gigabytes; only once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@{ $(PIP) install $(shell grep ^uv== requirements.lock) && $(UV) pip install --compile-bytecode -r requirements.lock; } || $(PIP) install -r requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $(STAMP)

environment: $(STAMP) ## make the environment in .venv, and nothing else

demo: $(STAMP) ## run the whole study on phantoms (about a quarter of an hour), then read work/demo/reports/index.html
	@$(BIN)/ctlib run demo

# One run of pytest: to find the tests and import what they use takes each of its processes a minute. Three for two
# cores, for many tests wait for processes. Their order is that of tests/conftest.py.
TESTS := $(BIN)/python -m pytest -q --durations=30
TOGETHER := $(TESTS) -n 3 --dist loadfile --no-loadscope-reorder
test: $(STAMP) lint ## lint, types, and all tests except the longest (about 25 minutes on two cores)
	@$(TOGETHER) -m "not nightly"

test-all: test ## make test, then the longest tests: the whole demo, all browser sizes, more damaged files
	@$(TESTS) -m nightly

test-fast: $(STAMP) ## the fast tests only (about three minutes on two cores)
	@$(TOGETHER) -m "not e2e and not slow and not nightly"

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## format code and strip notebooks
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/nbstripout --keep-id notebooks/*.ipynb

lab: $(STAMP) ## open JupyterLab on the start page of the notebooks; needs no network
	@JUPYTER_CONFIG_PATH=$(CURDIR)/tools/lab $(BIN)/jupyter lab --notebook-dir=. notebooks/start.md

itk-viewer: $(STAMP) ## download itk-vtk-viewer (with npm, 36 MB, once) for viewer="itk"
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js, or use viewer=\"niivue\", which needs nothing"; exit 1; }
	@rm -rf $(ITK).part && mkdir -p $(ITK).part
	@cd $(ITK).part && npm pack --silent itk-vtk-viewer@14.51.0 >/dev/null
	@cd $(ITK).part && tar -xzf itk-vtk-viewer-*.tgz --strip-components=1 package/dist package/LICENSE package/Copyright.txt && rm itk-vtk-viewer-*.tgz
	@rm -rf $(ITK) && mv $(ITK).part $(ITK)
	@echo "itk-vtk-viewer is in $(ITK)"

# Not committed: it says nothing that the docstrings do not, and takes half a minute. Without nannies, whose
# classes are Dask's.
docs: $(STAMP) ## write the reference of ctlib from its docstrings: docs/reference/index.html
	@$(BIN)/python -m pdoc ctlib '!ctlib.grid.worker' --docformat google --no-show-source --output-directory docs/reference
	@echo "Read docs/reference/index.html"

lock: $(STAMP) ## write requirements.lock and environment.yml from pyproject.toml
	@$(BIN)/python tools/lock.py

clean: ## delete what the demo computed (not the environment)
	rm -rf work/demo
