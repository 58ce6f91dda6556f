# Each target prepares what it needs in .venv; nothing else on the machine is touched.
#
#   make train   train the CNN on handwritten digits   (make train ARGS="--data FOLDER --epochs 5")
#   make test    everything that CI checks
#   make bench   Avalon beside PyTorch and JAX, into out/bench
#   make clean   remove .venv and out

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: train test bench clean

train: $(VENV)/train.installed
	$(BIN)/avalon train cnn $(ARGS)

test: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(VENV)/bench.installed
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) out

$(VENV)/train.installed: EXTRAS := train,plot
$(VENV)/dev.installed: EXTRAS := dev
$(VENV)/bench.installed: EXTRAS := bench

# An editable install of the package with the extras of one target; again when pyproject.toml changes.
$(VENV)/%.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python"; exit 1; }
	@echo "Preparing $(VENV) ($(EXTRAS)) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@
