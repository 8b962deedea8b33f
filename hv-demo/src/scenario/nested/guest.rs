//! A guest with a stage 1 of its own: a context descriptor and tables, all in its own memory and written as the
//! architecture lays them out (SMMUv3 sections 5.2 and 5.4, Armv8 translation tables of 4 KiB), not by the driver's types.

use crate::checks::{Device, Lab};
use crate::iommu::DemoUnit;
use crate::partition::{Buffer, Partition, address};
use alloc::sync::Arc;
use iommu_core::Error;
use iommu_core::device::AttachTo;
use iommu_core::group::OwnerId;
use iommu_core::hw::{Invalidation, NestedConfig, Prot};
use iommu_core::nested::NestedHwpt;

/// The guest's virtual addresses; none is a guest-physical one.
pub(super) mod virt {
    /// All of it.
    pub const BASE: u64 = 0x50_0000_0000;
    /// The partition's page.
    pub const PAGE: u64 = BASE;
    /// Its private page.
    pub const PRIVATE: u64 = BASE + 0x1000;
    /// Its scattered pages.
    pub const SCATTERED: u64 = BASE + 0x2000;
    /// The page that stage 2 lets devices read only; the guest lets them write.
    pub const READ_ONLY: u64 = BASE + 0x8000;
    /// The partition's page again, which here the guest lets devices read only.
    pub const READ_ONLY_BY_GUEST: u64 = BASE + 0x9000;
    /// What the guest does not have.
    pub const FOREIGN: u64 = BASE + 0xa000;
    /// What changes.
    pub const CHANGING: u64 = BASE + 0xb000;
    /// 2 MiB in one block.
    pub const LARGE: u64 = BASE + 0x20_0000;
    /// 1 GiB in one block.
    pub const HUGE: u64 = BASE + 0x4000_0000;
    /// Nothing, but the tables that lead there are shown to lead nowhere.
    pub const BEHIND_FOREIGN_TABLE: u64 = BASE + 0x8000_0000;
}

/// The guest's ASID: every guest has the same.
pub(super) const ASID: u64 = 7;

/// How stream table entries and commands are handed to the driver, as it documents.
const STREAM_ENTRY: u32 = 0x534d_4d55;
const COMMAND: u32 = 0x534d_4d43;

/// Where in the guest's memory for tables what lies.
const CONTEXT: u64 = 0;
const LEVEL_1: u64 = 0x1000;
const LEVEL_2: u64 = 0x2000;
const LEVEL_3: u64 = 0x3000;
/// A root that leads nowhere.
const EMPTY: u64 = 0x4000;
/// log2 of the frames of all that.
const ORDER: u8 = 3;

/// Width of the guest's virtual addresses: walks begin at level 1.
const WIDTH: u64 = 39;

/// V, and Config of word 0 of a stream table entry: abort, bypass, stage 1.
pub(super) const ABORT: u64 = 1;
pub(super) const BYPASS: u64 = 1 | 4 << 1;
pub(super) const STAGE_1: u64 = 1 | 5 << 1;
/// S1CIR, S1COR, S1CSH of word 1: context descriptors are cached and shared like other memory.
pub(super) const WORD_1: u64 = 1 << 2 | 1 << 4 | 3 << 6;

/// A leaf of 4 KiB at level 3 that leads to `gpa`: readable and writable, of attribute 0, shared, accessed, of this ASID.
pub(super) const fn page(gpa: u64) -> u64 {
    gpa | 1 << 11 | 1 << 10 | 3 << 8 | 1 << 6 | 3
}

/// The same where devices may only read (AP[2]).
pub(super) const fn read_only(gpa: u64) -> u64 {
    page(gpa) | 1 << 7
}

/// A leaf at level 1 or 2.
const fn block(gpa: u64) -> u64 {
    page(gpa) & !2
}

/// An entry that leads to a table at `gpa`.
const fn table(gpa: u64) -> u64 {
    gpa | 3
}

/// A partition and the guest's stage 1 in it.
pub(super) struct Guest {
    // Before the partition, whose domain it stands on.
    nested: Option<NestedHwpt>,
    pub(super) partition: Partition,
    tables: Buffer,
}

