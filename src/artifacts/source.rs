//! Sources of artifacts: upstream, mirrors, directories with their own list of digests.

use super::digest::Digest;
use crate::source::{InputError, Source as File, Span, near_miss};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The list of digests in a directory of artifacts, as sha256sum(1) writes it.
pub const LIST: &str = "SHA256SUMS";

/// One place to get artifacts from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The projects' own release sites.
    Upstream,
    /// Base URL without a slash at the end; below it, the path is the upstream URL without its scheme.
    Mirror(String),
    /// The same paths in a directory, and the digests of its list.
    Directory { path: PathBuf, list: HashMap<String, Digest> },
}

impl Source {
    /// Reads one item of `artifact_sources`. Relative directories are relative to `base`, the inventory's directory.
    pub fn parse(text: &str, base: &Path, origin: Option<&Span>) -> Result<Self, InputError> {
        let error = |message: String| InputError { span: origin.cloned(), ..InputError::new(message) };
        if text == "upstream" {
            return Ok(Self::Upstream);
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return match reqwest::Url::parse(text) {
                Ok(url) if url.has_host() => Ok(Self::Mirror(text.trim_end_matches('/').to_owned())),
                _ => Err(error(format!("artifact_sources: `{text}` is not a URL"))),
            };
        }
        if !text.contains('/') {
            let near = near_miss(text, ["upstream"]).map(|near| format!("did you mean `{near}`? "));
            return Err(error(format!("artifact_sources: `{text}` is not a source")).help(
                near.unwrap_or_default() + "a source is `upstream`, a URL, or the path of a directory with a /",
            ));
        }
        let path = match text.strip_prefix("~/") {
            Some(rest) => std::env::home_dir()
                .ok_or_else(|| error(format!("artifact_sources: no home directory for `{text}`")))?
                .join(rest),
            None => base.join(text.strip_prefix("./").unwrap_or(text)),
        };
        let file = File::read(&path.join(LIST)).map_err(|e| {
            error(format!("artifact_sources: {} has no readable {LIST}: {e}", path.display()))
                .help(format!("a directory of artifacts carries the digests of its files, made with sha256sum: {LIST}"))
        })?;
        let list = parse_list(&file)?;
        Ok(Self::Directory { path, list })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("upstream"),
            Self::Mirror(url) => f.write_str(url),
            Self::Directory { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

/// Reads what sha256sum(1) prints: digest, a space, a space or `*`, path.
pub fn parse_list(file: &std::sync::Arc<File>) -> Result<HashMap<String, Digest>, InputError> {
    let mut list = HashMap::new();
    let mut start = 0;
    for line in file.text.split_inclusive('\n') {
        let text = line.trim_end_matches(['\n', '\r']);
        if !text.is_empty() {
            let entry = text.split_once(' ').and_then(|(hex, path)| {
                let path = path.strip_prefix([' ', '*']).unwrap_or(path);
                Some((path.strip_prefix("./").unwrap_or(path), Digest::sha256(hex)?))
            });
            let Some((path, digest)) = entry else {
                return Err(InputError::at(
                    &file.span(start, start + text.len()),
                    "expected 64 hex digits, two spaces and a path",
                ));
            };
            list.insert(path.to_owned(), digest);
        }
        start += line.len();
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_list() {
        let hex = "0".repeat(64);
        let list = parse_list(&File::new("SHA256SUMS", format!("{hex}  a/b\n{hex} *./c\n\n"))).unwrap();
        assert_eq!(list.len(), 2);
        assert!(list.contains_key("a/b") && list.contains_key("c"));
        let error = parse_list(&File::new("SHA256SUMS", format!("{hex}  a\nnonsense\n"))).unwrap_err();
        assert_eq!(error.span.unwrap().line(), 2);
    }

    #[test]
    fn tells_sources_apart() {
        let parse = |text| Source::parse(text, Path::new("/inventory"), None);
        assert_eq!(parse("upstream").unwrap().to_string(), "upstream");
        assert_eq!(parse("http://mirror/files/").unwrap().to_string(), "http://mirror/files");
        assert!(parse("upstraem").unwrap_err().help.unwrap().contains("did you mean `upstream`?"));
        assert!(parse("https://").unwrap_err().message.contains("not a URL"));
        assert!(parse("./none").unwrap_err().message.contains("/inventory/none has no readable SHA256SUMS"));
    }
}
