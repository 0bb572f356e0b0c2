//! accounts
use super::Mode;
pub struct Accounts {
    mode: Mode,
}
impl Accounts {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode }
    }
}
pub struct User;
pub struct Group;
pub struct UserSpec;
pub struct GroupSpec;
