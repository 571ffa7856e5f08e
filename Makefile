PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PACKAGING := setup.cfg pyproject.toml constraints.txt

# None of these leaves the machine to report usage.
export HF_HUB_DISABLE_TELEMETRY := 1
export HF_UPDATE_DOWNLOAD_COUNTS := 0
export PATH := $(CURDIR)/$(BIN):$(PATH)

# As many processes as cores, each with one thread.
test test-slow test-trl-% nightly-%: export OMP_NUM_THREADS := 1

# The oldest supported TRL, and the last one with PPO.
OTHER_TRL := 1.8.0 1.12.0
TRL_TESTS := tests/trainers tests/examples/test_other_scripts.py

# The folders and files in tests/.
PARTS := $(patsubst tests/%/,%,$(sort $(dir $(wildcard tests/*/test_*.py)))) $(notdir $(wildcard tests/test_*.py))

.PHONY: demo demo-real test test-slow test-all test-trl-% lint docs fix-copies nightly clean

demo: $(VENV)/.base
	$(BIN)/hf-calib demo --out demo

# A real language model, fetched, measured, repaired and measured again.
demo-real: $(VENV)/.gguf
	$(BIN)/python examples/real_models/demo.py --out demo-real

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not distributed and not nightly"

# Real processes, browsers, other libraries and whole alignments.
test-slow: $(VENV)/.oracles
	$(BIN)/pytest -n 2 --dist worksteal -m "(slow or distributed or oracle) and not nightly"

test-all: test test-slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The API reference, from the docstrings: open build/docs/index.html.
docs: $(VENV)/.dev
	$(BIN)/pdoc --docformat numpy --math --output-directory build/docs hf_calib

# Each metric's folder holds copies of the package's modules that it needs.
fix-copies:
	$(PYTHON) .ci/fix_copies.py

# The trainers under another version of TRL, in an environment of its own: make test-trl-1.12.0
test-trl-%: $(VENV)-trl-%/.dev
	$(VENV)-trl-$*/bin/pytest -n 2 -m "not slow and not distributed and not nightly" $(TRL_TESTS)

# Everything, with fuzzing and simulations. It takes hours; each part can be run alone, as in make nightly-trainers.
nightly: $(addprefix nightly-,$(PARTS)) $(addprefix test-trl-,$(OTHER_TRL))

nightly-%: $(VENV)/.server
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -n 2 --dist worksteal tests/$*

clean:
	rm -rf $(VENV) $(VENV)-trl-* demo demo-real build dist *.egg-info

# torch first: left to the others' open requirements, pip would take a build with several gigabytes of GPU libraries.
$(VENV)/.base: $(PACKAGING)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e .
	touch $@

# The package index has the real model's weights as a GGUF file.
$(VENV)/.gguf: $(VENV)/.base
	$(INSTALL) -e ".[gguf]"
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) -e ".[dev,deepspeed]"
	touch $@

# The libraries that the measures and the predictions are compared with, and what the metrics' pages need.
$(VENV)/.oracles: $(VENV)/.dev
	$(INSTALL) -e ".[apps,lm-eval,oracles]"
	touch $@

# llama.cpp and its server, compiled here.
$(VENV)/.server: $(VENV)/.oracles
	$(INSTALL) -e ".[server]"
	touch $@

.PRECIOUS: $(VENV)-trl-%/.dev
$(VENV)-trl-%/.dev: $(PACKAGING)
	$(PYTHON) -m venv $(@D)
	grep -v '^trl==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt torch
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt trl==$* -e ".[test]"
	touch $@
