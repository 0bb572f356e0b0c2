#!/usr/bin/env bash
# The README's main job on this machine: three lab nodes, and a cluster on them.
#
#   demo.sh KPROV INVENTORY ARTIFACTS        called by `make demo`
set -euo pipefail
cd "$(dirname "$0")/.."
kprov=$1 inventory=$2 artifacts=$3
dir=$(dirname "$inventory")

# Programs and artifacts are made at the same time; both are quick when nothing has changed.
make --no-print-directory artifacts ARTIFACTS="$artifacts" &
making=$!
make --no-print-directory build
wait "$making"

"$kprov" lab up --name lab --nodes 3 --dir "$dir"
if ! tests/artifacts/reachable.sh; then
    # Where artifacts come from is data: this directory is asked first.
    printf '%s\n' '# Written by `make demo`: upstream cannot be reached from here.' \
        "artifact_sources: [$artifacts, upstream]" > "$dir/group_vars/all/artifacts.yml"
fi
"$kprov" apply -i "$inventory"

# The nodes bring kubectl with them; it works as well from here, with the same file.
"$kprov" lab exec n1 -- kubectl --kubeconfig /dev/stdin get nodes -o wide < "$dir/artifacts/admin.conf"
echo "kubeconfig: $dir/artifacts/admin.conf; \`kprov lab down\` removes the nodes"
