# setup installs what is missing; demo and test call it. A second run skips it.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ready

.PHONY: setup demo test test-vm labs bench lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py tools/setup $(wildcard mip6/dataplane/fastpath.bpf.c mip6/dataplane/fastpath/*.h)
	@PYTHON=$(PYTHON) VENV=$(VENV) tools/setup
	@touch $@

demo: setup
	@$(VENV)/bin/mip6 lab run car

test: setup
	@tools/test

# Debian's kernel under qemu: steps by name, e.g. make test-vm STEPS="units car"; results in build/vm/output/
test-vm: setup
	@tools/test-vm $(STEPS)

labs: setup
	@$(VENV)/bin/mip6 lab all

# All benchmarks, or some: make bench PARTS="tcp pps-64"
bench: setup
	@$(VENV)/bin/python -m labs.bench $(addprefix --only=,$(PARTS))

lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
