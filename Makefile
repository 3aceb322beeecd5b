# Set up everything in .venv, then: sweep, test, lint, ...
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPACE ?= spaces/core.yaml
RECIPE ?= recipes/bytes.yaml

.PHONY: sweep test test-slow lint format docs wheel bench clean

sweep: $(VENV)/ready
	$(BIN)/python sweep.py $(SPACE) $(RECIPE) $(ARGS)

# On two cores three processes: many tests wait for others that they have started.
test: $(VENV)/ready
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

# The wheel in an environment that holds what it requires and nothing else, away from this folder.
CLEAN := build/wheel/venv
wheel:
	rm -rf build/wheel
	$(PYTHON) -m venv --clear $(CLEAN)
	$(CLEAN)/bin/pip wheel -q --disable-pip-version-check --no-deps -w build/wheel .
	$(CLEAN)/bin/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(CLEAN)/bin/pip install -q --disable-pip-version-check -c constraints.txt build/wheel/*.whl
	cd build/wheel && $(abspath $(CLEAN))/bin/miras-search show yaad
	cd build/wheel && $(abspath $(CLEAN))/bin/miras-search --version

bench: $(VENV)/ready
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) runs build *.egg-info

# One pip call with the pins: torch resolved first keeps other builds of it from coming in.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	@echo "Setting up $(VENV), which takes minutes and is done once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
