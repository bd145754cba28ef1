# Two commands do everything: `make quickstart` and `make test`. Both set up .venv first, and reuse it afterwards.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup quickstart test test-long unit lint types engines system page browser chaos locks clean

setup: $(READY)

$(READY): requirements/cpu.lock pyproject.toml requirements/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh requirements/install.sh
	touch $@

quickstart: $(READY)
	$(BIN)/rayrlhf quickstart

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/pytest tests/unit

engines: $(READY)
	$(BIN)/pytest tests/engines

system: $(READY) browser
	$(BIN)/pytest tests/system -m "not long"

# The chat and labelling page in a real Chromium.
page: $(READY) browser
	$(BIN)/pytest tests/unit/serving/test_page_routes.py tests/system/services/page

browser:
	sh requirements/browser.sh

test: lint types unit engines system
	$(BIN)/pytest tests/gpu

# What takes minutes a test: a turn of the cycle, hosts whose cable is cut, a job killed with its cluster, plan's memory.
test-long: $(READY)
	$(BIN)/pytest tests/system -m long

# All 35 kills of the matrix with the real engines, then 100 random ones; an hour or two. CHAOS="--seed 2" changes it.
chaos: $(READY)
	$(BIN)/python -m tests.system.chaos $(CHAOS)

locks: $(READY)
	sh requirements/lock.sh

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
