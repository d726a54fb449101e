# The two commands of the README are `make demo` and `make test`. Everything installs what it needs.

SHELL := /bin/bash
CARGO ?= cargo
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ota-update-engine

.PHONY: help demo test bench bugs build deps fuzz clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

deps: ## install the system packages that building, tests and demo need (apt, as root)
	@integration/deps.sh

build: deps ## build every program (debug)
	@$(CARGO) build --quiet --workspace --bins

demo: deps ## the whole story on real images: update, tampered release, unhealthy release that goes back by itself
	@$(CARGO) build --release --quiet --workspace --bins
	@integration/demo/demo.sh "$(CACHE)/demo"

test: deps ## all tests, layer by layer; ends with "N passed, N failed, N skipped"
	@integration/test.sh

bench: deps ## install speed, memory and idleness, as ratios to limits measured in the same run
	@integration/bench.sh "$(CACHE)/bench"

bugs: deps ## plant known bugs one at a time and expect the tests to catch each
	@integration/bugs/run.sh

fuzz: ## run one fuzz target: make fuzz TARGET=omaha_response (half an hour of CPU, or CPU=seconds; needs a nightly toolchain and cargo-fuzz)
	@fuzz/run.sh "$(TARGET)" $(CPU)

clean: ## remove build output (not the image cache)
	@$(CARGO) clean