impl Guest {
    /// A guest that has mapped all its memory at the addresses of [`virt`].
    ///
    /// # Errors
    ///
    /// What the core says.
    pub(super) fn new(
        name: &'static str,
        owner: OwnerId,
        unit: &Arc<dyn DemoUnit>,
        private: u64,
    ) -> Result<Self, Error> {
        let partition = Partition::for_guest(name, owner, unit, private)?;
        let tables = Buffer::contiguous(address::TABLES, ORDER, Prot::READ_WRITE).ok_or(Error::OutOfMemory)?;
        partition.map(&tables)?;
        let guest = Self { nested: None, partition, tables };
        guest.tables.write(0, &[0; 0x1000]);
        for table in [LEVEL_1, LEVEL_2, LEVEL_3, EMPTY] {
            guest.tables.write(table, &[0; 0x1000]);
        }
        guest.write_context(true, false);
        guest.set_level_1(virt::BASE, table(address::TABLES + LEVEL_2));
        guest.set_level_1(virt::HUGE, block(address::HUGE));
        guest.set(LEVEL_2, virt::BASE >> 21, table(address::TABLES + LEVEL_3));
        guest.set(LEVEL_2, virt::LARGE >> 21, block(address::LARGE));
        for at in (0..guest.partition.scattered.len()).step_by(0x1000) {
            guest.map(virt::SCATTERED + at, page(address::SCATTERED + at));
        }
        for (at, entry) in [
            (virt::PAGE, page(address::PAGE)),
            (virt::PRIVATE, page(private)),
            (virt::READ_ONLY, page(address::READ_ONLY)),
            (virt::READ_ONLY_BY_GUEST, read_only(address::PAGE)),
        ] {
            guest.map(at, entry);
        }
        Ok(guest)
    }

    /// Writes the context descriptor (section 5.4): valid or not, tables of 4 KiB from `LEVEL_1` on, or an empty one, for the
    /// lower half of addresses, none for the upper; faults abort and are recorded.
    pub(super) fn write_context(&self, valid: bool, empty: bool) {
        let root = address::TABLES + if empty { EMPTY } else { LEVEL_1 };
        // T0SZ, IR0, OR0, SH0, EPD1; IPS of 44 bits, AA64, R, A, ASET.
        let low = (64 - WIDTH) | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | u64::from(valid) << 31;
        let word0 = low | 4 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47 | ASID << 48;
        // The last one is MAIR: attribute 0 is write-back.
        for (at, word) in [word0, root, 0, 0xff].into_iter().enumerate() {
            self.tables.write(CONTEXT + 8 * at as u64, &word.to_le_bytes());
        }
    }

    /// Stores an entry of level 3, for the page at `va` of the first 2 MiB.
    pub(super) fn map(&self, va: u64, entry: u64) {
        self.set(LEVEL_3, va >> 12, entry);
    }

    /// Takes a page away: the entry alone.
    pub(super) fn unmap(&self, va: u64) {
        self.map(va, 0);
    }

    /// Has a table that the guest does not have lead to [`virt::BEHIND_FOREIGN_TABLE`].
    pub(super) fn set_foreign_table(&self, gpa: u64) {
        self.set_level_1(virt::BEHIND_FOREIGN_TABLE, table(gpa));
    }

    fn set_level_1(&self, va: u64, entry: u64) {
        self.set(LEVEL_1, va >> 30, entry);
    }

    fn set(&self, table: u64, index: u64, entry: u64) {
        self.tables.write(table + (index & 0x1ff) * 8, &entry.to_le_bytes());
    }

    /// What the guest's stream table entry says of stage 1: its words 0 and 1.
    pub(super) fn entry(&self) -> [u64; 2] {
        [STAGE_1 | (address::TABLES + CONTEXT), WORD_1]
    }

    /// What the core makes of these words of an entry.
    ///
    /// # Errors
    ///
    /// What it has against them.
    pub(super) fn nest(&self, words: &[u64]) -> Result<NestedHwpt, Error> {
        NestedHwpt::new(self.partition.hwpt(), &NestedConfig { kind: STREAM_ENTRY, words })
    }

    /// Gives the function to the guest's partition, through `words` of the guest's entry.
    pub(super) fn attach(&mut self, lab: &mut Lab<'_>, check: &str, device: &Device, words: [u64; 2]) {
        lab.change("attach", check, device, || {
            let nested = self.nest(&words)?;
            device.assigned.bind(self.partition.owner, true)?;
            device.assigned.attach(AttachTo::Nested(&nested))?;
            self.nested = Some(nested);
            Ok::<(), Error>(())
        });
    }

    /// The guest has written other words to its entry.
    pub(super) fn replace(&mut self, lab: &mut Lab<'_>, check: &str, device: &Device, words: [u64; 2]) {
        lab.change("attach", check, device, || {
            let nested = self.nest(&words)?;
            device.assigned.replace(AttachTo::Nested(&nested))?;
            self.nested = Some(nested);
            Ok::<(), Error>(())
        });
    }

    /// The guest has written this command.
    ///
    /// # Errors
    ///
    /// What the core says.
    pub(super) fn command(&self, words: [u64; 2]) -> Result<(), Error> {
        let nested = self.nested.as_ref().ok_or(Error::Invalid("the guest has no stage 1"))?;
        nested.invalidate(&[Invalidation { kind: COMMAND, words }]).1
    }

    /// Ends the partition, whose function `device` is.
    pub(super) fn end(self, lab: &mut Lab<'_>, check: &str, device: &Device) {
        lab.change("detach", check, device, || {
            device.assigned.detach()?;
            device.assigned.unbind()?;
            let Self { nested, partition, .. } = self;
            drop(nested);
            partition.end()
        });
        // SAFETY: the function is attached to nothing, and translation is on.
        unsafe { device.space.let_loose() };
    }
}
