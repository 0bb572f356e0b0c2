//! A disk of limited size: an ext4 file system in a sparse file, through a loop device.
//!
//! `disk.img` in the node's directory appears complete; `disk` is where it is mounted. What is written to it is what it
//! takes on the machine. The loop device goes with the mount, and the file with the node's directory.

use super::command::run;
use super::{LabError, Size, mounts};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where the disk of the node with this directory is mounted.
pub fn mounted(node: &Path) -> PathBuf {
    node.join("disk")
}

/// Makes the disk where there is none, and mounts it.
pub fn ensure(node: &Path, size: Size) -> Result<(), LabError> {
    let (image, target) = (node.join("disk.img"), mounted(node));
    fs::create_dir_all(&target).map_err(LabError::io(&target))?;
    if mounts::is_mounted(&target)? {
        return Ok(());
    }
    if !image.exists() {
        let partial = node.join("disk.img.partial");
        let file = File::create(&partial).and_then(|file| file.set_len(size.0));
        file.map_err(LabError::io(&partial))?;
        // No blocks that only root may use: for root the disk would then never be full.
        run("mkfs.ext4", ["-q", "-m", "0", "-E", "lazy_itable_init=1", &partial.to_string_lossy()])?;
        fs::rename(&partial, &image).map_err(LabError::io(&image))?;
    }
    run("mount", ["-t", "ext4", "-o", "loop", &image.to_string_lossy(), &target.to_string_lossy()]).map(drop)
}
