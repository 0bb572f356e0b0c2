//! Members of archives: unpacked once into the cache, with a list of their digests beside them.

use super::cache::{Cache, Opened};
use super::digest::{Algorithm, Digest, Hasher};
use super::error::ArtifactError;
use super::source::{LIST, parse_list};
use crate::source::{Source, near_miss};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The member as a verified plain file; unpacks it, and `others` in the same pass, where that was not done yet.
pub fn member(
    cache: &Cache,
    archive: &Opened,
    digest: &Digest,
    member: &str,
    others: &[String],
) -> Result<Opened, ArtifactError> {
    let directory = cache.members(digest);
    let list = directory.join(LIST);
    let known: BTreeMap<String, Digest> = Source::read(&list)
        .ok()
        .and_then(|file| parse_list(&file).ok())
        .map(|list| list.into_iter().collect())
        .unwrap_or_default();
    // A member that somebody damaged is unpacked again, like one that is not there.
    let intact = |name: &str| match known.get(name) {
        Some(expected) => Ok(cache.verify(&directory.join(name), expected)?.and_then(Result::ok)),
        None => Ok(None),
    };
    if let Some(opened) = intact(member)? {
        return Ok(opened);
    }
    let mut wanted: BTreeSet<&str> = others.iter().map(String::as_str).filter(|o| !known.contains_key(*o)).collect();
    wanted.insert(member);
    let mut list_of = known.clone();
    let unpacked = unpack(cache, archive, &directory, &wanted)?;
    for (name, opened) in &unpacked {
        if let Some(digest) = Digest::sha256(&opened.sha256) {
            list_of.insert(name.clone(), digest);
        }
    }
    let mut file = cache.temporary(&list)?;
    for (name, digest) in &list_of {
        writeln!(file, "{}  {name}", digest.hex()).map_err(ArtifactError::io(&list))?;
    }
    file.persist(&list).map_err(|e| ArtifactError::io(&list)(e.error))?;
    unpacked
        .into_iter()
        .find(|(name, _)| name == member)
        .map(|(_, opened)| opened)
        .ok_or_else(|| ArtifactError::NoMember { archive: archive.path.clone(), member: member.to_owned(), near: None })
}

/// Unpacks the wanted members; all of them have to be there.
fn unpack(
    cache: &Cache,
    archive: &Opened,
    directory: &Path,
    wanted: &BTreeSet<&str>,
) -> Result<Vec<(String, Opened)>, ArtifactError> {
    let broken = |source| ArtifactError::Archive { archive: archive.path.clone(), source };
    let mut tar = tar::Archive::new(reader(&archive.path)?);
    let mut unpacked = Vec::new();
    let mut seen = Vec::new();
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(broken)?.to_string_lossy().trim_start_matches("./").to_owned();
        if !wanted.contains(name.as_str()) {
            seen.push(name);
            continue;
        }
        let path = directory.join(&name);
        let mut file = cache.temporary(&path)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = entry.read(&mut buffer).map_err(broken)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(ArtifactError::io(&path))?;
        }
        let hashed = hasher.finish();
        file.persist(&path).map_err(|e| ArtifactError::io(&path)(e.error))?;
        unpacked.push((name, Opened { path, sha256: hashed.sha256, size: hashed.size }));
        if unpacked.len() == wanted.len() {
            break;
        }
    }
    match wanted.iter().find(|name| !unpacked.iter().any(|(done, _)| done == *name)) {
        None => Ok(unpacked),
        Some(missing) => Err(ArtifactError::NoMember {
            archive: archive.path.clone(),
            member: (*missing).to_owned(),
            near: near_miss(missing, seen.iter().map(String::as_str)).map(str::to_owned),
        }),
    }
}

/// The archive's bytes, decompressed where they begin as gzip does (RFC 1952, 2.3.1).
fn reader(path: &Path) -> Result<Box<dyn Read>, ArtifactError> {
    let mut file = File::open(path).map_err(ArtifactError::io(path))?;
    let mut magic = Vec::new();
    Read::by_ref(&mut file).take(2).read_to_end(&mut magic).map_err(ArtifactError::io(path))?;
    file.seek(SeekFrom::Start(0)).map_err(ArtifactError::io(path))?;
    let file = BufReader::with_capacity(256 << 10, file);
    Ok(if magic == [0x1f, 0x8b] { Box::new(flate2::bufread::MultiGzDecoder::new(file)) } else { Box::new(file) })
}
