//! `file`: kind, permissions and owner of a path.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{View, Writer};
use crate::value::Map;
use serde::{Deserialize, Serialize};

/// The desired state of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub path: String,
}

#[cfg(feature = "controller")]
impl File {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let path = args.first_of(&["path", "dest", "name"])?.ok_or_else(|| super::args::missing("path"))?;
        args.finish()?;
        Ok(Self { path })
    }
}

impl Module for File {
    type State = ();
    type Change = ();

    fn query(&self, _view: View<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn diff(&self, (): &()) -> Option<()> {
        None
    }

    fn describe(&self, (): &(), (): &()) -> Vec<Diff> {
        Vec::new()
    }

    fn apply(&self, (): (), (): (), _writer: &mut Writer<'_>, _needs: &mut dyn Needs) -> Result<Applied, Failure> {
        Ok(Applied::default())
    }

    fn result(&self, (): &()) -> Map {
        Map::new()
    }
}
