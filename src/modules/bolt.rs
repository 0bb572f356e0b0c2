//! Looks a key up in a bbolt database, which is what containerd keeps its images in.
//!
//! <https://github.com/etcd-io/bbolt>, `internal/common`: a file of pages, of which two are meta pages. A commit writes its
//! pages where the commit before it has none, and then the older of the two meta pages. So nothing is locked: what was read
//! belongs to one commit if that is still the newest one afterwards. Numbers are little-endian here, as on every machine
//! that kprov runs on; bbolt writes those of its machine.

use crate::system::{Fs, Result};
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
    for _ in 0..TRIES {
        let bytes = fs.read(file)?;
        let Some(meta) = Meta::newest(&bytes) else { continue };
        let found = Database { bytes: &bytes, page_size: meta.page_size }.has(meta.root, path);
        if Meta::newest(&fs.read(file)?).is_some_and(|now| now.commit == meta.commit) {
            return Ok(found);
        }
    }
    Ok(None)
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

    /// That of the newest commit. The second meta page is one page size into the file.
    fn newest(bytes: &[u8]) -> Option<Self> {
        let places = std::iter::once(0).chain((9..=16).map(|power| 1 << power));
        let metas = places.filter_map(|at| Self::read(bytes, at).filter(|meta| at == 0 || at == meta.page_size));
        metas.max_by_key(|meta| meta.commit)
    }

    fn read(bytes: &[u8], page: usize) -> Option<Self> {
        let meta = bytes.get(page + HEADER..page + HEADER + Self::SUMMED + 8)?;
        // FNV-1a
        let sum = meta[..Self::SUMMED]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        let whole = number(meta, 0, 4)? == Self::MAGIC && number(meta, Self::SUMMED, 8)? == sum;
        whole.then_some(())?;
        Some(Self { page_size: index(number(meta, 8, 4)?)?, root: number(meta, 16, 8)?, commit: number(meta, 48, 8)? })
    }
}

struct Database<'a> {
    bytes: &'a [u8],
    page_size: usize,
}

impl<'a> Database<'a> {
    fn has(&self, root: u64, path: &[&str]) -> Option<bool> {
        let mut page = self.page(root)?;
        for (level, name) in path.iter().enumerate() {
            let Some((is_bucket, value)) = self.find(page, name.as_bytes())? else { return Some(false) };
            if level + 1 == path.len() {
                return Some(true);
            }
            if !is_bucket {
                return Some(false);
            }
            // Of a small bucket the one page is in the value, behind the bucket's header.
            page = match number(value, 0, 8)? {
                0 => value.get(HEADER..)?,
                root => self.page(root)?,
            };
        }
        Some(true)
    }

    fn page(&self, number: u64) -> Option<&'a [u8]> {
        self.bytes.get(index(number)?.checked_mul(self.page_size)?..)
    }

    /// The value of a key and whether that is a bucket; an inner `None` where there is no such key.
    fn find(&self, mut page: &'a [u8], key: &[u8]) -> Option<Option<(bool, &'a [u8])>> {
        for _ in 0..DEPTH {
            let (flags, count) = (number(page, 8, 2)?, index(number(page, 10, 2)?)?);
            let elements = (0..count).map(|n| page.get(HEADER + n * ELEMENT..));
            let text = |element: &'a [u8], position: usize, size: usize| {
                let (at, size) = (index(number(element, position, 4)?)?, index(number(element, size, 4)?)?);
                Some((element.get(at..at.checked_add(size)?)?, element.get(at + size..)?))
            };
            if flags & LEAF != 0 {
                for element in elements {
                    let element = element?;
                    let (name, rest) = text(element, 4, 8)?;
                    if name == key {
                        let value = rest.get(..index(number(element, 12, 4)?)?)?;
                        return Some(Some((number(element, 0, 4)? & BUCKET != 0, value)));
                    }
                }
                return Some(None);
            }
            if flags & BRANCH == 0 {
                return None;
            }
            // A branch names the first key of each page below it.
            let mut below = None;
            for element in elements {
                let element = element?;
                if below.is_some() && text(element, 0, 4)?.0 > key {
                    break;
                }
                below = Some(number(element, 8, 8)?);
            }
            page = self.page(below?)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Mode, System};

    const PAGE: usize = 4096;

    /// A page with its header; `elements` are keys with the value of a leaf, or the number of a branch's page.
    fn page(flags: u16, elements: &[(u32, &str, &[u8])]) -> Vec<u8> {
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

    fn meta(root: u64, commit: u64) -> Vec<u8> {
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

    fn bucket(root: u64) -> Vec<u8> {
        [root.to_le_bytes(), [0; 8]].concat()
    }

    fn file(pages: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let padded = pages.iter().flat_map(|page| page.iter().copied().chain(std::iter::repeat(0)).take(PAGE));
        std::fs::write(file.path(), padded.collect::<Vec<u8>>()).unwrap();
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
