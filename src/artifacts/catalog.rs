//! The catalogue: which artifacts there are, and what each source offers of one.
//!
//! Made from variables; knows pins and directories' lists and asks no network, so that a plan for nodes which have
//! everything downloads nothing.

use super::digest::Digest;
use super::source::Source;
use crate::source::{InputError, Span, near_miss};
use crate::value::{Map, Value};
use indexmap::IndexMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads a rendered variable, and where it was written. An error when it cannot be rendered.
pub type Lookup<'a> = dyn Fn(&str) -> Result<Option<(Value, Option<Span>)>, InputError> + 'a;

/// The artifacts and sources that one host's variables declare.
#[derive(Debug)]
pub struct Catalog {
    sources: Vec<Source>,
    entries: IndexMap<String, Entry>,
    /// Host name of an upstream site to the URL that stands for it.
    upstream_urls: Map,
}

#[derive(Debug)]
struct Entry {
    version: Variable,
    /// The variable with the pins: `{arch: {version: digest}}`.
    checksums: Option<(Variable, Map)>,
    /// Below a mirror or directory; with placeholders.
    path: String,
    /// In the place of `https://PATH`; with placeholders.
    url: Option<String>,
    members: Vec<String>,
    /// Reference of the image, where the artifact is one.
    image: Option<String>,
}

/// A variable that the catalogue refers to by name.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    text: String,
    origin: Option<Span>,
}

/// What became of a name and a version.
#[derive(Clone, Debug)]
pub enum Resolved {
    File(Arc<Artifact>),
    /// No source has an archive of this image: the node pulls it from its registry.
    Pull {
        image: String,
    },
}

/// A file that can be had, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub name: String,
    pub version: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// What the file is called in plans and on nodes: the digest that the first source is held to. Where that source
    /// turns out not to have it, the next one serves the same artifact, held to the digest of its own.
    pub digest: Digest,
    /// Below a mirror or directory: the upstream URL without its scheme.
    pub path: String,
    /// Paths in the archive; empty where the file is no archive or is used whole.
    pub members: Vec<String>,
    /// Reference of the image that the archive holds.
    pub image: Option<String>,
    /// In the order of the sources; not empty.
    pub candidates: Vec<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub location: Location,
    pub digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    File(PathBuf),
    Url(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl Artifact {
    /// The path in the archive of the member with this name: its last component, or the whole path.
    pub fn member(&self, name: &str) -> Result<&str, InputError> {
        let name_of = |path: &'_ str| path.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(path) = self.members.iter().find(|path| *path == name || name_of(path) == name) {
            return Ok(path);
        }
        let names: Vec<String> = self.members.iter().map(|path| name_of(path)).collect();
        let error = InputError::new(format!("{self} has no member `{name}`"));
        Err(match near_miss(name, names.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if names.is_empty() => error.help("it is not an archive with members: leave the member out"),
            None => error.help(format!("its members are {}", names.join(", "))),
        })
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} for {}", self.name, self.version, self.arch)
    }
}

impl Catalog {
    /// Reads `artifact_sources`, `files_repo`, `upstream_urls`, `artifacts` and the variables that these name.
    /// `base` is the inventory's directory.
    pub fn from_vars(base: &Path, get: &Lookup<'_>) -> Result<Self, InputError> {
        let mut sources = Vec::new();
        if let Some((value, origin)) = get("files_repo")? {
            match &value {
                Value::Null => {}
                Value::String(url) if url.is_empty() => {}
                Value::String(url) if url.starts_with("http://") || url.starts_with("https://") => {
                    sources.push(Source::parse(url, base, origin.as_ref())?);
                }
                other => return Err(wrong("files_repo", "the URL of a mirror", other, origin.as_ref())),
            }
        }
        let (list, origin) = required(get, "artifact_sources")?;
        for item in list.as_list().ok_or_else(|| wrong("artifact_sources", "a list", &list, origin.as_ref()))? {
            let text = item.as_str().ok_or_else(|| wrong("artifact_sources", "strings", item, origin.as_ref()))?;
            sources.push(Source::parse(text, base, origin.as_ref())?);
        }
        if sources.is_empty() {
            return Err(InputError { span: origin, ..InputError::new("artifact_sources is empty") }
                .help("name a source: `upstream`, the URL of a mirror, or a directory"));
        }

        let upstream_urls = match get("upstream_urls")? {
            None => Map::new(),
            Some((Value::Map(map), _)) => map,
            Some((other, origin)) => return Err(wrong("upstream_urls", "a mapping", &other, origin.as_ref())),
        };
        let (map, origin) = required(get, "artifacts")?;
        let map = map.as_map().ok_or_else(|| wrong("artifacts", "a mapping", &map, origin.as_ref()))?;
        let entries = map
            .iter()
            .map(|(name, value)| Ok((name.clone(), Entry::read(name, value, origin.as_ref(), get)?)))
            .collect::<Result<_, InputError>>()?;
        Ok(Self { sources, entries, upstream_urls })
    }

