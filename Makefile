# Two commands matter: `make demo` and `make test`. Each sets up what it lacks.
PYTHON ?= python3
VENV ?= .venv
UV_VERSION := 0.13.9
ARGS ?=
# Of `make soak`: how much is killed, and how long faults are simulated (0: until Ctrl-C).
KILLS ?= 60
MINUTES ?= 5
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE ?= 1
# The machine's own certificates: behind a proxy that inspects TLS there are no others.
export UV_SYSTEM_CERTS ?= 1

.PHONY: demo up test test-fast check format lock setup bench bench-page soak mutants screenshots clean help

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup ## The main job on this machine: a fleet, a balancer, load, the application
	@exec $(BIN)/python manage.py demo $(ARGS)

up: setup ## The application on this machine, with embedded services
	@exec $(BIN)/python manage.py up $(ARGS)

# Hundreds of processes are started: none should compile again what another did.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup ## Every test: unit, simulation, integration, acceptance, browser
	@$(BIN)/python -m tests.requirements
	$(BIN)/python -m pytest -n 3 -m "not browser" $(ARGS)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m browser $(ARGS)

test-fast: setup ## The tests that need no server
	$(BIN)/python -m pytest tests/unit $(ARGS)

# Types are checked with Django's settings loaded, which want values; nothing is connected to.
check: export SECRET_KEY := checked-for-types-only-never-to-be-served
check: export DATABASE_URL := postgresql://nobody@/nothing
check: export REDIS_URL := unix:///nowhere
check: export ALLOWED_HOSTS := localhost
check: setup ## Linter, formatter, types, arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## Pin names, versions and hashes of everything, without download addresses
	$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q -o requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra local --extra dev --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q -o requirements-dev.txt

bench: setup ## Engine against a minimal script, on the same fleet
	$(BIN)/python -m tests.bench.rolling $(ARGS)

bench-page: setup ## The page of a deployment of 1,000 instances: first view, frames
	$(BIN)/python -m tests.bench.page $(ARGS)

soak: setup ## Faults by chance, for long: real kills, people, the simulation (KILLS=60 MINUTES=5)
	$(BIN)/python -m tests.acceptance.soak --kills $(KILLS)
	$(BIN)/python -m tests.acceptance.soak --driver ssh --kills $(KILLS)
	$(BIN)/python -m tests.acceptance.soak --driver docker --kills $(KILLS)
	HYPOTHESIS_PROFILE=operators-soak $(BIN)/python -m pytest tests/integration/test_operators.py
	$(BIN)/python -m tests.simulation --minutes $(MINUTES)

mutants: setup ## Wrong engines, and what of the simulation catches each
	$(BIN)/python -m tests.simulation.mutants $(ARGS)

screenshots: setup ## A picture of every screen in every state (ARGS="--to FOLDER", "--only empty slots")
	@$(BIN)/python -m tests.screenshots $(ARGS)

setup: $(VENV)/ready

$(VENV)/ready: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Lockgate needs Python 3.11 or newer: install it, or name one with 'make PYTHON=python3.12'." >&2; exit 1; }
	@echo "Setting up $(VENV): this takes some ten seconds, once." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv is missing: 'apt-get install python3-venv' on Debian and Ubuntu." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) >&2
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements-dev.txt >&2
	@touch $@

clean: ## Forget the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
