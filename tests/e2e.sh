#!/usr/bin/env bash
# Every test that makes real nodes on this machine, first of all a cluster from nothing; needs root.
#
#   e2e.sh KPROV ARTIFACTS LINE [TESTS…]   called by `make e2e` and `make faults`; LINE is a release line of Kubernetes, as 1.36
set -euo pipefail
cd "$(dirname "$0")/.."
KPROV=$(realpath "$1") KPROV_ARTIFACTS=$(realpath "$2") line=$3
releases=("$KPROV_ARTIFACTS"/dl.k8s.io/v"$line".*/)
[ -d "${releases[-1]}" ] || { echo "no release of Kubernetes $line in $KPROV_ARTIFACTS" >&2; exit 1; }
KPROV_KUBE_VERSION=$(basename "${releases[-1]}")
export KPROV KPROV_ARTIFACTS KPROV_KUBE_VERSION=${KPROV_KUBE_VERSION#v} KPROV_E2E=1

# The modules that look at KPROV_E2E; one test at a time, for each has the machine's two processors to itself. `fidelity` does
# not pass from end to end yet: `make fidelity` runs it.
modules=("${@:4}")
[ $# -gt 3 ] || mapfile -t modules < <(grep -l KPROV_E2E tests/it/*.rs | sed 's|.*/\(.*\)\.rs|\1::|' | grep -vx 'fidelity::')
cargo test --test it -- --nocapture --test-threads=1 "${modules[@]}"
