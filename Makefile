# make demo | test | check (lint and test) | resolve | bench: each builds .venv by itself. Needs Python 3.10-3.14 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo

.PHONY: demo test check lint resolve bench clean

demo: $(VENV)/.ready
	$(BIN)/foreframe demo --out $(OUT)

test: $(VENV)/.ready-dev
	$(BIN)/pytest --numprocesses auto --dist loadfile

check: lint test

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Whether the dependencies can be had for every Python that is promised; asks the package index.
resolve: $(VENV)/.ready-dev
	$(BIN)/python scripts/resolve.py

bench: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/run.py

# A failed or interrupted install leaves no stamp, so the next make runs it again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 14) else "make: foreframe needs Python 3.10 to 3.14, and %s is %d.%d; set PYTHON=python3.11, say" % (sys.executable, *v))'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: this Python cannot build virtual environments; install its venv module (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) out
