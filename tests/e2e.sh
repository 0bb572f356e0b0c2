#!/usr/bin/env bash
# Every test that makes real nodes on this machine, first of all a cluster from nothing; needs root.
#
#   e2e.sh KPROV ARTIFACTS LINE [TESTS…]   called by `make e2e` and `make faults`; LINE is a release line of Kubernetes, as 1.36
set -euo pipefail
cd "$(dirname "$0")/.."
KPROV=$(realpath "$1")
KPROV_ARTIFACTS=$(realpath "$2")
line=$3
# There may be other releases of the line: that of its module is the one that clusters are made of.
KPROV_KUBE_VERSION=$(sed -n 's|.*k8s.io/kubernetes v\([0-9.]*\).*|\1|p' "tests/artifacts/kubernetes-$line/go.mod")
[ -d "$KPROV_ARTIFACTS/dl.k8s.io/v$KPROV_KUBE_VERSION" ] || { echo "no Kubernetes $KPROV_KUBE_VERSION in $KPROV_ARTIFACTS" >&2; exit 1; }
export KPROV KPROV_ARTIFACTS KPROV_KUBE_VERSION KPROV_E2E=1

# The modules that look at KPROV_E2E; one test at a time, for each has the machine's two processors to itself.
modules=("${@:4}")
[ $# -gt 3 ] || mapfile -t modules < <(grep -l KPROV_E2E tests/it/*.rs | sed 's|.*/\(.*\)\.rs|\1::|')
cargo test --test it -- --nocapture --test-threads=1 "${modules[@]}"
