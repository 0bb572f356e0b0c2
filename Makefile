# make test   everything that needs no node            make e2e    a real cluster on lab nodes
# make demo   the README's main job                    make bench  the numbers
# make lint   fmt, clippy, deny

SHELL := /bin/bash
TARGET := x86_64-unknown-linux-gnu
# A host with what is built here; outside the checkout, so that a fresh one is quick too.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kprov
LAB_ARTIFACTS ?= $(CACHE)/lab-artifacts
export CARGO_TARGET_DIR ?= $(CURDIR)/target
KPROV := $(CARGO_TARGET_DIR)/release/kprov

.PHONY: build agent test e2e demo bench lint packages artifacts clean-lab

build: agent
	cargo build --release --bin kprov

# Small and static: it runs on any Linux node of its architecture. Beside kprov, where kprov looks for it.
agent:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile agent --no-default-features --bin kprov-agent --target $(TARGET)
	mkdir -p $(CARGO_TARGET_DIR)/release
	install -m 0755 $(CARGO_TARGET_DIR)/$(TARGET)/agent/kprov-agent $(CARGO_TARGET_DIR)/release/kprov-agent

test:
	cargo test
