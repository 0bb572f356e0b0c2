//! Artifacts of a run: each host's catalogue, and the store that serves them all.

use super::run::Run;
use super::scope::TaskScope;
use crate::agent::client::{BlobSource, OpenBlob};
use crate::artifacts::{Catalog, Store, cache_dir};
use crate::modules::{Blob, Failure};
use crate::source::InputError;
use crate::template::Scope;
use crate::transport::BoxFuture;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by all hosts of a run.
pub struct Artifacts {
    pub store: Store,
    catalogs: Mutex<HashMap<String, Arc<Catalog>>>,
}

impl Default for Artifacts {
    fn default() -> Self {
        let root = cache_dir().unwrap_or_else(|| PathBuf::from(".kprov-cache"));
        Self { store: Store::new(root), catalogs: Mutex::default() }
    }
}

impl Artifacts {
    /// The catalogue as the variables of a host declare it.
    pub fn catalog(&self, run: &Arc<Run>, host: &str) -> Result<Arc<Catalog>, InputError> {
        if let Some(catalog) = self.lock().get(host) {
            return Ok(catalog.clone());
        }
        let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_host(run, host));
        let catalog = Arc::new(Catalog::from_vars(&run.inventory_dir, &|name| run.variable(&scope, name))?);
        self.lock().insert(host.to_owned(), catalog.clone());
        Ok(catalog)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Catalog>>> {
        self.catalogs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobSource for Artifacts {
    fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
        BlobSource::open(&self.store, blob)
    }
}
