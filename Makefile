PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo serve-demo sim2real test slow lint bench pins clean

demo: $(VENV)/base
	$(BIN)/dspark tune --trials 64 --replications 8 --out out

serve-demo: $(VENV)/serve
	$(BIN)/python -m sglang_dspark.demo.serve --out out/serve-demo

sim2real: $(VENV)/serve
	$(BIN)/dspark sim2real --out out/sim2real

test: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadgroup
	TRITON_INTERPRET=1 $(BIN)/pytest -n 2 --dist loadgroup tests/kernels

slow: $(VENV)/dev
	$(BIN)/pytest -m slow

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/serve
	$(BIN)/dspark bench simulator
	$(BIN)/dspark bench policy
	$(BIN)/dspark bench planner

pins: $(VENV)/base
	$(BIN)/python requirements/refresh.py > requirements/cpu.new
	mv requirements/cpu.new requirements/cpu.txt

clean:
	rm -rf $(VENV) out

# What each needs: the offline core; SGLang and PyTorch for a CPU as well; tests and linters on top of both.
$(VENV)/base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/serve: pyproject.toml requirements/cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --requirement requirements/cpu.txt
	$(PIP) --editable .
	touch $@ $(VENV)/base

$(VENV)/dev: $(VENV)/serve
	$(PIP) --editable '.[dev]'
	touch $@
