//! process
use super::Mode;
pub struct Processes {
    mode: Mode,
}
impl Processes {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode }
    }
}
pub struct Command;
pub struct Output;
