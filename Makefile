# make demo and make test set everything up on a fresh machine, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs gpu-check setup clean

setup: $(READY)

# uv takes seconds where pip takes minutes, and shares files between environments. Compiling now saves every worker
# process from compiling again where Python cannot write its cache.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "fgdata and fgtrain need Python 3.11.4 or newer (tested on 3.11 to 3.13); this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.13")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/python -m uv pip uninstall --quiet --python $(BIN)/python fgdata  # the name of this project before it was fgtrain
	$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dali,train,dev,docs]'
	touch $@

demo: $(READY)
	$(BIN)/python tools/demo.py

# Three processes keep two cores busy: many tests wait for commands that they run.
test: $(READY) lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(READY)
	$(BIN)/mkdocs build --quiet
	@echo 'Open build/site/index.html'

gpu-check: $(READY)
	$(BIN)/python tools/gpu_check.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
