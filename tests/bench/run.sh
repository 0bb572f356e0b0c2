#!/usr/bin/env bash
# The numbers: a cluster on three fresh lab nodes, stage by stage; 100 small tasks on five against ansible-core; the drift
# report of 100 hosts against ssh.
#
#   run.sh KPROV ARTIFACTS [cluster|compare|drift]        called by `make bench`; all parts unless one is named
set -euo pipefail
kprov=$(realpath "$1") artifacts=$(realpath -m "$2") part=${3:-all}
cd "$(dirname "$0")"
venv=${XDG_CACHE_HOME:-$HOME/.cache}/kprov/bench-venv
# A release, so that the numbers of two runs can be compared.
ansible=2.19.14
dir=$(mktemp -d) status=0

clean() {
    for lab in bench3 bench5; do
        [ ! -d "$dir/$lab" ] || "$kprov" lab down --name "$lab" >&2 || true
    done
    [ ! -d "$dir/hosts" ] || ./hosts.sh down 100 "$dir/hosts" || true
    rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

cannot() {
    echo "CANNOT RUN HERE: $*"
    status=1
}

# Nodes that are left over are not fresh.
lab() {
    "$kprov" lab down --name "$1" > /dev/null 2>&1 || true
    mkdir -p "$dir/$1"
    "$kprov" lab up --name "$1" --nodes "$2" --memory "$3" --dir "$dir/$1"
}

echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), load $(cut -d' ' -f1-3 /proc/loadavg); $kprov"

if [ "$part" = all ] || [ "$part" = cluster ]; then
    if [ ! -f "$artifacts/SHA256SUMS" ]; then
        cannot "the cluster: no artifacts in $artifacts; \`make artifacts\` builds them"
    elif ! lab bench3 3 3G; then
        cannot "the cluster: \`kprov lab up\` failed"
    else
        python3 -uB cluster.py "$kprov" "$dir/bench3/inventory.ini" "$artifacts" || status=1
    fi
    "$kprov" lab down --name bench3 > /dev/null || true
    rm -rf "$dir/bench3"
fi

if [ "$part" = all ] || [ "$part" = compare ]; then
    if ! "$venv/bin/ansible" --version 2> /dev/null | grep -qF "core $ansible"; then
        python3 -m venv "$venv" && "$venv/bin/pip" install -q "ansible-core==$ansible" || rm -rf "$venv"
    fi
    if ! [ -x "$venv/bin/ansible-playbook" ]; then
        cannot "the comparison: pip cannot install ansible-core $ansible into $venv"
    elif ! lab bench5 5 512M; then
        cannot "the comparison: \`kprov lab up\` failed"
    else
        python3 -uB compare.py "$kprov" "$venv/bin/ansible-playbook" "$dir/bench5/inventory.ini" || status=1
    fi
fi

if [ "$part" = all ] || [ "$part" = drift ]; then
    if ./hosts.sh up 100 "$dir/hosts"; then
        python3 -uB drift.py "$kprov" "$dir/hosts" 50 || status=1
    else
        cannot "the drift report: 100 sshd in namespaces of their own could not be started"
    fi
fi
exit "$status"
