#!/bin/sh
# Runs one lab node until it is switched off; a reboot from inside starts it again. Written and started by kprov, which need
# not stay: no kprov process watches a node. Everything comes in the environment (src/lab/node.rs). $LOOP_CGROUPS and
# $BOOT_CGROUPS are lists of directories without blanks.
set -u
cd "$NODE_DIR" || exit 1

join() {
    for dir in $1; do echo 0 >"$dir/cgroup.procs" || exit 1; done
}

# Like a machine that is switched on: no cgroups, addresses, routes or packet filter rules of the last time.
forget() {
    for dir in $BOOT_CGROUPS; do
        find "$dir" -mindepth 1 -depth -type d -delete
        [ -e "$dir/cgroup.subtree_control" ] || continue
        for controller in $(cat "$dir/cgroup.subtree_control"); do echo "-$controller" >"$dir/cgroup.subtree_control"; done
    done
    [ ! -e "/sys/class/net/$LINK" ] || ip link delete "$LINK"
    [ ! -e "/run/netns/$LINK" ] || ip netns delete "$LINK"
}

# The address is there before the node's first unit runs. The MAC is fixed, as a machine's is.
plug_in() {
    ip netns add "$LINK" &&
        ip link add "$LINK" type veth peer name host0 address "$MAC" netns "$LINK" &&
        ip link set "$LINK" master "$BRIDGE" &&
        ip -netns "$LINK" -batch - <<EOF || return
link set lo up
address add $ADDRESS dev host0
link set host0 up
route add default via $GATEWAY
EOF
    [ -e link-is-cut ] || ip link set "$LINK" up
}

join "$LOOP_CGROUPS"
# kprov reads our standard output to its end: from here on the node counts as running.
exec >&2
while :; do
    forget
    plug_in || break
    (
        join "$BOOT_CGROUPS"
        exec systemd-nspawn "$@"
    ) &
    nspawn=$!
    # cgroup v2: the node sees the limit in a cgroup that systemd-nspawn makes.
    if [ -n "$LIMIT" ]; then
        until cat "$LIMIT" >"$VISIBLE_LIMIT" || ! kill -0 "$nspawn"; do sleep 0.05; done 2>/dev/null
    fi
    wait "$nspawn"
    # 133 is a reboot: systemd-nspawn(1) leaves that to the service manager when it runs with --keep-unit.
    [ $? -eq 133 ] || break
done
forget
