//! Reads bbolt databases, which are what containerd keeps its images in and etcd its members.
//!
//! <https://github.com/etcd-io/bbolt>, `internal/common`: a file of pages, of which two are meta pages. A commit writes its
//! pages where the commit before it has none, and then the older of the two meta pages. So nothing is locked: what was read
//! belongs to one commit if that is still the newest one afterwards. Numbers are little-endian here, as on every machine
//! that kprov runs on; bbolt writes those of its machine.

use crate::system::{Fs, Result, SystemError};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How often the database is read while it changes all the time.
const TRIES: usize = 10;
/// Deeper is no tree that bbolt makes.
const DEPTH: usize = 32;
const HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u64 = 1;
const LEAF: u64 = 2;
/// Of a leaf's element: its value is a bucket.
const BUCKET: u64 = 1;

/// Whether there is something at the end of `path`, which leads through buckets. `None` where no commit could be read.
pub fn has(fs: &Fs, file: &Path, path: &[&str]) -> Result<Option<bool>> {
    read(fs, file, |database| {
        let Some((last, buckets)) = path.split_last() else { return Some(true) };
        let Some(page) = database.bucket(buckets)? else { return Some(false) };
        Some(database.find(page, last.as_bytes())?.is_some())
    })
}

/// The values in a bucket, in the order of their keys; none where there is no such bucket. `None` as for [`has`].
pub fn values(fs: &Fs, file: &Path, path: &[&str]) -> Result<Option<Vec<Vec<u8>>>> {
    read(fs, file, |database| {
        let mut values = Vec::new();
        if let Some(page) = database.bucket(path)? {
            database.collect(&page, DEPTH, &mut values)?;
        }
        Some(values)
    })
}

