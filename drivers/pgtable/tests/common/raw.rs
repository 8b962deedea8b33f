//! A decoder of raw entries, written from the bit tables of the specification and from nothing in the crate under test.
//! Whatever hardware would fault on as malformed, or would have to write itself, is an error.

use std::collections::BTreeSet;

/// What entries look like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    VtdFirstStage,
    /// With or without snoop control, and then every leaf is to snoop.
    VtdSecondStage {
        snoop: bool,
    },
    /// With this AttrIndx in every leaf.
    Armv8Stage1 {
        attribute_index: u64,
    },
    Armv8Stage2,
}

/// The hardware that walks.
#[derive(Clone, Copy)]
pub struct Raw {
    pub layout: Layout,
    pub levels: u32,
    /// Host address width.
    pub address_bits: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    pub iova: u64,
    pub size: u64,
    pub phys: u64,
    pub read: bool,
    pub write: bool,
}

/// A table that a walk may begin in, as hardware that caches upper entries does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    pub table: u64,
    /// 1 for the tables of 4 KiB leaves, as the specification counts.
    pub level: u32,
    /// Lowest address it translates.
    pub iova: u64,
}

#[derive(PartialEq, Eq, Debug)]
enum Entry {
    Nothing,
    Table(u64),
    Leaf { phys: u64, read: bool, write: bool },
}

fn bits(entry: u64, high: u32, low: u32) -> u64 {
    entry >> low & ((1 << (high - low + 1)) - 1)
}

/// Bytes one entry translates.
pub fn entry_size(level: u32) -> u64 {
    0x1000 << (9 * (level - 1))
}

impl Raw {
    pub fn root(&self, table: u64) -> Start {
        Start { table, level: self.levels, iova: 0 }
    }

    /// Whether a leaf can allow writes without reads.
    pub fn has_write_only(&self) -> bool {
        matches!(self.layout, Layout::VtdSecondStage { .. } | Layout::Armv8Stage2)
    }

    fn entry(&self, entry: u64, level: u32) -> Result<Entry, String> {
        match self.layout {
            Layout::VtdFirstStage => self.vtd_entry(entry, level, true, false),
            Layout::VtdSecondStage { snoop } => self.vtd_entry(entry, level, false, snoop),
            Layout::Armv8Stage1 { attribute_index } => self.armv8_entry(entry, level, Some(attribute_index)),
            Layout::Armv8Stage2 => self.armv8_entry(entry, level, None),
        }
    }

    /// An entry of stage 1, where an AttrIndx is given, or of stage 2. 4 KiB granule; the Arm manual counts levels the
    /// other way round, from 0 at the root of four levels to 3.
    fn armv8_entry(&self, entry: u64, level: u32, stage_1: Option<u64>) -> Result<Entry, String> {
        let bad = |what: &str| Err(format!("{what}: entry {entry:#x} of level {level}"));
        let bit = |at: u32| bits(entry, at, at) == 1;
        if !bit(0) {
            return Ok(Entry::Nothing);
        }
        if level == 1 && !bit(1) {
            return bad("a page that reads as a block is reserved");
        }
        let address = bits(entry, 47, 12) << 12;
        if address >> self.address_bits != 0 {
            return bad("address beyond the width");
        }
        if level > 1 && bit(1) {
            return match entry & !address {
                3 => Ok(Entry::Table(address)),
                _ => bad("a table entry with attributes"),
            };
        }
        if level > 3 {
            return bad("a block is reserved here");
        }
        if address & (entry_size(level) - 1) != 0 {
            return bad("address bits, or nT, below the page size");
        }
        if bits(entry, 52, 48) != 0 || bits(entry, 63, 55) != 0 {
            return bad("contiguous, DBM, GP, software or high bits are set");
        }
        if bits(entry, 9, 8) != 3 || !bit(10) {
            return bad("not inner shareable, or AF is clear");
        }
        let (read, write) = match stage_1 {
            Some(attribute_index) => {
                if bits(entry, 4, 2) != attribute_index || bit(5) {
                    return bad("AttrIndx or NS");
                }
                if !bit(6) {
                    return bad("AP[1] is clear: no unprivileged access");
                }
                if !bit(11) || bits(entry, 54, 53) != 3 {
                    return bad("global or executable");
                }
                (true, !bit(7))
            }
            None => {
                if bits(entry, 5, 2) != 15 {
                    return bad("MemAttr is not write-back");
                }
                if bit(11) || bits(entry, 54, 53) != 2 {
                    return bad("bit 11 is set, or executable");
                }
                (bit(6), bit(7))
            }
        };
        match read || write {
            true => Ok(Entry::Leaf { phys: address, read, write }),
            false => bad("a leaf that allows nothing"),
        }
    }

