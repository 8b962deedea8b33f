//! A decoder of raw entries, written from the bit tables of the specifications and from nothing in the crate under test.
//! Whatever hardware would fault on as malformed, or would have to write itself, or that the tables of bits do not name,
//! is an error.
//!
//! Levels count from 1, the tables of the smallest pages, up to the root.

mod armv8;
mod riscv64;
mod vtd;

use std::collections::BTreeSet;

/// What entries look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// U/S clear, for supervisors; XD set in leaves.
    VtdFirstStage { supervisor: bool, no_execute: bool },
    /// With or without snoop control, and then every leaf is to snoop.
    VtdSecondStage { snoop: bool },
    /// AttrIndx and SH of every leaf, AP\[1\] clear, PXN and UXN clear.
    Armv8Stage1 { attribute_index: u64, shareability: u64, privileged: bool, executable: bool },
    /// MemAttr and SH of every leaf, XN clear.
    Armv8Stage2 { memory_attributes: u64, shareability: u64, executable: bool },
    /// Sv39 and Sv48.
    Riscv64,
}

/// The hardware that walks.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    pub layout: Layout,
    /// Address bits of the smallest page.
    pub page_bits: u32,
    /// Address bits that one table translates, but for a root of concatenated tables.
    pub index_bits: u32,
    pub levels: u32,
    /// Addresses lie below 2^this.
    pub input_bits: u32,
    /// Host address width.
    pub address_bits: u32,
    /// Leaf sizes that the unit takes, those of contiguous groups among them: bit n stands for 2^n bytes.
    pub sizes: u64,
    /// It notes in leaves what is written through.
    pub tracked: bool,
    /// It snoops.
    pub coherent: bool,
}

/// A leaf, or a contiguous group of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    pub iova: u64,
    /// That of the whole group.
    pub size: u64,
    pub phys: u64,
    pub read: bool,
    pub write: bool,
    /// It was written through. Never set where that is not tracked.
    pub dirty: bool,
    /// Entries; 1 where it is no group.
    pub group: u64,
}

/// A table that a walk may begin in, as hardware that caches upper entries does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    pub table: u64,
    pub level: u32,
    /// Lowest address it translates.
    pub iova: u64,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Nothing,
    Table(u64),
    Leaf(Single),
}

/// A leaf by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Single {
    pub phys: u64,
    pub read: bool,
    pub write: bool,
    pub dirty: bool,
    /// The contiguous bit is set.
    pub grouped: bool,
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub address: u64,
    pub level: u32,
    pub entry: u64,
}

/// Memory as the walker finds it: 8 bytes at an address, where there is memory.
pub type Read<'r> = &'r dyn Fn(u64) -> Option<u64>;

fn bits(entry: u64, high: u32, low: u32) -> u64 {
    entry >> low & ((1 << (high - low + 1)) - 1)
}

fn bad<T>(what: &str, entry: u64, level: u32) -> Result<T, String> {
    Err(format!("{what}: entry {entry:#x} of level {level}"))
}

impl Raw {
    /// The same unit, without snooping.
    pub const fn non_coherent(self) -> Self {
        Self { coherent: false, ..self }
    }

    /// Bytes of the smallest page.
    pub const fn page(&self) -> u64 {
        1 << self.page_bits
    }

    /// Bytes one entry translates.
    pub const fn entry_size(&self, level: u32) -> u64 {
        1 << (self.page_bits + self.index_bits * (level - 1))
    }

    /// The first address above all that are translated.
    pub const fn top(&self) -> u64 {
        1 << self.input_bits
    }

    /// Bits of the addresses that so many levels translate at most.
    pub fn most_input_bits(&self) -> u32 {
        let bits = self.page_bits + self.index_bits * self.levels;
        match self.layout {
            Layout::VtdSecondStage { .. } => bits,
            // The lower half.
            Layout::VtdFirstStage { .. } | Layout::Riscv64 => bits - 1,
            Layout::Armv8Stage1 { .. } => bits.min(48),
            // Up to 16 tables are concatenated.
            Layout::Armv8Stage2 { .. } => (bits + 4).min(48),
        }
    }

