# make app   sets up if needed and starts the app
# make test  sets up if needed and runs every check that CI runs
# Both need only Python >= 3.11. Choose one with PYTHON=…, another port with PORT=….

VENV   ?= .venv
PORT   ?= 8501
PYTHON ?=
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

# Two workers per core gain nothing; more than eight cost more memory than they save time.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 8 --dist loadscope

CODE := qlab tests $(wildcard app.py pages sample_models benchmarks docs examples hatch_build.py)

.PHONY: app test lint types floors suite golden clean

app: $(VENV)/.installed
	$(BIN)/streamlit run app.py --server.address 127.0.0.1 --server.port $(PORT)

test: lint types floors suite golden

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(VENV)/.installed-test
	$(BIN)/basedpyright

floors: $(VENV)/.installed-test
	$(BIN)/lint-imports

# Browser tests come last and alone: beside others, a page waits for the server longer than for us.
# One that fails is tried once more and counted as a rerun: a busy machine is not a defect.
suite: $(VENV)/.installed-test
	$(PYTEST) $(PYTEST_ARGS) -m "not browser"
	$(PYTEST) -m browser --reruns 1

# Without VNNI oneDNN's integer kernels saturate; qlab must fall back and give the same integers.
golden: $(VENV)/.installed-test
	ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(PYTEST_ARGS) tests/golden

clean:
	rm -rf $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(VENV)/.installed $@

$(VENV)/bin/python:
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python -m venv $(VENV)"; \
	        "$$python" -m venv $(VENV) && exit 0; \
	        echo "qlab: '$$python' could not make a virtual environment (message above)." \
	             "On Debian and Ubuntu, install python3-venv; then run make again." >&2; \
	        rm -rf $(VENV); exit 1; \
	    fi; \
	done; \
	echo "qlab needs Python 3.11 or newer. Found: $$($(or $(PYTHON),python3) --version 2>/dev/null || echo none)." \
	     "Install one, or name it: make $(or $(MAKECMDGOALS),app) PYTHON=/path/to/python3.11" >&2; \
	exit 1