    fn vtd_entry(&self, entry: u64, level: u32, first_stage: bool, snoop: bool) -> Result<Entry, String> {
        let bad = |what: &str| Err(format!("{what}: entry {entry:#x} of level {level}"));
        let bit = |at: u32| bits(entry, at, at) == 1;
        let present = if first_stage { bit(0) } else { bits(entry, 1, 0) != 0 };
        if !present {
            return Ok(Entry::Nothing);
        }
        let large = level > 1 && bit(7);
        let leaf = level == 1 || large;
        if large && level > 3 {
            return bad("PS is reserved here");
        }
        if level == 1 && bit(7) {
            return bad(if first_stage { "PAT is set" } else { "PS is set" });
        }
        let address = bits(entry, 51, 12) << 12;
        if address >> self.address_bits != 0 {
            return bad("address beyond the width");
        }
        if leaf && address & (entry_size(level) - 1) != 0 {
            return bad("address bits below the page size");
        }
        if bits(entry, 63, 52) != 0 {
            return bad("high bits are set");
        }
        if first_stage {
            if !bit(2) {
                return bad("U/S is clear");
            }
            if !bit(5) {
                return bad("A is clear");
            }
            if leaf && bit(1) != bit(6) {
                return bad("D does not follow R/W");
            }
            if !leaf && bit(6) || bits(entry, 4, 3) != 0 || bits(entry, 11, 8) != 0 {
                return bad("PWT, PCD, G, EA or an ignored bit is set");
            }
            let (read, write) = (true, bit(1));
            return match leaf {
                true => Ok(Entry::Leaf { phys: address, read, write }),
                false if !write => bad("a table without R/W"),
                false => Ok(Entry::Table(address)),
            };
        }
        if bits(entry, 6, 2) != 0 || bits(entry, 10, 8) != 0 {
            return bad("X, EMT, IPAT, A, D or an ignored bit is set");
        }
        if bit(11) != (leaf && snoop) {
            return bad("SNP");
        }
        match leaf {
            true => Ok(Entry::Leaf { phys: address, read: bit(0), write: bit(1) }),
            false if bits(entry, 1, 0) != 3 => bad("a table that takes rights away"),
            false => Ok(Entry::Table(address)),
        }
    }

    fn load(read: &dyn Fn(u64) -> Option<u64>, table: u64, index: u64) -> Result<u64, String> {
        read(table + 8 * index).ok_or_else(|| format!("a walk read entry {index} of {table:#x}, where no table is"))
    }

    /// Where a walk of `iova` from `start` ends.
    pub fn walk(&self, read: &dyn Fn(u64) -> Option<u64>, start: Start, iova: u64) -> Result<Option<Leaf>, String> {
        let mut table = start.table;
        for level in (1..=start.level).rev() {
            let size = entry_size(level);
            match self.entry(Self::load(read, table, iova / size % 512)?, level)? {
                Entry::Nothing => return Ok(None),
                Entry::Table(next) => table = next,
                Entry::Leaf { phys, read, write } => {
                    return Ok(Some(Leaf { iova: iova / size * size, size, phys, read, write }));
                }
            }
        }
        Err("no leaf at level 1".into())
    }

    /// Every leaf in rising order, and every table below and including `start`.
    pub fn scan(&self, read: &dyn Fn(u64) -> Option<u64>, start: Start) -> Result<(Vec<Leaf>, Vec<Start>), String> {
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
        read: &dyn Fn(u64) -> Option<u64>,
        start: Start,
        leaves: &mut Vec<Leaf>,
        tables: &mut Vec<Start>,
    ) -> Result<(), String> {
        tables.push(start);
        let size = entry_size(start.level);
        for index in 0..512 {
            let iova = start.iova + index * size;
            let entry = Self::load(read, start.table, index)?;
            match self.entry(entry, start.level)? {
                Entry::Nothing if entry != 0 => return Err(format!("not present, and not zero: {entry:#x}")),
                Entry::Nothing => {}
                Entry::Table(table) => {
                    self.scan_into(read, Start { table, level: start.level - 1, iova }, leaves, tables)?;
                }
                Entry::Leaf { phys, read, write } => leaves.push(Leaf { iova, size, phys, read, write }),
            }
        }
        Ok(())
    }
}
