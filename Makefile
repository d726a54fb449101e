# The two commands of the README are `make demo` and `make test`. As root, everything installs what it needs.

SHELL := /bin/bash
CARGO ?= cargo
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ota-update-engine

.PHONY: help demo test bench bench-sizes systems bugs bugs-recorded cuts build install deps fuzz clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

deps: ## install the system packages that building, tests and demo need, and fetch a kernel (apt, as root)
	@integration/deps.sh

build: deps ## build every program (debug)
	@$(CARGO) build --quiet --workspace --bins

# Where there is no cargo, as under sudo, the programs have to be there.
install: ## put programs, units and configuration into an image: make install DESTDIR=IMAGE PREFIX=/usr (BIN_DIR=FOLDER: already built)
	@[[ -n "$(BIN_DIR)" ]] || ! command -v $(CARGO) >/dev/null || $(CARGO) build --quiet --profile dist -p update-engine --bins
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" BIN_DIR="$(BIN_DIR)" dist/install.sh

demo: deps ## the whole story on a virtual machine: update, power cuts, tampered release, unhealthy release that goes back by itself
	@$(CARGO) build --release --quiet --workspace --bins
	@integration/demo/run.sh "$(CACHE)/demo"

test: deps ## all tests, layer by layer; ends with "N passed, N failed, N skipped"
	@integration/test.sh

systems: deps ## more virtual machines: rarer faults, a whole Debian with systemd, and what the demo tells
	@integration/test.sh systems

bench: deps ## install speed, memory and idleness, as ratios to limits measured in the same run
	@integration/bench.sh "$(CACHE)"

bench-sizes: deps ## sizes of deltas and full payloads on real images, beside zstd --patch-from and xdelta3
	@integration/bench/sizes.sh "$(CACHE)"

bugs: deps ## plant known bugs one at a time and expect the tests to catch each
	@integration/bugs/run.sh

bugs-recorded: deps ## plant bugs that only a recorded disk can show, some minutes for each
	@$(CARGO) build --quiet --workspace --bins
	@integration/bugs/recorded.sh

cuts: deps ## power cuts, a long campaign: make cuts LOADER=systemd-boot CUTS=200000 BOOT=300 SEED=1
	@$(CARGO) build --release --quiet --workspace --bins
	@"$${CARGO_TARGET_DIR:-target}/release/cuts" --loader $(or $(LOADER),grub) --cuts $(or $(CUTS),200000) --boot $(or $(BOOT),300) \
	    --seed $(or $(SEED),1) --recording "$(CACHE)/cuts/$(or $(LOADER),grub)"

fuzz: ## run one fuzz target: make fuzz TARGET=omaha_response (half an hour of CPU, or CPU=seconds; needs a nightly toolchain and cargo-fuzz)
	@fuzz/run.sh "$(TARGET)" $(CPU)

clean: ## remove build output (not the image cache)
	@$(CARGO) clean
