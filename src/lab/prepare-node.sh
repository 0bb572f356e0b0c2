#!/bin/sh
# Runs inside a lab node before its other units: done from outside it would race with units that start at once.
set -eu

# Volumes and secrets that kubelet mounts have to reach the containers, and mounts in containers have to come back.
mount --make-rshared /

# systemd-nspawn mounts cgroup v1 controllers read-only, and a mount of such a hierarchy cannot be remounted writable.
# What is mounted again has the node's own cgroup as its root, as before.
while read -r _ target kind options _; do
    case $kind,$options, in
    cgroup,ro,*)
        controllers=${target##*/}
        umount "$target"
        mount -t cgroup -o "nosuid,nodev,noexec,$controllers" cgroup "$target"
        ;;
    esac
done <<EOF
$(cat /proc/self/mounts)
EOF
