# make demo   detect lesions in the sample DICOM study and say where the report is
# make test   every test and doctest
# make check  format, lint, types, import layers
# make clean  what the targets above made, the environment aside
#
# On Linux without a GPU the CPU build of PyTorch is much smaller than the default one. Put its
# index into PIP_ARGS, as https://pytorch.org/get-started tells:
#   make demo PIP_ARGS="--extra-index-url <index of the CPU wheels>"

PYTHON ?= python3
PIP_ARGS ?=
# As many files of tests at once as there are processors; PYTEST_ARGS= for one after the other.
PYTEST_ARGS ?= --numprocesses logical --maxprocesses 4 --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.spinemets-ready
SAMPLE := data_samples/dicom

.PHONY: setup demo test check clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "spinemets needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/spinemets detect $(SAMPLE) -o demo-report --rerun

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=pipeline $(BIN)/lint-imports

clean:
	rm -rf demo-report dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
