//! units
use super::Mode;
pub struct Units {
    mode: Mode,
}
impl Units {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode }
    }
}
pub struct Unit;
pub struct UnitAction;
