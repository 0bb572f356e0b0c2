//! kernel
use super::Mode;
pub struct Kernel {
    mode: Mode,
}
impl Kernel {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode }
    }
}
