# Two commands on a fresh machine: `make repro` and `make test`. Each sets up .venv first; a second call installs nothing.

VENV := .venv
# recipes find dvc, and dvc finds python, in the environment
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)

# the first Python on this machine that runs, has venv, and is one we support (what requirements.txt asks for
# has no releases for 3.11.4 and before); `make PYTHON=... repro` names another
SUPPORTED := import sys, ensurepip, venv; sys.exit(not (3, 11, 5) <= sys.version_info[:3] < (3, 14))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	"$$python" -c '$(SUPPORTED)' 2>/dev/null && echo "$$python" && break; done)

# on Linux, torch from the default index carries CUDA (gigabytes); without an NVIDIA GPU the CPU build does the same, and uv knows
# where that is. Where uv cannot reach it, pip takes torch from where it takes everything else.
CPU_TORCH = test "$$(uname -s)" = Linux && ! nvidia-smi >/dev/null 2>&1 && $(PIP) uv && \
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --torch-backend cpu --no-deps "$(TORCH)" 2>/dev/null
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# A module's tests share what they build, so a module stays with one worker; of three, one often waits (for a browser, a server).
# More threads would only wait for each other's core.
# What is compiled is kept, whatever the environment says: many tests start Python.
PYTEST = $(IN_VENV) PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 python -m pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  %-12s %s\n", $$1, $$2 }'

install: $(VENV)/.installed  ## set up .venv, to use the shipped model (HASHES=1: from files whose hashes requirements.lock has)

repro: $(VENV)/.installed  ## run the pipeline (dvc repro), then show its figures and where its pictures are
	@$(IN_VENV) dvc repro
	@echo
	@$(IN_VENV) dvc metrics show
	@echo
	@$(IN_VENV) speakerprint metrics
	@echo
	@echo "Pictures:"; ls metrics/plots/*/*.png | sed 's/^/  /'
	@echo "DET, ROC and training curves: .venv/bin/dvc plots show"

check: lint  ## lint, and the fast tests: what a change should pass at any time, in under a minute
	@$(PYTEST) -m "not slow"

test: $(VENV)/.installed  ## run all tests
	@$(PYTEST)

torture: $(VENV)/.installed  ## damage each kind of file 600 times, kill each writer 20 times, fuzz, flood the server, count what came of it: minutes
	@$(IN_VENV) TORTURE_CASES=600 TORTURE_KILLS=20 SOAK_S=120 FUZZ_S=30 OMP_NUM_THREADS=1 python -m pytest -m torture -s

lint: $(VENV)/.installed  ## check style, types and who imports whom
	@$(IN_VENV) ruff check
	@$(IN_VENV) ruff format --check
	@$(IN_VENV) mypy
	@$(IN_VENV) lint-imports --no-cache --no-logo

bench: $(VENV)/.installed  ## measure side by side with other ways, into benchmarks/results.json: hours
	@$(IN_VENV) python -m benchmarks

advisories: $(VENV)/.installed  ## look up known vulnerabilities of all that is pinned; skipped where PyPI's advisories cannot be had
	@.ci/advisories

docs: $(VENV)/.installed  ## build the documentation site into site/
	@$(IN_VENV) NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "site/index.html"

clean:  ## remove what make and the tools it calls made: .venv, site and caches (not data/, models/ or metrics/)
	rm -rf $(VENV) site src/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src stages tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "error: Python 3.11 (from 3.11.5 on), 3.12 or 3.13 with its venv module is needed; tried $(or $(PYTHON),python3, python3.11 to python3.13)."; \
		echo "Install one (from Debian 13 and Ubuntu 24.04 on: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12 repro"; \
		exit 1; } >&2
	@test -x $(VENV)/bin/python || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "Installing into $(VENV): $(TORCH), then requirements.txt. This happens once and takes a few minutes."
	@test -z "$(HASHES)" || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(CPU_TORCH) || $(PIP) --no-deps "$(TORCH)"
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -e .
	@touch $@

.PHONY: help install repro check test torture lint bench advisories docs clean
