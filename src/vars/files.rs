//! Variable files: one file, or what `group_vars` and `host_vars` hold for a name.
//!
//! Source: Ansible's `host_group_vars` plugin. For the name `all` the first of `all` (a file or a directory), `all.yml`,
//! `all.yaml`, `all.json` counts; a directory is read in the order of names, its subdirectories too.

use super::{Layer, Var, VarMap, Vault, is_valid_name};
use crate::source::{InputError, InputErrors, Source, near_miss};
use crate::yaml::{self, Node};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXTENSIONS: [&str; 3] = ["yml", "yaml", "json"];

/// Reads the variables of a mapping such as a play's `vars`; null has none.
pub fn read_map(node: &Node, vault: &Vault) -> Result<VarMap, InputErrors> {
    let mut vars = VarMap::new();
    if node.is_null() {
        return Ok(vars);
    }
    let mut errors = Vec::new();
    for (key, value) in node.expect_map().map_err(|error| error.help("write `name: value`, one a line"))? {
        let name = key.key_text();
        if !is_valid_name(&name) {
            let error = InputError::at(&key.span, format!("invalid variable name: `{name}`"));
            errors.push(error.help("use letters, digits and `_`, and no digit first"));
        } else {
            match Var::from_pair(key, value, vault) {
                Ok(var) => {
                    vars.insert(name, var);
                }
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() { Ok(vars) } else { Err(InputErrors(errors)) }
}

/// Reads a file of variables: YAML, JSON, or either of them encrypted with ansible-vault.
pub fn read_file(path: &Path, vault: &Vault, warnings: &mut Vec<InputError>) -> Result<VarMap, InputErrors> {
    let source = Source::open(path)?;
    if !Vault::is_encrypted(&source.text) {
        return read_map(&yaml::load_with(&source, warnings)?, vault);
    }
    // Errors and origins show the encrypted file: a line of the plain text could show a secret.
    let header = source.span(0, source.text.find('\n').unwrap_or(source.text.len()));
    let plain = vault.decrypt(&source.text).map_err(|error| {
        InputError::at(&header, error.to_string()).help("name the file that holds the password: --vault-password-file")
    })?;
    let hide = |error: InputError| {
        let line = error.span.map(|span| format!("line {} of the decrypted text: ", span.line()));
        InputError {
            message: format!("{}{}", line.unwrap_or_default(), error.message),
            span: Some(header.clone()),
            help: None,
        }
    };
    let node = yaml::load(&Source::new(path, plain)).map_err(hide)?;
    let mut vars = read_map(&node, vault).map_err(|errors| InputErrors(errors.0.into_iter().map(hide).collect()))?;
    for var in vars.values_mut() {
        var.origin = Some(header.clone());
        var.secret = true;
    }
    Ok(vars)
}

/// A `group_vars` or `host_vars` directory.
pub(super) struct VarsDir {
    path: PathBuf,
    /// Entry name -> path.
    entries: BTreeMap<String, PathBuf>,
}

impl VarsDir {
    /// Lists the directory; one that does not exist is empty.
    pub fn open(path: PathBuf) -> Result<Self, InputError> {
        let entries = match list(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(InputError::new(format!("cannot read {}: {error}", path.display()))),
        };
        Ok(Self { path, entries })
    }

    /// The files that hold variables for a name, in order.
    fn files(&self, name: &str, warnings: &mut Vec<InputError>) -> Result<Vec<PathBuf>, InputError> {
        let candidates = std::iter::once(name.to_owned()).chain(EXTENSIONS.iter().map(|e| format!("{name}.{e}")));
        let mut found = candidates.filter_map(|entry| self.entries.get(&entry));
        let Some(first) = found.next() else { return Ok(Vec::new()) };
        for other in found {
            let message = format!("{} is ignored: {} comes first", other.display(), first.display());
            warnings.push(InputError::new(message).help("move it into the directory, or merge the two"));
        }
        let mut files = Vec::new();
        walk(first, &mut files)
            .map_err(|error| InputError::new(format!("cannot read {}: {error}", first.display())))?;
        Ok(files)
    }

    /// Reads what there is for a name. What a later file sets replaces what an earlier one set.
    pub fn read(&self, name: &str, vault: &Vault, warnings: &mut Vec<InputError>) -> Result<Vec<Layer>, InputErrors> {
        let mut layers = Vec::new();
        let mut errors = Vec::new();
        for file in self.files(name, warnings)? {
            match read_file(&file, vault, warnings) {
                Ok(vars) => layers.push(Arc::new(vars)),
                Err(mut more) => errors.append(&mut more.0),
            }
        }
        if errors.is_empty() { Ok(layers) } else { Err(InputErrors(errors)) }
    }

    /// Reports entries that belong to no known name: an error where a near miss tells what was meant, else a warning.
    pub fn check<'a>(
        &self,
        what: &str,
        known: impl Iterator<Item = &'a str> + Clone,
        errors: &mut Vec<InputError>,
        warnings: &mut Vec<InputError>,
    ) {
        for (entry, path) in &self.entries {
            let name = EXTENSIONS.iter().find_map(|e| entry.strip_suffix(&format!(".{e}"))).unwrap_or(entry);
            if known.clone().any(|k| k == name) {
                continue;
            }
            let found = InputError::new(format!("{}: there is no {what} {name}", path.display()));
            match near_miss(name, known.clone()) {
                Some(near) => {
                    errors.push(found.help(format!("did you mean `{near}`? Rename it in {}", self.path.display())))
                }
                None => warnings.push(found),
            }
        }
    }
}

/// The entries of a directory that may hold variables.
fn list(dir: &Path) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') || name.ends_with('~');
        let readable = match path.extension() {
            None => true,
            // A dot in a host's name is not an extension.
            Some(extension) => {
                path.is_dir() || EXTENSIONS.iter().any(|e| extension == *e) || dir.ends_with("host_vars")
            }
        };
        if !hidden && readable {
            entries.insert(name, path);
        }
    }
    Ok(entries)
}

fn walk(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for (_, entry) in list(path)? {
        if !entry.is_dir() || entry.extension().is_none() {
            walk(&entry, files)?;
        }
    }
    Ok(())
}
