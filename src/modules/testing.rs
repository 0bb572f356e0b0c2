//! The one test that every module has to pass: [`check`].

#[cfg(feature = "controller")]
use super::args::{ArgError, Args, Files};
use super::{Blob, Failure, Module, Needs, Outcome, converge};
use crate::system::testing::{assert_same, snapshot, tree};
use crate::system::{Mode, System};
#[cfg(feature = "controller")]
use crate::value::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Serves blobs from memory and remembers which were asked for. Signs nothing.
#[derive(Default)]
pub struct TestNeeds {
    pub blobs: HashMap<Blob, Vec<u8>>,
    pub asked: Vec<Blob>,
}

impl Needs for TestNeeds {
    fn blob(&mut self, blob: &Blob, near: &Path) -> Result<(PathBuf, String), Failure> {
        self.asked.push(blob.clone());
        let bytes = self.blobs.get(blob).ok_or_else(|| Failure::new(format!("no such blob: {blob:?}")))?;
        let staged = crate::system::temporary_file(near).unwrap();
        std::fs::write(staged.path(), bytes).unwrap();
        Ok((staged.into_temp_path().keep().unwrap(), sha256(bytes)))
    }

    fn sign(&mut self, signer: &str, _: &crate::pki::SigningRequest) -> Result<String, Failure> {
        Err(Failure::new(format!("no CA on {signer} in this test")))
    }

    fn cancelled(&self) -> bool {
        false
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Plans the module, then applies it, then applies it again, and returns what the first apply came to.
///
/// Fails unless the plan leaves everything below `root` as it is, sees the change as done when it is asked again, and
/// foretells whether something changes, the diff (where it says that it knows), and the tree below `root` afterwards;
/// and unless the second apply has nothing to do and leaves everything as it is.
pub fn check<M: Module>(module: &M, root: &Path) -> Outcome {
    check_with(module, root, &mut TestNeeds::default())
}

/// As [`check`], for a module that asks for something.
pub fn check_with<M: Module>(module: &M, root: &Path, needs: &mut dyn Needs) -> Outcome {
    let mut plan = System::new(Mode::Plan);
    let before = snapshot(root);
    let planned = converge(module, &mut plan, &mut TestNeeds::default()).expect("plan");
    assert_eq!(snapshot(root), before, "the plan has changed something");
    if planned.grade == super::Grade::Exact {
        let again = converge(module, &mut plan, &mut TestNeeds::default()).expect("plan on top of the plan");
        assert!(!again.changed, "planned, but the overlay does not show it: {again:?}");
    }

    let mut real = System::new(Mode::Apply);
    let applied = converge(module, &mut real, needs).expect("apply");
    assert_eq!(planned.changed, applied.changed, "planned {planned:?}, applied {applied:?}");
    if planned.grade == super::Grade::Exact {
        assert_eq!(planned.diff, applied.diff);
    }
    assert_same(tree(plan.view().fs(), root), &tree(real.view().fs(), root), "apply");

    let after = snapshot(root);
    let again = converge(module, &mut real, needs).expect("second apply");
    assert!(!again.changed, "a second apply changes: {again:?}");
    assert_eq!(snapshot(root), after, "a second apply reports no change but makes one");
    applied
}

/// Fails unless plan and apply both fail with the same message and leave everything below `root` as it is.
pub fn check_fails<M: Module>(module: &M, root: &Path) -> String {
    let before = snapshot(root);
    let run = |mode| converge(module, &mut System::new(mode), &mut TestNeeds::default());
    let planned = run(Mode::Plan).expect_err("plan");
    let applied = run(Mode::Apply).expect_err("apply");
    assert_eq!(planned.message, applied.message);
    assert_eq!(snapshot(root), before, "failed, but changed something");
    applied.message
}

/// A module's arguments. There are no files of a role.
#[cfg(feature = "controller")]
pub fn args<const N: usize>(pairs: [(&str, Value); N]) -> Args<'static> {
    arguments(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// As [`args`], with strings only.
#[cfg(feature = "controller")]
pub fn text_args<'a, V: Into<String>>(pairs: impl IntoIterator<Item = (&'a str, V)>) -> Args<'static> {
    arguments(pairs.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value.into()))).collect())
}

#[cfg(feature = "controller")]
fn arguments(map: Map) -> Args<'static> {
    struct NoFiles;
    impl Files for NoFiles {
        fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ArgError> {
            Err(ArgError::new("src", format!("no file {name}")))
        }
    }
    Args::new(map, None, &NoFiles)
}
