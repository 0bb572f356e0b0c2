#!/usr/bin/env bash
# Hosts that are an sshd each, in a network namespace and on a file system of their own (an overlay of this machine's).
#
#   hosts.sh up N DIR      makes them, and DIR/inventory.ini        (root; 10.99.7.0/24 on a bridge of its own, nothing routed)
#   hosts.sh down N DIR    removes them
set -euo pipefail
verb=$1 count=$2 dir=$(realpath -m "$3")
subnet=10.99.7

down() {
    [ ! -s "$dir/pids" ] || xargs kill < "$dir/pids" 2> /dev/null || true
    for n in $(seq "$count"); do ip netns del "kdrift$n" 2> /dev/null || true; done
    ip link del kdrift 2> /dev/null || true
    umount -l "$dir/roots" 2> /dev/null || true
}

up() {
    down
    mkdir -p "$dir/roots"
    mount -t tmpfs tmpfs "$dir/roots"
    : > "$dir/pids"
    ip link add kdrift type bridge
    ip addr add "$subnet.254/24" dev kdrift
    ip link set kdrift up
    [ -f "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
    [ -f "$dir/host_key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
    cp "$dir/key.pub" "$dir/authorized_keys"
    echo "$subnet.* $(cut -d' ' -f1,2 < "$dir/host_key.pub")" > "$dir/known_hosts"
    cat > "$dir/sshd_config" <<-END
	HostKey $dir/host_key
	AuthorizedKeysFile $dir/authorized_keys
	StrictModes no
	PermitRootLogin prohibit-password
	PasswordAuthentication no
	UsePAM no
	UseDNS no
	PidFile none
	END
    echo '[all]' > "$dir/inventory.ini"
    for n in $(seq "$count"); do
        root=$dir/roots/$n
        mkdir -p "$root"/{upper,work,merged}
        ip netns add "kdrift$n"
        ip link add "kdrift$n" type veth peer name eth0 netns "kdrift$n"
        ip link set "kdrift$n" master kdrift up
        ip -n "kdrift$n" addr add "$subnet.$n/24" dev eth0
        ip -n "kdrift$n" link set lo up
        ip -n "kdrift$n" link set eth0 up
        ip -n "kdrift$n" route add default via "$subnet.254"
        ip netns exec "kdrift$n" unshare --mount --propagation private bash -c '
            mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/merged"
            for there in proc sys dev; do mount --rbind "/$there" "$1/merged/$there"; done
            mount -t tmpfs tmpfs "$1/merged/run"
            mkdir -p "$1/merged/run/sshd" "$1/merged$2"
            mount --bind "$2" "$1/merged$2"
            exec chroot "$1/merged" /usr/sbin/sshd -D -f "$2/sshd_config"' hosts "$root" "$dir" &
        echo $! >> "$dir/pids"
        echo "d$n ansible_host=$subnet.$n ansible_user=root ansible_ssh_private_key_file=$dir/key" \
            "ansible_ssh_common_args='-o UserKnownHostsFile=$dir/known_hosts'" >> "$dir/inventory.ini"
    done
    disown -a
    for n in $(seq "$count"); do
        for _ in $(seq 300); do
            (: < "/dev/tcp/$subnet.$n/22") 2> /dev/null && continue 2
            sleep 0.1
        done
        echo "no sshd at $subnet.$n after 30 s" >&2
        return 1
    done
}

"$verb"
