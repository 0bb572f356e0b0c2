#!/bin/sh
# The first process of a lab node: makes a machine of the container, then becomes systemd. Later would be a race with units
# that start at once, and after a reboot the mounts would be busy.
set -eu
mount --make-rprivate /

# systemd-nspawn mounted /sys before it entered the node's network namespace: /sys/class/net shows the machine's interfaces.
mkdir /run/sys
mount -t sysfs -o nosuid,nodev,noexec sysfs /run/sys
mount --move /sys/fs/cgroup /run/sys/fs/cgroup
umount --recursive /sys
mount --move /run/sys /sys
rmdir /run/sys

# Controllers of cgroup v1 are mounted read-only, and such a mount cannot be made writable. What is mounted instead has the
# node's own cgroup as its root, too.
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

# Volumes and secrets that kubelet mounts have to reach the containers, and mounts in containers have to come back.
mount --make-rshared /
exec /sbin/init