    /// Names of the artifacts, in the order of the catalogue.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Says where `name` can be had and what it is held to. `version` is that of the catalogue's variable where `None`.
    pub fn resolve(&self, name: &str, version: Option<&str>, arch: &str) -> Result<Resolved, InputError> {
        let entry = self.entries.get(name).ok_or_else(|| {
            let error = InputError::new(format!("no artifact `{name}` in the variable `artifacts`"));
            match near_miss(name, self.names()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("there are {}", self.names().collect::<Vec<_>>().join(", "))),
            }
        })?;
        if super::architecture(arch) != Some(arch) {
            return Err(InputError::new(format!("{name}: no artifacts for the architecture `{arch}`"))
                .help("supported are amd64 (x86_64) and arm64 (aarch64)"));
        }
        let version = version.unwrap_or(&entry.version.text);
        let fill = |text: &str| text.replace("{version}", version).replace("{arch}", arch);
        let path = fill(&entry.path);
        let pin = entry.pin(version, arch)?;

        let mut candidates = Vec::new();
        for source in &self.sources {
            match source {
                Source::Directory { path: directory, list } => {
                    let file = directory.join(&path);
                    match list.get(&path) {
                        Some(digest) => {
                            candidates.push(Candidate { location: Location::File(file), digest: digest.clone() });
                        }
                        None if file.exists() => {
                            return Err(InputError::new(format!(
                                "{} is not listed in {}",
                                file.display(),
                                directory.join(super::LIST).display()
                            ))
                            .help("a file without a digest is not used: remove it, or make the list anew"));
                        }
                        None => {}
                    }
                }
                Source::Upstream if entry.image.is_some() => {}
                Source::Upstream | Source::Mirror(_) => {
                    if let Some(digest) = &pin {
                        let url = match source {
                            Source::Mirror(base) => format!("{base}/{path}"),
                            _ => self.upstream(entry.url.as_deref().map(fill), &path),
                        };
                        candidates.push(Candidate { location: Location::Url(url), digest: digest.clone() });
                    }
                }
            }
        }
        let Some(first) = candidates.first() else {
            return match &entry.image {
                Some(image) => Ok(Resolved::Pull { image: image.clone() }),
                None => Err(self.no_source(entry, name, version, arch, &path)),
            };
        };
        Ok(Resolved::File(Arc::new(Artifact {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: arch.to_owned(),
            digest: first.digest.clone(),
            members: entry.members.iter().map(|member| fill(member)).collect(),
            path,
            image: entry.image.clone(),
            candidates,
        })))
    }

    fn upstream(&self, url: Option<String>, path: &str) -> String {
        if let Some(url) = url {
            return url;
        }
        let (host, rest) = path.split_once('/').unwrap_or((path, ""));
        match self.upstream_urls.get(host).and_then(Value::as_str) {
            Some(base) => format!("{}/{rest}", base.trim_end_matches('/')),
            None => format!("https://{path}"),
        }
    }

    fn no_source(&self, entry: &Entry, name: &str, version: &str, arch: &str, path: &str) -> InputError {
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        let message = format!(
            "{name} {version} for {arch} ({}): no digest of it is known, and no directory of artifact_sources ({}) lists {path}",
            entry.version.name,
            sources.join(", ")
        );
        let mut help = String::new();
        if let Some((variable, pins)) = &entry.checksums {
            help = format!(
                "give its digest: {}: {{{arch}: {{\"{version}\": \"sha512:…\"}}}}, or name a directory that has it",
                variable.name
            );
            if let Some(known) = pins.get(arch).and_then(Value::as_map) {
                help += &format!("; known are {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
            }
        }
        InputError { span: entry.version.origin.clone(), ..InputError::new(message) }.help(help)
    }
}

