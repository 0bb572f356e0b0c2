#!/usr/bin/env bash
# Builds the artifacts of a cluster from the Go modules that are declared beside this script, for machines that reach a
# Go module proxy but not the upstream release sites.
#
#   build.sh DIR [MODULE ...]        e.g. build.sh ~/.cache/kprov/lab-artifacts 1.36 containerd-2.3.5
#
# MODULE is a directory beside this script that a cluster can do without: another version of what is built in any case, or
# Kubernetes, of which the release line is enough (1.36). DIR gets the layout of an artifact mirror: the upstream URL
# without its scheme is the path, and SHA256SUMS lists the digests. What DIR already holds for the same go.mod and go.sum
# is not built again. Needs: go, gcc, pkg-config, libseccomp-dev, busybox-static.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
releases=() versions=()
for module in "${@:-1.36}"; do
    case $module in [0-9]*) module=kubernetes-$module ;; esac
    [ -d "$here/$module" ] || { echo "no module $module in $here" >&2; exit 1; }
    case $module in
        kubernetes-*) releases+=("$module") ;;
        *) versions+=("$module") ;;
    esac
done
arch=$(go env GOARCH)
work=$(mktemp -d)
# With job control each background job is a process group: nothing that it started outlives this script.
set -m
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done; wait || true; rm -rf "$work"' EXIT
export GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0 GOTOOLCHAIN=local

