//! The controller's cache: where files are kept, and which files on this machine were found to have which digest.
//!
//! Reading some hundred megabytes on each run only to find them unchanged would be most of a run that changes nothing.
//! So the digests of a file are remembered together with its size, times, inode and device; a file of which any of these
//! differs is read again. (The change time cannot be set by who may only write the file.)

use super::digest::{Algorithm, Digest, Hashed, Hasher, hex};
use super::error::ArtifactError;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How long a file has to be left alone before its digests are remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// `$XDG_CACHE_HOME/kprov/artifacts`, by default below `~/.cache`. `None` where there is no home directory.
pub fn cache_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .map(|path| path.join("kprov/artifacts"))
}

#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A file whose content is what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub path: PathBuf,
    /// In hex.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    stat: [i64; 7],
    sha256: String,
    sha512: Option<String>,
}

impl Cache {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the file with that digest is kept.
    pub fn file(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().name()).join(digest.hex())
    }

    /// Where the members of the archive with that digest are kept.
    pub fn members(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().name()).join(format!("{}.d", digest.hex()))
    }

    /// A new file that becomes visible only under the name that it is persisted to.
    pub fn temporary(&self, beside: &Path) -> Result<tempfile::NamedTempFile, ArtifactError> {
        let directory = beside.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(directory).map_err(ArtifactError::io(directory))?;
        tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(ArtifactError::io(directory))
    }

    /// Compares the file with the digest: the verified file, or the digest that it has. `None`: there is no such file.
    pub fn verify(&self, path: &Path, expected: &Digest) -> Result<Option<Result<Opened, Digest>>, ArtifactError> {
        let hashed = match self.hash(path, expected.algorithm()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(ArtifactError::io(path))?,
        };
        Ok(Some(hashed.check(expected).map(|()| Opened {
            path: path.to_owned(),
            sha256: hashed.sha256,
            size: hashed.size,
        })))
    }

    fn hash(&self, path: &Path, algorithm: Algorithm) -> std::io::Result<Hashed> {
        let mut file = File::open(path)?;
        let before = file.metadata()?;
        if !before.is_file() {
            return Err(std::io::Error::other("not a plain file"));
        }
        let memory = self.memory(path);
        if let Some(found) = recall(&memory, &before)
            && found.has(algorithm)
        {
            return Ok(found);
        }
        let hashed = Hasher::read(algorithm, &mut file)?;
        // Written to while it was read: what was hashed may never have been there at once.
        if stat(&file.metadata()?) != stat(&before) {
            return Err(std::io::Error::other("the file changed while it was read"));
        }
        self.remember(&memory, &before, &hashed);
        Ok(hashed)
    }

    fn memory(&self, path: &Path) -> PathBuf {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = hex(&sha2::Sha256::digest(absolute.as_os_str().as_bytes()));
        self.root.join("verified").join(name)
    }

    /// A memory that cannot be written (a full disk) only costs the next run its time. A file that was changed a moment
    /// ago is not remembered: another change within the same tick of the file system's clock could not be told from it.
    fn remember(&self, memory: &Path, metadata: &Metadata, hashed: &Hashed) {
        let changed = UNIX_EPOCH + Duration::new(metadata.ctime().max(0).unsigned_abs(), 0);
        if !changed.elapsed().is_ok_and(|age| age >= SETTLED) {
            return;
        }
        let note = Remembered { stat: stat(metadata), sha256: hashed.sha256.clone(), sha512: hashed.sha512.clone() };
        let write = || -> Option<()> {
            let text = serde_json::to_vec(&note).ok()?;
            let mut file = self.temporary(memory).ok()?;
            std::io::Write::write_all(&mut file, &text).ok()?;
            file.persist(memory).ok()?;
            Some(())
        };
        write();
    }
}

fn recall(memory: &Path, metadata: &Metadata) -> Option<Hashed> {
    let note: Remembered = serde_json::from_slice(&std::fs::read(memory).ok()?).ok()?;
    (note.stat == stat(metadata)).then_some(Hashed { sha256: note.sha256, sha512: note.sha512, size: metadata.len() })
}

fn stat(m: &Metadata) -> [i64; 7] {
    let size = m.len().cast_signed();
    [size, m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.ino().cast_signed(), m.dev().cast_signed()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_an_unchanged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cache"));
        let path = dir.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        let abc = Digest::sha256("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").unwrap();
        let memory = cache.memory(&path);
        // The first looks come too soon after the change to be remembered.
        while !memory.exists() {
            let opened = cache.verify(&path, &abc).unwrap().unwrap().unwrap();
            assert_eq!((opened.sha256.as_str(), opened.size), (abc.hex(), 3));
            std::thread::sleep(Duration::from_millis(50));
        }

        // Proof that the memory is used: with another digest in it, that one is reported.
        let text = std::fs::read_to_string(&memory).unwrap();
        let other = "00".repeat(32);
        std::fs::write(&memory, text.replace(abc.hex(), &other)).unwrap();
        assert_eq!(cache.verify(&path, &abc).unwrap().unwrap().unwrap_err().hex(), other);

        // The same size and the same modification time: the change time gives it away.
        let time = path.metadata().unwrap().modified().unwrap();
        std::fs::write(&path, "abd").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let found = cache.verify(&path, &abc).unwrap().unwrap().unwrap_err();
        assert!(found != abc && found.hex() != other);
        std::fs::write(&path, "abc").unwrap();
        assert!(cache.verify(&path, &abc).unwrap().unwrap().is_ok());
        assert_eq!(cache.verify(&dir.path().join("none"), &abc).unwrap(), None);
    }
}