impl Entry {
    fn read(name: &str, value: &Value, origin: Option<&Span>, get: &Lookup<'_>) -> Result<Self, InputError> {
        const KEYS: [&str; 6] = ["version", "checksums", "path", "url", "members", "image"];
        let error = |message: String| InputError { span: origin.cloned(), ..InputError::new(message) };
        let map = value.as_map().ok_or_else(|| error(format!("artifacts: `{name}` is not a mapping")))?;
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let near = near_miss(key, KEYS).map(|near| format!("did you mean `{near}`?"));
            return Err(error(format!("artifacts: `{name}` has an unknown key `{key}`"))
                .help(near.unwrap_or_else(|| format!("known are {}", KEYS.join(", ")))));
        }
        let text = |map: &Map, key: &str| match map.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(error(format!("artifacts: `{key}` of `{name}` is not a string"))),
        };
        let need =
            |map: &Map, key: &str| text(map, key)?.ok_or_else(|| error(format!("artifacts: `{name}` has no `{key}`")));

        let checksums = match text(map, "checksums")? {
            None => None,
            Some(variable) => match get(&variable)? {
                None => None,
                Some((Value::Map(pins), origin)) => {
                    Some((Variable { name: variable, text: String::new(), origin }, pins))
                }
                Some((other, origin)) => {
                    return Err(wrong(&variable, "{architecture: {version: digest}}", &other, origin.as_ref()));
                }
            },
        };
        if let Some(image) = map.get("image") {
            let image = image.as_map().ok_or_else(|| error(format!("artifacts: `image` of `{name}` is no mapping")))?;
            let repository = Variable::read(&need(image, "repository")?, get)?;
            let tag = Variable::read(&need(image, "tag")?, get)?;
            return Ok(Self {
                path: format!("{}/{}-linux-{{arch}}.tar", repository.text, tag.text),
                image: Some(format!("{}:{}", repository.text, tag.text)),
                version: tag,
                checksums,
                url: None,
                members: Vec::new(),
            });
        }
        let version = Variable::read(&need(map, "version")?, get)?;
        if version.text.starts_with('v') {
            return Err(InputError {
                span: version.origin,
                ..InputError::new(format!("{}: `{}` starts with a v", version.name, version.text))
            }
            .help(format!("write it without: {}", version.text.trim_start_matches('v'))));
        }
        let url = match text(map, "url")? {
            None => None,
            Some(variable) => match get(&variable)? {
                None | Some((Value::Null, _)) => None,
                Some((Value::String(url), _)) => Some(url).filter(|url| !url.is_empty()),
                Some((other, origin)) => return Err(wrong(&variable, "a URL", &other, origin.as_ref())),
            },
        };
        let members = match map.get("members") {
            None => Vec::new(),
            Some(Value::List(items)) => items
                .iter()
                .map(|item| match item.as_str() {
                    Some(path)
                        if Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_))) =>
                    {
                        Ok(path.to_owned())
                    }
                    _ => Err(error(format!("artifacts: member `{item}` of `{name}` is not a relative path"))),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(error(format!("artifacts: `members` of `{name}` is not a list of paths"))),
        };
        Ok(Self { version, checksums, path: need(map, "path")?, url, members, image: None })
    }

    /// The pinned digest.
    fn pin(&self, version: &str, arch: &str) -> Result<Option<Digest>, InputError> {
        let Some((variable, pins)) = &self.checksums else { return Ok(None) };
        let Some(value) = pins.get(arch).and_then(|versions| versions.get(version)) else { return Ok(None) };
        let place = format!("{}.{arch}.{version}", variable.name);
        let text = value.as_str().ok_or_else(|| wrong(&place, "a digest", value, variable.origin.as_ref()))?;
        text.parse()
            .map(Some)
            .map_err(|e| InputError { span: variable.origin.clone(), ..InputError::new(format!("{place}: {e}")) })
    }
}

impl Variable {
    fn read(name: &str, get: &Lookup<'_>) -> Result<Self, InputError> {
        match required(get, name)? {
            (Value::String(text), origin) if !text.is_empty() => Ok(Self { name: name.to_owned(), text, origin }),
            (other @ (Value::Float(_) | Value::Int(_)), origin) => {
                Err(wrong(name, "a string", &other, origin.as_ref()).help("put it in quotes: 3.10 is read as 3.1"))
            }
            (other, origin) => Err(wrong(name, "a string that is not empty", &other, origin.as_ref())),
        }
    }
}

fn required(get: &Lookup<'_>, name: &str) -> Result<(Value, Option<Span>), InputError> {
    get(name)?.ok_or_else(|| InputError::new(format!("the variable `{name}` is not defined")))
}

fn wrong(name: &str, expected: &str, found: &Value, origin: Option<&Span>) -> InputError {
    InputError {
        span: origin.cloned(),
        ..InputError::new(format!("`{name}` is {} ({found}), expected {expected}", found.type_name()))
    }
}