# fresh MODULE PATH: is PATH there, made from exactly this build script and these module files?
fresh() {
    local stamp="$out/.built/$1"
    sum=$(cat "$0" "$here/$1"/go.* "$here/$1"/*.go 2>/dev/null | sha256sum | cut -d' ' -f1)
    [ -f "$out/$2" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return 0
    echo "building $1 -> $2" >&2
    return 1
}
built() { mkdir -p "$out/.built" && echo "$sum" > "$out/.built/$1"; }

# archive PATH DIR MEMBER...: a tar.gz whose bytes depend on its content alone
archive() {
    local path="$out/$1" dir=$2
    shift 2
    mkdir -p "$(dirname "$path")"
    tar -C "$dir" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - "$@" | gzip -n1 > "$path.part"
    mv "$path.part" "$path"
}

# image PATH NAME BINARY_DIR CONFIG: a docker-archive with one layer
image() {
    local path="$out/$1" name=$2 root=$3 config=$4 layer id
    rm -rf "$work/image" && mkdir -p "$work/image" "$(dirname "$path")"
    tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/image/layer.tar" .
    layer=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$arch" "$config" "$layer" > "$work/image/config.json"
    id=$(sha256sum "$work/image/config.json" | cut -d' ' -f1)
    mv "$work/image/config.json" "$work/image/$id.json"
    printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$id" "$name" > "$work/image/manifest.json"
    tar -C "$work/image" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$path.part" .
    mv "$path.part" "$path"
}

version() { (cd "$here/$1" && go list -m -f '{{.Version}}' "$2"); }

kubernetes() {
    local module=$1 v path minor x
    v=$(version "$module" k8s.io/kubernetes)
    path=dl.k8s.io/$v/kubernetes-server-linux-$arch.tar.gz
    if ! fresh "$module" "$path"; then
        mkdir -p "$work/$module/kubernetes/server/bin"
        minor=${v#v1.} minor=${minor%.*}
        x=k8s.io/component-base/version
        (cd "$here/$module" && go build -trimpath -o "$work/$module/kubernetes/server/bin/" -ldflags "-s -w \
            -X $x.gitVersion=$v -X $x.gitMajor=1 -X $x.gitMinor=$minor -X $x.gitTreeState=clean" tool)
        archive "$path" "$work/$module" kubernetes
        rm -rf "${work:?}/$module"
        built "$module"
    fi
}

containerd() {
    local module=$1 v path
    v=$(version "$module" github.com/containerd/containerd/v2)
    path=github.com/containerd/containerd/releases/download/$v/containerd-static-${v#v}-linux-$arch.tar.gz
    if ! fresh "$module" "$path"; then
        mkdir -p "$work/$module/bin"
        (cd "$here/$module" && go build -trimpath -o "$work/$module/bin/" -ldflags "-s -w \
            -X github.com/containerd/containerd/v2/version.Version=$v" tool)
        archive "$path" "$work/$module" bin
        built "$module"
    fi
}

cni-plugins() {
    local module=$1 v path
    v=$(version "$module" github.com/containernetworking/plugins)
    path=github.com/containernetworking/plugins/releases/download/$v/cni-plugins-linux-$arch-$v.tgz
    if ! fresh "$module" "$path"; then
        mkdir -p "$work/$module"
        (cd "$here/$module" && go build -trimpath -o "$work/$module/" -ldflags "-s -w \
            -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$v" tool)
        archive "$path" "$work/$module" .
        built "$module"
    fi
}

others() {
    local v path dir
    v=$(version etcd go.etcd.io/etcd/server/v3)
    path=github.com/etcd-io/etcd/releases/download/$v/etcd-$v-linux-$arch.tar.gz
    if ! fresh etcd "$path"; then
        dir=etcd-$v-linux-$arch
        mkdir -p "$work/$dir"
        (cd "$here/etcd" && go build -trimpath -ldflags "-s -w" -o "$work/$dir/" tool)
        mv "$work/$dir/server" "$work/$dir/etcd"
        archive "$path" "$work" "$dir"
        built etcd
    fi

    v=$(version runc github.com/opencontainers/runc)
    path=github.com/opencontainers/runc/releases/download/$v/runc.$arch
    if ! fresh runc "$path"; then
        mkdir -p "$(dirname "$out/$path")"
        (cd "$here/runc" && CGO_ENABLED=1 go build -trimpath -tags "netgo osusergo seccomp" -o "$work/runc" \
            -ldflags "-s -w -linkmode external -extldflags -static -X main.version=${v#v}" github.com/opencontainers/runc)
        mv "$work/runc" "$out/$path"
        built runc
    fi

    v=$(version coredns github.com/coredns/coredns)
    path=registry.k8s.io/coredns/coredns/$v-linux-$arch.tar
    if ! fresh coredns "$path"; then
        mkdir -p "$work/coredns/etc/ssl/certs"
        (cd "$here/coredns" && go build -trimpath -ldflags "-s -w" -o "$work/coredns/coredns" github.com/coredns/coredns)
        image "$path" "registry.k8s.io/coredns/coredns:$v" "$work/coredns" '{"Entrypoint":["/coredns"],"User":"65532:65532"}'
        built coredns
    fi

    # The sandbox image: our own program of the same behaviour under the name that containerd is told to use.
    path=registry.k8s.io/pause/3.10.1-linux-$arch.tar
    if ! fresh pause "$path"; then
        mkdir -p "$work/pause"
        (cd "$here/pause" && go build -trimpath -ldflags "-s -w" -o "$work/pause/pause" .)
        image "$path" registry.k8s.io/pause:3.10.1 "$work/pause" '{"Entrypoint":["/pause"],"User":"65535:65535"}'
        built pause
    fi

    # What the tests run in pods: a shell, an HTTP server and client, name look-up.
    path=kprov.test/busybox/1-linux-$arch.tar
    if ! [ -f "$out/$path" ]; then
        mkdir -p "$work/busybox"/{bin,etc,tmp,proc,sys,dev,root}
        cp "$(command -v busybox)" "$work/busybox/bin/busybox"
        for applet in $("$work/busybox/bin/busybox" --list); do
            [ "$applet" = busybox ] || ln -s busybox "$work/busybox/bin/$applet"
        done
        image "$path" kprov.test/busybox:1 "$work/busybox" '{"Cmd":["sh"],"Env":["PATH=/bin"]}'
    fi
}

# Two at a time: one downloads or links on one processor while the other compiles.
for module in "${releases[@]}"; do kubernetes "$module"; done &
first=$!
{
    others
    for module in containerd cni-plugins "${versions[@]}"; do "${module%-[0-9]*}" "$module"; done
} &
second=$!
wait "$first"
wait "$second"

(cd "$out" && find . -type f ! -path './.built/*' ! -name SHA256SUMS ! -name '*.part' -printf '%P\n' | sort |
    xargs sha256sum > SHA256SUMS.part && mv SHA256SUMS.part SHA256SUMS)
echo "artifacts: $out" >&2
