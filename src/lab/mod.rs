//! Throwaway nodes on this machine that behave like machines: `kprov lab`.
//!
//! A node is a container of systemd-nspawn with systemd as PID 1, sshd, an address and host keys of its own, cgroups of its
//! own with a memory limit, and a disk that survives stop, start and reboot and can be small. Its link can be cut. Nothing in kprov but this
//! module knows about labs: what comes out is an inventory directory like any other ([`inventory`]).
//!
//! Reading order: [`up`] is the table of contents; then `plan` (what was asked + what exists -> [`state::Lab`], pure),
//! `rootfs` (the disk that all nodes share as lower layer), `network`, `cgroup`, `node` (and `boot.sh`, the loop that a node
//! runs in), [`down`].
//!
//! # What is inside a node
//! The release of this machine's own distribution with the packages in `rootfs`; user `kprov` (uid 1000, key only, sudo
//! without a password); `/var/lib/{containerd,etcd,kubelet}` are plain directories, so that overlayfs works on them;
//! `/proc/sys` and `/sys` are writable and *not private*: a sysctl outside of `net.*` is the machine's own.
//!
//! # What a fact gatherer must read for the memory
//! `/proc/meminfo` shows the machine's memory. A node's memory is the smaller of its `MemTotal` and the limit of the
//! node's own root cgroup, seen inside as `/sys/fs/cgroup/memory/memory.limit_in_bytes` (cgroup v1; "no limit" is a number
//! near 2^63) or `/sys/fs/cgroup/memory.max` (v2; "no limit" is `max`; the file is absent on a machine of its own).

mod cgroup;
mod command;
mod disk;
mod down;
mod error;
mod exec;
mod inventory;
mod mounts;
mod names;
mod network;
mod node;
mod plan;
mod rootfs;
mod size;
mod state;
mod status;
mod sysctl;
mod up;

pub use down::down;
pub use error::LabError;
pub use exec::exec;
pub use names::LabName;
pub use plan::Request;
pub use size::{Size, SizeFor};
pub use state::{Lab, NodeSpec};
pub use status::{LinkState, NodeState, NodeStatus, set_link, start, status, stop};
pub use up::up;

/// Where an operation says, one lower-case fragment at a time, what takes long.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);
