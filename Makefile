# Sightline. Two commands do everything from a bare Debian machine, set-up included: `make demo` and `make test`.
# Whatever is already there is left alone, so a second run is quick and needs no network.

.PHONY: demo test check build setup clean help cuda cuda-test
.DEFAULT_GOAL := help

export PATH := $(PATH):$(HOME)/.cargo/bin
SIGHTLINE := target/debug/sightline
WEIGHTS := models/nanodet-g.safetensors

help:
	@echo "make demo   build everything and run it on sample footage; prints the page's address"
	@echo "make test   build everything and run the whole test-suite"
	@echo "make check  formatting, lints, documentation, dependency guards (what CI runs before the tests)"
	@echo "make cuda   build embed worker and fine-tuner for NVIDIA GPUs (downloads 700 MB; no GPU needed)"
	@echo "make cuda-test   hold the GPU's answers against the golden data (needs a GPU)"

setup:
	@docker/setup.sh packages rust footage detector

build: setup
	@cargo build --locked --quiet --package sightline-api --bin sightline
	@test -s $(WEIGHTS) || $(SIGHTLINE) convert-detector --json cache/nanodet.json --bin cache/nanodet.bin --out $(WEIGHTS)

demo: build
	@$(SIGHTLINE) serve --config docker/demo.toml

test: build
	@cargo test --locked --workspace

check: setup
	@docker/check.sh

cuda: setup
	@docker/cuda.sh build

cuda-test: setup
	@docker/cuda.sh test

clean:
	cargo clean
