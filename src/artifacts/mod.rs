//! Artifacts: release files of upstream projects and images, from where they are listed to a verified plain file.
//!
//! The catalogue and the sources are variables (`group_vars/all/artifacts.yml`, `checksums.yml`). [`Catalog::resolve`]
//! says without any network which files an artifact can be had from and which digest each source is held to. The
//! [`Store`] downloads, verifies, caches and unpacks when somebody asks for the bytes. Nothing here talks to a node.

mod cache;
mod catalog;
mod digest;
mod download;
mod error;
mod extract;
mod source;
mod store;

pub use cache::{Opened, cache_dir};
pub use catalog::{Artifact, Candidate, Catalog, Location, Lookup, Resolved};
pub use digest::{Algorithm, Digest};
pub use error::ArtifactError;
pub use source::{LIST, Source};
pub use store::{Store, Unreachable};

/// The architecture in upstream's file names for a machine name of uname(2) (`ansible_architecture`).
pub fn architecture(machine: &str) -> Option<&'static str> {
    match machine {
        "x86_64" | "amd64" => Some("amd64"),
        "aarch64" | "arm64" => Some("arm64"),
        _ => None,
    }
}
