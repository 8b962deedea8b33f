//! Recording what is written through a domain.
//!
//! Hardware notes writes in leaves of the first stage whenever it walks one (section 3.6.2); in those of the second stage
//! where SSADE says so (section 3.7.2), which is one bit of the word with the present bit, so that it is switched by one
//! store. All entries that lead through the same second stage must say the same (section 6.2.3.1).

use super::State;
use crate::invalidate::Change;
use crate::unit::Inner;
use iommu_core::hw::HwError;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Switches SSADE in every entry that leads to the second stage of `state`, those of guests on top among them, and in
    /// those to come.
    ///
    /// On an error hardware may go on as before with some; the next call asks again.
    pub(super) fn set_access_dirty(&self, state: &State, on: bool) -> Result<(), HwError> {
        // Nobody is attached meanwhile: who comes before is changed here, who comes later reads what is set here.
        let mut tables = self.tables.lock();
        state.set_access_dirty(on);
        state.with_users(|users| {
            users.iter().try_for_each(|user| tables.retune(user, on))?;
            self.invalidate(&[Change::AccessDirtyChanged { users }])
        })
    }
}
