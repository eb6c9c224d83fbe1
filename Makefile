# Sightline. Two commands do everything from a bare Debian machine, set-up included: `make demo` and `make test`.
# Whatever is already there is left alone, so a second run is quick and needs no network.

.PHONY: demo topology test test-servers check build build-tests roles setup clean help cuda cuda-check cuda-test
.DEFAULT_GOAL := help

export PATH := $(PATH):$(HOME)/.cargo/bin
SIGHTLINE := target/debug/sightline
WEIGHTS := models/nanodet-g.safetensors
CONVERT = test -s $(WEIGHTS) || $(SIGHTLINE) convert-detector --json cache/nanodet.json --bin cache/nanodet.bin --out $(WEIGHTS)
# All is tested with every feature but `cuda`, so that nothing is compiled twice and no code is left out. The tests that need a
# broker stand in modules called `needs_kafka` (docker/guards.sh checks it); `test` leaves them to `test-servers`.
FEATURES := $(shell docker/features.sh)
SERVER_TESTS := needs_kafka::

help:
	@echo "make demo           build everything and run it on sample footage; prints the page's address"
	@echo "make topology       the same as separate processes over Kafka and Qdrant, as docker/compose.yaml (docker/local.sh)"
	@echo "make test           build everything and run every test that needs no server"
	@echo "make test-servers   the tests that need servers, on real Apache Kafka, which this starts and ends"
	@echo "make check          formatting, lints, documentation, dependency guards"
	@echo "make cuda-check     compiles the GPU kernels and checks all code with CUDA (downloads 700 MB; needs no GPU)"
	@echo "make cuda           embed worker and fine-tuner for NVIDIA GPUs (downloads 700 MB; needs no GPU)"
	@echo "make cuda-test      the GPU's answers against the golden data (needs a GPU)"

setup:
	@docker/setup.sh packages rust footage detector

build: setup
	@cargo build --locked --quiet --package sightline-api --bin sightline
	@$(CONVERT)

# The separate roles. Each with its own features, so that none links what it does not need.
roles: build
	@docker/setup.sh kafka
	@cargo build --locked --quiet --package sightline-ingest --features kafka --bin sightline-ingest
	@cargo build --locked --quiet --package sightline-embed --features kafka --bin sightline-embed
	@cargo build --locked --quiet --package sightline-search --features kafka --bin sightline-index
	@cargo build --locked --quiet --package sightline-double --bin qdrant-double
	@cargo build --locked --quiet --package sightline-api --no-default-features --features kafka --bin sightline-api

topology: roles
	@docker/local.sh up --config docker/demo.toml

demo: build
	@$(SIGHTLINE) serve --config docker/demo.toml

build-tests: setup
	@docker/setup.sh client
	@cargo build --locked --quiet --workspace --features $(FEATURES) --bin sightline
	@$(CONVERT)
	@cargo test --locked --quiet --workspace --features $(FEATURES) --no-run

test: build-tests
	@cargo test --locked --workspace --features $(FEATURES) -- --skip $(SERVER_TESTS)
	@docker/kernel-levels.sh "$(FEATURES)"

# The broker is ended in every case, Ctrl-C and failed tests included. Real servers, never a silent skip.
test-servers: SHELL := /bin/sh
test-servers: build-tests
	@docker/setup.sh kafka
	@set -eu; \
	folder=$$(mktemp -d); \
	trap 'docker/kafka/kafka.sh stop "$$folder"; rm -rf "$$folder"' EXIT; \
	trap 'exit 130' INT; trap 'exit 143' TERM; \
	KAFKA_BROKERS=$$(docker/kafka/kafka.sh start "$$folder"); export KAFKA_BROKERS; \
	cargo test --locked --workspace --features $(FEATURES) --lib --bins --tests -- --test-threads 1 $(SERVER_TESTS)

check: setup
	@docker/setup.sh client checks
	@docker/check.sh

cuda-check: setup
	@docker/setup.sh client cuda
	@docker/cuda.sh check

cuda: setup
	@docker/setup.sh client cuda
	@docker/cuda.sh build

cuda-test: setup
	@docker/setup.sh client cuda
	@docker/cuda.sh test

clean:
	cargo clean
