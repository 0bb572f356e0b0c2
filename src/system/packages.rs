//! packages
use super::Mode;
pub struct Packages {
    mode: Mode,
}
impl Packages {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode }
    }
    pub(super) fn planned(&self) -> bool {
        false
    }
}
