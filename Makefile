# The commands of the README. PYTHON is any Python 3.11 or later with the venv module.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test dev check bench format

setup: .venv/.installed

# `requirements.txt` pins everything; uv, itself pinned there, installs it.
.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "formulamine needs Python 3.11 or later: run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet "$$(grep "^uv==" requirements.txt)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/python -m formulamine.demo

# More than two cores have use for, since half of the time is waiting: for services that start and processes that end.
# More workers gain little: some tests go to one worker together (formulamine_tests/conftest.py says which, and why).
# To debug a test run it in one process: .venv/bin/python -m pytest FILE
WORKERS ?= 3

test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

dev: setup
	@$(BIN)/formulamine dev

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench:
	@for file in benchmarks/*.py; do echo "$(BIN)/python $$file: $$(sed -n '1s/^"""//p' $$file)"; done
