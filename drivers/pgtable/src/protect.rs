//! Changing what is allowed.

use crate::claim::Flush;
use crate::format::Format;
use crate::lines::Lines;
use crate::rows::{Group, Row};
use crate::table::PageTable;
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, HwError, Prot, Transition};
use iommu_hal::Hal;

impl<H: Hal, F: Format> PageTable<H, F> {
    /// See [`Claim::protect`](crate::Claim::protect).
    pub(crate) fn protect(&self, range: IovaRange, prot: Prot, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        if !F::can_express(prot, self.options) {
            return Err(HwError::Protection(prot));
        }
        self.check_range(range)?;
        self.for_each_row(range, |row| check_whole::<H, F>(self.grain, row, range))?;
        self.make_up(unit)?;
        let differs = |group: &Group<'_, H>| F::prot(group.entry) != prot;
        let mut transition = Transition::Hitless;
        // Groups first, as they can fail one by one. Their entries must allow the same at every moment, whatever else
        // a format lets change live.
        self.for_each_row(range, |row| {
            for group in row.groups::<F>(self.grain).filter(|group| group.count != 1 && differs(group)) {
                transition = Transition::ThroughBlocked;
                self.protect_blocked(&group, prot, unit)?;
            }
            Ok(())
        })?;
        let mut gather = Gather::new();
        let mut lines = Lines::<H, F>::new();
        let changed = self.for_each_row(range, |row| {
            for group in row.groups::<F>(self.grain).filter(differs) {
                let Group { table, level, index, count, .. } = group;
                group.note(self.grain, &mut gather);
                lines.add(table, level, index, count);
                for index in group.entries() {
                    self.update(&table, index, |leaf| self.remade(leaf, level, prot, F::is_grouped(leaf)))?;
                }
            }
            Ok(())
        });
        lines.finish();
        if !gather.is_empty() {
            self.confirm(unit, &gather)?;
        }
        changed.map(|()| transition)
    }

    /// Changes a contiguous group whose entries may not differ for a moment: blocked meanwhile.
    fn protect_blocked(&self, group: &Group<'_, H>, prot: Prot, unit: &mut dyn Flush) -> Result<(), HwError> {
        let old = self.take_group(group);
        let mut gather = Gather::new();
        group.note(self.grain, &mut gather);
        let flushed = self.confirm(unit, &gather);
        self.put_group(group, if flushed.is_ok() { self.remade(old, group.level, prot, true) } else { old });
        flushed
    }
}

/// Checks that all of a row is mapped, and that no leaf or contiguous group reaches out of `range`.
fn check_whole<H: Hal, F: Format>(grain: F::Grain, row: Row<'_, H>, range: IovaRange) -> Result<(), HwError> {
    for found in row.found::<F>(grain) {
        match found {
            Err(iova) => return Err(HwError::NotMapped { iova: iova.max(range.start()) }),
            Ok(group) if !group.is_in(grain, range) => {
                return Err(HwError::SplitsLeaf { iova: group.iova, size: group.size(grain) });
            }
            Ok(_) => {}
        }
    }
    Ok(())
}