    /// Bits of the addresses with which a walk begins at so many levels: with fewer, the walks of some formats are shorter.
    pub fn least_input_bits(&self) -> u32 {
        match self.layout {
            Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. } => self.entry_size(self.levels).ilog2() + 1,
            _ => self.page_bits,
        }
    }

    /// The bits of an entry that hardware ignores, whatever it is set to.
    pub fn software_bits(&self, leaf: bool) -> u64 {
        match self.layout {
            Layout::VtdSecondStage { .. } => 1 << 10 | bits(u64::MAX, 61, 52) << 52 | 1 << 63,
            Layout::VtdFirstStage { .. } => 1 << 9 | 1 << 11 | bits(u64::MAX, 62, 52) << 52,
            Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. } if leaf => bits(u64::MAX, 58, 55) << 55,
            Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. } => bits(u64::MAX, 58, 51) << 51,
            Layout::Riscv64 => 3 << 8,
        }
    }

    /// The one of them that says, in an entry that leads to a table, that a walker which does not snoop sees it.
    pub fn visible(&self) -> u64 {
        match self.layout {
            Layout::VtdFirstStage { .. } | Layout::VtdSecondStage { .. } => 1 << 52,
            Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. } => 1 << 55,
            Layout::Riscv64 => 1 << 8,
        }
    }

    /// The highest level whose entries may be leaves.
    pub fn top_leaf_level(&self) -> u32 {
        let highest = match (self.layout, self.page_bits) {
            (Layout::Riscv64, _) => self.levels,
            (Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. }, 14 | 16) => 2,
            _ => 3,
        };
        highest.min(self.levels)
    }

    /// Entries of a contiguous group of `level`; 1 where there are none.
    pub fn group(&self, level: u32) -> u64 {
        let arm = matches!(self.layout, Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. });
        match (arm && level <= self.top_leaf_level(), self.page_bits, level) {
            (true, 12, _) => 16,
            (true, 14, 1) => 128,
            (true, 14, 2) | (true, 16, _) => 32,
            _ => 1,
        }
    }

    /// Whether a leaf can allow writes without reads.
    pub fn has_write_only(&self) -> bool {
        matches!(self.layout, Layout::VtdSecondStage { .. } | Layout::Armv8Stage2 { .. })
    }

    /// Entries of a table of `level` that translate addresses.
    pub fn entries(&self, level: u32) -> u64 {
        match level == self.levels {
            true => 1 << (self.input_bits.saturating_sub(self.entry_size(level).ilog2())),
            false => 1 << self.index_bits,
        }
    }

    /// Entries of a table of `level` that hardware may look at. Some formats translate a second range of addresses with
    /// the upper half of the root, where nothing may be.
    fn reachable(&self, level: u32) -> u64 {
        let upper = matches!(self.layout, Layout::VtdFirstStage { .. } | Layout::Riscv64);
        self.entries(level).max(if upper { 1 << self.index_bits } else { 1 })
    }

    pub fn root(&self, table: u64) -> Start {
        Start { table, level: self.levels, iova: 0 }
    }

    /// What an entry of `level` is.
    pub fn entry(&self, entry: u64, level: u32) -> Result<Entry, String> {
        let decoded = match self.layout {
            Layout::VtdFirstStage { .. } => self.vtd_first_stage(entry, level)?,
            Layout::VtdSecondStage { .. } => self.vtd_second_stage(entry, level)?,
            Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. } => self.armv8(entry, level)?,
            Layout::Riscv64 => self.riscv64(entry, level)?,
        };
        match decoded {
            Entry::Table(table) if table >> self.address_bits != 0 => bad("address beyond the width", entry, level),
            Entry::Leaf(leaf) => {
                let group = if leaf.grouped { self.group(level) } else { 1 };
                if leaf.phys >> self.address_bits != 0 {
                    bad("address beyond the width", entry, level)
                } else if leaf.phys & (self.entry_size(level) - 1) != 0 {
                    bad("address bits below the page size", entry, level)
                } else if leaf.grouped && group == 1 {
                    bad("contiguous where there are no groups", entry, level)
                } else if self.sizes & (self.entry_size(level) * group) == 0 {
                    bad("a leaf of a size that the unit does not take", entry, level)
                } else if !leaf.read && !leaf.write {
                    bad("a leaf that allows nothing", entry, level)
                } else {
                    Ok(decoded)
                }
            }
            other => Ok(other),
        }
    }

    /// The bits of a leaf that may differ inside of a contiguous group.
    fn dirty_bits(&self) -> u64 {
        match self.tracked {
            true => 1 << 7 | 1 << 56,
            false => 0,
        }
    }

    /// The leaf as hardware leaves it that writes through it; `None` where it refuses to.
    pub fn written(&self, entry: u64, level: u32) -> Option<u64> {
        match self.entry(entry, level) {
            Ok(Entry::Leaf(leaf)) if leaf.write && self.tracked => Some(match self.layout {
                Layout::VtdFirstStage { .. } => entry | 1 << 6,
                Layout::VtdSecondStage { .. } => entry | 1 << 9,
                Layout::Armv8Stage1 { .. } => entry & !(1 << 7),
                Layout::Armv8Stage2 { .. } | Layout::Riscv64 => entry | 1 << 7,
            }),
            Ok(Entry::Leaf(leaf)) if leaf.write => Some(entry),
            _ => None,
        }
    }

    fn load(read: Read<'_>, table: u64, index: u64) -> Result<u64, String> {
        read(table + 8 * index).ok_or_else(|| format!("a walk read entry {index} of {table:#x}, where no table is"))
    }

    /// The entries that a walk of `iova` from `start` reads, from the first one down.
    pub fn path(&self, read: Read<'_>, start: Start, iova: u64) -> Result<Vec<Place>, String> {
        let mut path = Vec::new();
        let mut table = start.table;
        for level in (1..=start.level).rev() {
            let address = table + 8 * (iova / self.entry_size(level) % self.entries(level));
            let entry = Self::load(read, address, 0)?;
            path.push(Place { address, level, entry });
            match self.entry(entry, level)? {
                Entry::Table(next) => table = next,
                _ => break,
            }
        }
        Ok(path)
    }

    /// The leaf at which a walk of `iova` from `start` ends.
    pub fn locate(&self, read: Read<'_>, start: Start, iova: u64) -> Result<Option<Place>, String> {
        if iova >= self.top() {
            return Ok(None);
        }
        let last = self.path(read, start, iova)?.pop();
        Ok(last.filter(|place| matches!(self.entry(place.entry, place.level), Ok(Entry::Leaf(_)))))
    }

    /// Where a walk of `iova` from `start` ends, from the one entry that it finds: hardware may answer for a whole
    /// contiguous group from any entry of it.
    pub fn walk(&self, read: Read<'_>, start: Start, iova: u64) -> Result<Option<Leaf>, String> {
        let Some(Place { level, entry, .. }) = self.locate(read, start, iova)? else { return Ok(None) };
        let Entry::Leaf(single) = self.entry(entry, level)? else { return bad("no leaf", entry, level) };
        let group = if single.grouped { self.group(level) } else { 1 };
        let (one, size) = (self.entry_size(level), self.entry_size(level) * group);
        let before = iova % size / one * one;
        if single.phys % size != before {
            return bad("not in its place in the group", entry, level);
        }
        let Single { phys, read, write, dirty, .. } = single;
        Ok(Some(Leaf { iova: iova / size * size, size, phys: phys - before, read, write, dirty, group }))
    }

    /// Every leaf in rising order, and every table below and including `start`, where nobody is at work on them: groups
    /// are whole.
    pub fn scan(&self, read: Read<'_>, start: Start) -> Result<(Vec<Leaf>, Vec<Start>), String> {
        let (mut leaves, mut tables) = (Vec::new(), Vec::new());
        self.scan_into(read, start, &mut leaves, &mut tables)?;
        let distinct: BTreeSet<_> = tables.iter().map(|start| start.table).collect();
        if distinct.len() != tables.len() {
            return Err("a frame hangs in the tree twice".into());
        }
        Ok((leaves, tables))
    }

    fn scan_into(
        &self,
        read: Read<'_>,
        start: Start,
        leaves: &mut Vec<Leaf>,
        tables: &mut Vec<Start>,
    ) -> Result<(), String> {
        let Start { table, level, iova } = start;
        tables.push(start);
        if !table.is_multiple_of(8 * self.entries(level)) {
            return Err(format!("the table {table:#x} of level {level} is not aligned to its size"));
        }
        let size = self.entry_size(level);
        let mut index = 0;
        while index < self.reachable(level) {
            let entry = Self::load(read, table, index)?;
            let decoded = self.entry(entry, level)?;
            if decoded != Entry::Nothing && index >= self.entries(level) {
                return bad("present beyond the width of addresses", entry, level);
            }
            let iova = iova + index * size;
            match decoded {
                Entry::Nothing => {}
                Entry::Table(table) => {
                    self.scan_into(read, Start { table, level: level - 1, iova }, leaves, tables)?;
                }
                Entry::Leaf(single) if single.grouped => {
                    leaves.push(self.scan_group(read, start, index)?);
                    index += self.group(level) - 1;
                }
                Entry::Leaf(Single { phys, read, write, dirty, .. }) => {
                    leaves.push(Leaf { iova, size, phys, read, write, dirty, group: 1 });
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// The contiguous group that begins with the entry `first`.
    fn scan_group(&self, read: Read<'_>, start: Start, first: u64) -> Result<Leaf, String> {
        let Start { table, level, iova } = start;
        let (group, one) = (self.group(level), self.entry_size(level));
        let size = one * group;
        let model = Self::load(read, table, first)?;
        let mut leaf: Option<Leaf> = None;
        for index in 0..group {
            let entry = Self::load(read, table, first + index)?;
            let Entry::Leaf(single) = self.entry(entry, level)? else {
                return bad("no leaf, in a contiguous group", entry, level);
            };
            let Single { phys, read, write, dirty, grouped } = single;
            if !grouped {
                return bad("not contiguous, in a contiguous group", entry, level);
            }
            let at = iova + first * one;
            let leaf = leaf.get_or_insert(Leaf { iova: at, size, phys, read, write, dirty, group });
            if !(leaf.iova | leaf.phys).is_multiple_of(size) || phys != leaf.phys + index * one {
                return bad("not in its place in the group", entry, level);
            }
            let same_bits = self.without_address(entry ^ model) & !self.dirty_bits() == 0;
            if (read, write) != (leaf.read, leaf.write) || !same_bits {
                return bad("other attributes than the rest of the group", entry, level);
            }
            leaf.dirty |= dirty;
        }
        leaf.ok_or_else(|| "a group of no entries".into())
    }

    /// An entry without its address.
    fn without_address(&self, entry: u64) -> u64 {
        match self.layout {
            Layout::Riscv64 => entry & !(bits(u64::MAX, 53, 10) << 10),
            Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. } => entry & !(bits(u64::MAX, 47, 12) << 12),
            _ => entry & !(bits(u64::MAX, 51, 12) << 12),
        }
    }
}
