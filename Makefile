# make test   everything that needs no node            make e2e    a real cluster on lab nodes, and what it has to do
# make demo   the README's main job                    make bench  the numbers
# make faults every kind of fault at every boundary between tasks (2 h)     make fidelity   plans against applies, of make e2e
# make lint   fmt, clippy, deny

SHELL := /bin/bash
# Slow to make and the same for every checkout: outside of it.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kprov
ARTIFACTS ?= $(CACHE)/lab-artifacts
LINE ?= 1.36
OTHERS := $(notdir $(wildcard $(addprefix tests/artifacts/,kubernetes-$(LINE).* containerd-* cni-plugins-*)))
TOOLS := $(CACHE)/tools
DENY := 0.20.2
export PATH := $(TOOLS)/bin:$(PATH)
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR ?= $(CURDIR)/target
KPROV := $(CARGO_TARGET_DIR)/release/kprov
INVENTORY := inventory/lab/inventory.ini

PACKAGES := gcc pkg-config libseccomp-dev busybox-static debootstrap systemd-container iproute2 iptables openssh-client openssh-server sudo

.PHONY: build agent packages artifacts versions demo test e2e faults fidelity bench lint deny

build: agent
	cargo build --release --bin kprov

# Small and static, so that it runs on any Linux of its architecture; beside kprov, where kprov looks for it.
agent:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile agent --no-default-features --bin kprov-agent --target $(TARGET)
	mkdir -p $(CARGO_TARGET_DIR)/release
	install -m 0755 $(CARGO_TARGET_DIR)/$(TARGET)/agent/kprov-agent $(CARGO_TARGET_DIR)/release/kprov-agent

packages:
	@dpkg-query -W -f '$${Status}\n' $(PACKAGES) 2>/dev/null | grep -cx 'install ok installed' | grep -qx $(words $(PACKAGES)) || \
	    (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q $(PACKAGES))

# What a cluster is made of: upstream's releases where they can be reached, else the same programs built from their Go modules.
artifacts: packages
	@tests/artifacts/reachable.sh || tests/artifacts/build.sh $(ARTIFACTS) $(LINE)

# These, and the versions that tests change to. Tests read them, so they are built wherever upstream is.
versions: packages
	@tests/artifacts/build.sh $(ARTIFACTS) $(LINE) $(OTHERS)

demo: packages
	tests/demo.sh $(KPROV) $(INVENTORY) $(ARTIFACTS)

test: packages
	cargo test

e2e: packages versions build
	tests/e2e.sh $(KPROV) $(ARTIFACTS) $(LINE)

# make faults KPROV_FAULT_SEED=7 repeats what was printed with that seed; tests/it/faults.rs has the other variables.
faults: packages artifacts build
	KPROV_FAULT_STEPS=$${KPROV_FAULT_STEPS:-1} KPROV_FAULT_CHAINS=$${KPROV_FAULT_CHAINS:-1-8} \
	    tests/e2e.sh $(KPROV) $(ARTIFACTS) $(LINE) faults::

fidelity: packages versions build
	tests/e2e.sh $(KPROV) $(ARTIFACTS) $(LINE) fidelity::

bench: packages artifacts build
	tests/bench/run.sh $(KPROV) $(ARTIFACTS)

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features --bin kprov-agent -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo fetch --locked -q && cargo deny --offline check bans licenses sources; \
	 else echo "cargo-deny is not installed (make deny): licences, bans and sources were not checked"; fi

# Compiled once and kept; it takes minutes, and not without end. Advisories are not checked: their database is a git
# repository, out of reach where only package registries are.
deny:
	@command -v cargo-deny >/dev/null || CARGO_TARGET_DIR=$(CACHE)/target/deny timeout 1500 \
	    cargo install cargo-deny --locked --version $(DENY) --root $(TOOLS) || echo "cargo-deny could not be installed"
