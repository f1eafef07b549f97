# GNU make; `make` alone says what there is. PYTHON=... chooses the interpreter
# that .venv is made with; without it the newest suitable one on PATH is taken.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
DONE := $(VENV)/done
PIP := $(PY) -m pip --disable-pip-version-check --quiet --quiet

# What the extension is built from; the generated C file is a product.
SOURCES := $(shell find ext -name '*.[ch]' ! -path ext/binding/_core.c -o -name '*.px[di]' -o -name '*.pyx')

# A .venv that was made elsewhere (a moved folder), with another PYTHON than the
# one given now, or whose Python is gone, is made anew.
ifneq ($(shell $(PY) -c 'print(open("$(DONE)/venv").read().strip())' 2>/dev/null),$(CURDIR))
STALE := again
else ifneq ($(filter-out $(shell cat $(DONE)/python 2>/dev/null),$(PYTHON)),)
STALE := again
endif

.NOTPARALLEL:
.PHONY: help demo test servers soak lint format docs bench bench-smoke c-test cross packaging wheels ci clean again

help: ## say what there is (this text)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DONE)/package ## set everything up and run `stillalive demo`
	@$(BIN)/stillalive demo

test: $(DONE)/test ## set everything up and run the whole test suite; ARGS="-k tune" are pytest's
ifeq ($(ARGS),)
	@$(PY) -m pytest -n 2 --dist loadfile tests/os tests/integration
	@$(PY) -m pytest -n 4 tests/unit tests/contract
else
	@$(PY) -m pytest $(ARGS)
endif

lint: $(DONE)/lint ## check style, types, the stub and the workflows
	@PATH="$(CURDIR)/$(BIN):$$PATH" .ci/lint

format: $(DONE)/lint ## reformat Python and C
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .
	@find ext tests/c benchmarks -name "*.[ch]" ! -path ext/binding/_core.c -exec $(BIN)/clang-format -i {} +

servers: $(DONE)/servers ## install the foreign servers and clients that some tests want

soak: $(DONE)/test ## abuse a guarded server for MINUTES (default 10) and see that nothing leaks
	@$(PY) tests/integration/soak_guard.py $$(($(or $(MINUTES),10) * 60))

docs: $(DONE)/docs $(DONE)/test ## build the documentation and run its examples
	@$(MAKE) -C docs all PYTHON="$(CURDIR)/$(PY)"

bench: $(DONE)/bench $(DONE)/servers ## run the benchmarks; ARGS are theirs
	@$(PY) -m benchmarks $(ARGS)

bench-smoke: $(DONE)/bench ## see that every benchmark runs
	@$(PY) -m benchmarks --smoke

c-test: ## test the C core: plainly, under sanitizers, broken on purpose, with random input
	@$(MAKE) -s -C tests/c STRICT=1 test asan tsan bites fuzz-smoke

cross: $(DONE)/cross ## compile the C core for the other systems
	@PATH="$(CURDIR)/$(BIN):$$PATH" .ci/cross

packaging: $(DONE)/packaging ## build sdist and wheels in every way that is promised, and check them
	@PATH="$(CURDIR)/$(BIN):$$PATH" .ci/packaging

wheels: $(DONE)/test $(DONE)/wheels ## build every wheel that this machine can, into dist/, and test each by itself
	@.ci/wheels

ci: ## everything that must pass before a change lands
	@.ci/run

clean: ## remove everything that was made, .venv too
	@$(MAKE) -s -C tests/c clean
	@rm -rf $(VENV) build dist out docs/_build .hypothesis .pytest_cache .mypy_cache .ruff_cache
	@rm -f ext/binding/_core.c src/stillalive/_core.*.so
	@find src tests benchmarks docs examples -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf src/stillalive.egg-info

$(DONE)/venv: .ci/find-python $(STALE)
	@python=$$(.ci/find-python) && echo "making $(VENV) with $$python" && \
	rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@$(PIP) install --upgrade pip
	@mkdir -p $(DONE) && echo "$(PYTHON)" > $(DONE)/python && echo "$(CURDIR)" > $@

$(DONE)/package: $(DONE)/venv pyproject.toml setup.py $(SOURCES)
	@echo "building the extension and installing stillalive into $(VENV)"
	@$(PIP) install --editable '.[cli]'
	@touch $@

$(DONE)/test $(DONE)/servers $(DONE)/docs $(DONE)/bench $(DONE)/lint: $(DONE)/%: $(DONE)/package
	@echo "installing what '$*' needs into $(VENV)"
	@$(PIP) install --group $*
	@touch $@

$(DONE)/cross $(DONE)/packaging $(DONE)/wheels: $(DONE)/%: $(DONE)/venv pyproject.toml
	@echo "installing what '$*' needs into $(VENV)"
	@$(PIP) install --group $*
	@touch $@