fn read<T>(fs: &Fs, path: &Path, look: impl Fn(&Database<'_>) -> Option<T>) -> Result<Option<T>> {
    let file = fs.file(path)?;
    for _ in 0..TRIES {
        let Some(meta) = Meta::newest(&file).map_err(SystemError::file(path))? else { continue };
        let found = look(&Database { file: &file, page_size: meta.page_size, root: meta.root });
        if Meta::newest(&file).map_err(SystemError::file(path))?.is_some_and(|now| now.commit == meta.commit) {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Up to so many bytes from there: fewer at the end of the file.
fn bytes(file: &File, at: u64, size: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}

struct Meta {
    page_size: usize,
    /// The page of the root bucket.
    root: u64,
    commit: u64,
}

impl Meta {
    const MAGIC: u64 = 0xED0C_DAED;
    const SUMMED: usize = 56;
    const LARGEST_PAGE: usize = 1 << 16;

    /// That of the newest commit. The second meta page is one page size into the file.
    fn newest(file: &File) -> std::io::Result<Option<Self>> {
        let bytes = bytes(file, 0, 2 * Self::LARGEST_PAGE)?;
        let places = std::iter::once(0).chain((9..=16).map(|power| 1 << power));
        let metas = places.filter_map(|at| Self::read(&bytes, at).filter(|meta| at == 0 || at == meta.page_size));
        Ok(metas.max_by_key(|meta| meta.commit))
    }

    fn read(bytes: &[u8], page: usize) -> Option<Self> {
        let meta = bytes.get(page + HEADER..page + HEADER + Self::SUMMED + 8)?;
        // FNV-1a
        let sum = meta[..Self::SUMMED]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        let page_size = index(number(meta, 8, 4)?)?;
        let whole = number(meta, 0, 4)? == Self::MAGIC && number(meta, Self::SUMMED, 8)? == sum;
        (whole && page_size <= Self::LARGEST_PAGE).then_some(Self {
            page_size,
            root: number(meta, 16, 8)?,
            commit: number(meta, 48, 8)?,
        })
    }
}

/// One commit.
struct Database<'a> {
    file: &'a File,
    page_size: usize,
    root: u64,
}

impl Database<'_> {
    /// The first page of a bucket; an inner `None` where there is none.
    fn bucket(&self, path: &[&str]) -> Option<Option<Vec<u8>>> {
        let mut page = self.page(self.root)?;
        for name in path {
            let Some((true, value)) = self.find(page, name.as_bytes())? else { return Some(None) };
            // Of a small bucket the one page is in the value, behind the bucket's header.
            page = match number(&value, 0, 8)? {
                0 => value.get(HEADER..)?.to_vec(),
                root => self.page(root)?,
            };
        }
        Some(Some(page))
    }

    /// A page with those that it runs over into.
    fn page(&self, number_of: u64) -> Option<Vec<u8>> {
        let at = number_of.checked_mul(self.page_size as u64)?;
        let page = bytes(self.file, at, self.page_size).ok()?;
        match index(number(&page, 12, 4)?)? {
            0 => Some(page),
            more => {
                let size = (more + 1).checked_mul(self.page_size)?;
                (at + size as u64 <= self.file.metadata().ok()?.len()).then_some(())?;
                bytes(self.file, at, size).ok()
            }
        }
    }

    /// The value of a key and whether that is a bucket; an inner `None` where there is no such key.
    fn find(&self, mut page: Vec<u8>, key: &[u8]) -> Option<Option<(bool, Vec<u8>)>> {
        for _ in 0..DEPTH {
            let below = match Elements::of(&page)? {
                Elements::Leaf(elements) => {
                    let found = elements.into_iter().find(|(_, name, _)| *name == key);
                    return Some(found.map(|(is_bucket, _, value)| (is_bucket, value.to_vec())));
                }
                // A branch names the first key of each page below it.
                Elements::Branch(elements) => {
                    let after = elements.iter().skip(1).position(|(name, _)| *name > key);
                    elements.get(after.unwrap_or(elements.len().checked_sub(1)?))?.1
                }
            };
            page = self.page(below)?;
        }
        None
    }

    fn collect(&self, page: &[u8], depth: usize, values: &mut Vec<Vec<u8>>) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match Elements::of(page)? {
            Elements::Leaf(elements) => values.extend(elements.into_iter().map(|(_, _, value)| value.to_vec())),
            Elements::Branch(elements) => {
                for (_, below) in elements {
                    self.collect(&self.page(below)?, depth, values)?;
                }
            }
        }
        Some(())
    }
}

/// What a page holds.
enum Elements<'a> {
    /// Whether it is a bucket, key, value.
    Leaf(Vec<(bool, &'a [u8], &'a [u8])>),
    /// First key, page.
    Branch(Vec<(&'a [u8], u64)>),
}

impl<'a> Elements<'a> {
    fn of(page: &'a [u8]) -> Option<Self> {
        let (flags, count) = (number(page, 8, 2)?, index(number(page, 10, 2)?)?);
        // Keys lie so far behind the element that tells of them, values behind the keys.
        let part = |element: &'a [u8], at: usize, size: u64| element.get(at..at.checked_add(index(size)?)?);
        let elements = (0..count).map(|n| page.get(HEADER + n * ELEMENT..));
        if flags & LEAF != 0 {
            let leaf = elements.map(|element| {
                let element = element?;
                let key = part(element, index(number(element, 4, 4)?)?, number(element, 8, 4)?)?;
                let value = index(number(element, 4, 4)?)? + key.len();
                Some((number(element, 0, 4)? & BUCKET != 0, key, part(element, value, number(element, 12, 4)?)?))
            });
            return leaf.collect::<Option<_>>().map(Self::Leaf);
        }
        (flags & BRANCH != 0).then_some(())?;
        let branch = elements.map(|element| {
            let element = element?;
            let key = part(element, index(number(element, 0, 4)?)?, number(element, 4, 4)?)?;
            Some((key, number(element, 8, 8)?))
        });
        branch.collect::<Option<_>>().map(Self::Branch)
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    pub const PAGE: usize = 4096;

    /// A page with its header; `elements` are keys with the value of a leaf, or the number of a branch's page.
    pub fn page(flags: u16, elements: &[(u32, &str, &[u8])]) -> Vec<u8> {
        let (mut heads, mut data) = (Vec::new(), Vec::new());
        for (number, (flag, key, value)) in elements.iter().enumerate() {
            let position = (elements.len() - number) * ELEMENT + data.len();
            let (position, size) = (position as u32, key.len() as u32);
            if u64::from(flags) == LEAF {
                for part in [*flag, position, size, value.len() as u32] {
                    heads.extend(part.to_le_bytes());
                }
                data.extend([key.as_bytes(), value].concat());
            } else {
                heads.extend([position.to_le_bytes(), size.to_le_bytes()].concat());
                heads.extend(u64::from(*flag).to_le_bytes());
                data.extend(key.as_bytes());
            }
        }
        let count = (elements.len() as u16).to_le_bytes();
        [&[0; 8][..], &flags.to_le_bytes(), &count, &[0; 4], &heads, &data].concat()
    }

    pub fn meta(root: u64, commit: u64) -> Vec<u8> {
        let mut meta = Vec::new();
        for part in [Meta::MAGIC as u32, 2, PAGE as u32, 0] {
            meta.extend(part.to_le_bytes());
        }
        for part in [root, 0, 2, 9, commit] {
            meta.extend(part.to_le_bytes());
        }
        let sum = meta
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        meta.extend(sum.to_le_bytes());
        [&[0; HEADER][..], &meta].concat()
    }

    pub fn bucket(root: u64) -> Vec<u8> {
        [root.to_le_bytes(), [0; 8]].concat()
    }

    pub fn write_pages(path: &Path, pages: &[Vec<u8>]) {
        let padded = pages.iter().flat_map(|page| page.iter().copied().chain(std::iter::repeat(0)).take(PAGE));
        std::fs::write(path, padded.collect::<Vec<u8>>()).unwrap();
    }

    /// A database with one bucket of these keys and values.
    pub fn write(path: &Path, name: &str, values: &[(&str, &str)]) {
        let values: Vec<_> = values.iter().map(|(key, value)| (0, *key, value.as_bytes())).collect();
        let pages = [meta(2, 1), meta(2, 2), page(2, &[(1, name, &bucket(3))]), page(2, &values)];
        write_pages(path, &pages);
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use crate::system::{Mode, System};

    fn file(pages: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_pages(file.path(), pages);
        file
    }

    fn look(file: &tempfile::NamedTempFile, path: &[&str]) -> Option<bool> {
        has(System::new(Mode::Apply).view().fs(), file.path(), path).unwrap()
    }

    #[test]
    fn finds_keys_in_buckets_on_pages_and_within_values() {
        let within = [bucket(0), page(2, &[(0, "digest", b"sha256:aa")])].concat();
        let pages = [
            meta(2, 7),
            meta(3, 8),
            // Of the commit before: nothing.
            page(2, &[]),
            page(2, &[(1, "v1", &bucket(4)), (0, "version", b"4")]),
            page(1, &[(5, "a", b""), (6, "k", b"")]),
            page(2, &[(1, "a", &within), (1, "b", &within)]),
            page(2, &[(1, "k", &within), (1, "z", &within)]),
        ];
        let file = file(&pages);
        for (path, there) in [
            (&["v1"][..], true),
            (&["v2"], false),
            (&["version"], true),
            (&["version", "x"], false),
            (&["v1", "a"], true),
            (&["v1", "b", "digest"], true),
            (&["v1", "b", "labels"], false),
            (&["v1", "A"], false),
            (&["v1", "k"], true),
            (&["v1", "z", "digest"], true),
            (&["v1", "zz"], false),
        ] {
            assert_eq!(look(&file, path), Some(there), "{path:?}");
        }
        let values = |path: &[&str]| values(System::new(Mode::Apply).view().fs(), file.path(), path).unwrap().unwrap();
        assert_eq!(values(&["v1", "z"]), [b"sha256:aa"]);
        assert_eq!(values(&["v1"]).len(), 4);
        assert!(values(&["v2"]).is_empty());
    }

    #[test]
    fn what_is_no_database_says_nothing() {
        assert_eq!(look(&file(&[b"no database".to_vec()]), &["v1"]), None);
        assert_eq!(look(&file(&[]), &["v1"]), None);
        let mut torn = meta(2, 8);
        torn[HEADER + 16] ^= 1;
        assert_eq!(look(&file(&[torn.clone(), torn.clone(), page(2, &[])]), &["v1"]), None);
        // The commit before a torn one counts.
        assert_eq!(look(&file(&[torn, meta(2, 7), page(2, &[])]), &["v1"]), Some(false));
        assert_eq!(look(&file(&[meta(9, 1), meta(9, 2)]), &["v1"]), None, "a page beyond the end");
        assert_eq!(look(&file(&[meta(2, 1), meta(2, 2), page(1, &[(2, "a", b"")])]), &["v1"]), None, "a cycle");
    }
}
