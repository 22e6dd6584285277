# `make help` lists what can be made. Needs Python 3.11+ and a package index; all else goes into .venv.
PYTHON ?= python3
ARGS   ?=
AGAINST ?= main
CHAOS_SEEDS ?= 1 2 3
CHAOS := $(if $(FULL),--orders 10000 --kills 200 --pauses 60 --cuts 60 --outages 12 --restarts 6)

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet
BUF  := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/buf

CODE := $(wildcard weft services gateway sandbox cli)
ALL  := $(CODE) $(wildcard tests bench tools deploy)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help up test chaos proof lint proto breaking docs bench lock clean .venv
.PHONY: lint-style lint-types lint-imports lint-proto lint-generated

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(VENV)/.runtime ## start everything and place three sample orders; Ctrl-C stops it
	@$(BIN)/weft up --demo $(ARGS)

test: $(VENV)/.dev ## run the tests, three at a time; ARGS="-k declined" picks some, ARGS="-n 0" runs one at a time
	@$(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(ARGS)

chaos: $(VENV)/.runtime ## break systems on purpose and audit them; FULL=1 breaks more, CHAOS_SEEDS="7 8" chooses other faults
	@mkdir -p .build
	@for seed in $(CHAOS_SEEDS); do for store in "" "--postgres --scale order=2 --scale inventory=2"; do \
	  report=.build/chaos-$$seed$${store:+-postgres}.json; \
	  echo "weft chaos --seed $$seed $$store $(CHAOS) $(ARGS)"; \
	  $(BIN)/weft chaos --seed $$seed $$store $(CHAOS) --json $$report $(ARGS) || exit; \
	done; done

proof: $(VENV)/.dev ## prove the guarantees: power cuts, disks that fail, planted faults, crash points; ARGS="-k power" picks some
	@$(BIN)/python -m pytest tests/proof -n 0 -v -rs --durations 10 $(ARGS)

lint: lint-style lint-types lint-imports lint-proto lint-generated ## check style, types, layering and protobuf

lint-style: $(VENV)/.dev
	@$(BIN)/ruff check --quiet $(ALL)
	@$(BIN)/ruff format --check --output-format concise $(ALL) || { echo "unformatted; run: $(BIN)/ruff format $(ALL)" >&2; exit 1; }

lint-types: $(VENV)/.dev .build/googleapis
	@$(BIN)/mypy $(CODE) tools deploy

lint-imports: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo

lint-proto: $(VENV)/.dev .build/googleapis
	@$(BUF) lint
	@$(BUF) format proto --diff --exit-code

lint-generated: $(VENV)/.dev .build/googleapis
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && mkdir "$$out/gen" \
	  && $(BUF) generate --output "$$out" && $(BUF) build proto --output "$$out/gen/commerce.binpb" \
	  && { diff --recursive --brief --exclude=__pycache__ "$$out/gen" gen \
	       || { echo "gen/ is not what proto/ says; run: make proto" >&2; exit 1; }; }

proto: $(VENV)/.dev .build/googleapis ## generate gen/ from proto/
	@$(BUF) format proto --write
	@$(BUF) generate
	@$(BUF) build proto --output gen/commerce.binpb

breaking: $(VENV)/.dev .build/googleapis ## check that proto/ still speaks with AGAINST (a git revision; main)
	@git show $(AGAINST):gen/commerce.binpb | $(BUF) breaking proto --against '-#format=binpb'

docs: $(VENV)/.dev ## write docs/configuration.md anew, from the settings
	@$(BIN)/python tools/describe_settings.py docs/configuration.md

bench: $(VENV)/.bench ## measure, and print one table
	@$(BIN)/python -m bench $(ARGS)

lock: $(VENV)/.dev ## pin requirements*.in again, with hashes
	@for set in requirements requirements-dev requirements-bench; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links $(ARGS) $$set.in --output-file $$set.txt || exit 1; \
	done

clean: ## remove what was made here, the data in .weft excepted
	@rm -rf $(VENV) .build .bench .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: $(VENV)/.dev

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "weft needs Python 3.11 or newer, and $(PYTHON) is not; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.made requirements.txt pyproject.toml
	@echo "installing what weft needs into $(VENV)"
	@$(PIP) install --require-hashes --requirement requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@echo "installing what its tests and checks need"
	@$(PIP) install --require-hashes --requirement requirements-dev.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.dev requirements-bench.txt
	@echo "installing what the benchmark compares with"
	@$(PIP) install --require-hashes --requirement requirements-bench.txt
	@touch $@

.build/googleapis: $(VENV)/.dev tools/copy_googleapis.py
	@$(BIN)/python tools/copy_googleapis.py $@
	@touch $@
