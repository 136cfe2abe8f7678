# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
# The CPU build where a plain `torch` would bring gigabytes of CUDA packages; `make TORCH=torch` takes the newest.
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test claims oldest lint types docs figures clean

demo: $(VENV)/.ready
	$(BIN)/tunesmith tune recipes/demo.yaml --name demo --force

test: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

# The quick claims again, from nothing; fails when a verdict turns.
claims: $(VENV)/.ready
	$(BIN)/tunesmith claims check --workers 2

oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS='-c .ci/oldest.txt'

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.ready
	$(BIN)/mypy

docs: $(VENV)/.ready
	$(BIN)/python -m pip install -q -e '.[docs]'
	$(BIN)/mkdocs build --strict

figures: $(VENV)/.ready
	$(BIN)/python bench/table.py
	$(BIN)/python bench/setup.py
	$(BIN)/python bench/render.py
	$(BIN)/python bench/parts.py --only
	$(BIN)/python bench/adapters_page.py
	$(BIN)/python bench/planning_page.py
	$(BIN)/python bench/performance.py
	$(BIN)/python bench/few_shot.py --render
	$(BIN)/python bench/evidence.py
	$(BIN)/python bench/robust.py --render

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q '$(TORCH)'
	$(BIN)/python -m pip install -q $(CONSTRAINTS) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest site build dist .pytest_cache .ruff_cache .mypy_cache
