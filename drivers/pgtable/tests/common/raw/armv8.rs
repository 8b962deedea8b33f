//! Armv8: "VMSAv8-64 translation table format descriptors", stage 1 and stage 2, all three granules. The Arm manual counts
//! levels the other way round, from the root to 3.

use super::{Entry, Layout, Raw, Single, bad, bits};

impl Raw {
    pub(super) fn armv8(&self, entry: u64, level: u32) -> Result<Entry, String> {
        let bad = |what: &str| bad(what, entry, level);
        let bit = |at: u32| bits(entry, at, at) == 1;
        if !bit(0) {
            return Ok(Entry::Nothing);
        }
        if level == 1 && !bit(1) {
            return bad("a page that reads as a block is reserved");
        }
        let address = bits(entry, 47, self.page_bits) << self.page_bits;
        if level > 1 && bit(1) {
            // Bit 55 is software's in entries that lead to tables which the unit does not snoop.
            let visible = if self.coherent { 0 } else { 1 << 55 };
            return match entry & !address & !visible {
                3 => Ok(Entry::Table(address)),
                _ => bad("a table entry with attributes, or address bits below its size"),
            };
        }
        if level > self.top_leaf_level() {
            return bad("a block is reserved here");
        }
        if self.page_bits > 12 && bits(entry, self.page_bits - 1, 12) != 0 {
            return bad("address bits below the granule");
        }
        if bits(entry, 50, 48) != 0 || bit(55) || bits(entry, 63, 57) != 0 {
            return bad("GP, software or high bits are set");
        }
        if !bit(10) {
            return bad("AF is clear");
        }
        let (read, write, dirty) = match self.layout {
            Layout::Armv8Stage1 { .. } => self.armv8_stage_1(entry, level)?,
            _ => self.armv8_stage_2(entry, level)?,
        };
        if bit(51) != (self.tracked && write) {
            return bad("DBM");
        }
        // Software's: it was written through before it was made read-only.
        if bit(56) && (write || !self.tracked) {
            return bad("bit 56");
        }
        Ok(Entry::Leaf(Single { phys: address, read, write, dirty: dirty || bit(56), grouped: bit(52) }))
    }

    /// Whether it allows reads and writes, and is dirty.
    fn armv8_stage_1(&self, entry: u64, level: u32) -> Result<(bool, bool, bool), String> {
        let Layout::Armv8Stage1 { attribute_index, shareability, privileged, executable } = self.layout else {
            return bad("not this layout", entry, level);
        };
        let bad = |what: &str| bad(what, entry, level);
        let bit = |at: u32| bits(entry, at, at) == 1;
        if bits(entry, 4, 2) != attribute_index || bits(entry, 9, 8) != shareability || bit(5) {
            return bad("AttrIndx, SH or NS");
        }
        if bit(6) == privileged {
            return bad("AP[1]: access from the wrong side");
        }
        if !bit(11) {
            return bad("global");
        }
        if bits(entry, 54, 53) != if executable { 0 } else { 3 } {
            return bad("PXN, UXN");
        }
        // With hardware that manages dirty state, AP[2] set beside DBM means writable and clean.
        let read_only = bit(7);
        match self.tracked {
            true if !read_only && !bit(51) => bad("writable, and hardware does not note it"),
            true => Ok((true, bit(51), !read_only)),
            false => Ok((true, !read_only, false)),
        }
    }

    /// Whether it allows reads and writes, and is dirty.
    fn armv8_stage_2(&self, entry: u64, level: u32) -> Result<(bool, bool, bool), String> {
        let Layout::Armv8Stage2 { memory_attributes, shareability, executable } = self.layout else {
            return bad("not this layout", entry, level);
        };
        let bad = |what: &str| bad(what, entry, level);
        let bit = |at: u32| bits(entry, at, at) == 1;
        if bits(entry, 5, 2) != memory_attributes || bits(entry, 9, 8) != shareability {
            return bad("MemAttr or SH");
        }
        if bit(11) || bits(entry, 54, 53) != if executable { 0 } else { 2 } {
            return bad("bit 11, or XN");
        }
        // With hardware that manages dirty state, S2AP[1] clear beside DBM means writable and clean.
        let (read, write) = (bit(6), bit(7));
        match self.tracked {
            true if write && !bit(51) => bad("writable, and hardware does not note it"),
            true => Ok((read, bit(51), write)),
            false => Ok((read, write, false)),
        }
    }
}
