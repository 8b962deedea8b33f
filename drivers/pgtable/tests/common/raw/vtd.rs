//! VT-d: "Second-Stage Paging Entries" and "First-Stage Paging Entries", the latter as in x86-64.

use super::{Entry, Layout, Raw, Single, bad, bits};

impl Raw {
    /// The address of a second-stage or first-stage entry.
    fn vtd_address(entry: u64) -> u64 {
        bits(entry, 51, 12) << 12
    }

    /// Bit 52 is software's in entries that lead to tables which the unit does not snoop; 63:53 are not used.
    fn vtd_high_bits(&self, entry: u64, leaf: bool) -> bool {
        let visible = !leaf && !self.coherent;
        bits(entry, 62, 53) == 0 && (visible || bits(entry, 52, 52) == 0)
    }

    pub(super) fn vtd_second_stage(&self, entry: u64, level: u32) -> Result<Entry, String> {
        let Layout::VtdSecondStage { snoop } = self.layout else { return bad("not this layout", entry, level) };
        let bad = |what: &str| bad(what, entry, level);
        let bit = |at: u32| bits(entry, at, at) == 1;
        if bits(entry, 1, 0) == 0 {
            return Ok(Entry::Nothing);
        }
        let large = level > 1 && bit(7);
        let leaf = level == 1 || large;
        if large && level > 3 {
            return bad("PS is reserved here");
        }
        if level == 1 && bit(7) {
            return bad("PS is set in a page");
        }
        if !self.vtd_high_bits(entry, leaf) || bit(63) {
            return bad("high bits are set");
        }
        if bits(entry, 6, 2) != 0 || bit(10) {
            return bad("X, EMT, IPAT or an ignored bit is set");
        }
        if bit(8) != self.tracked {
            return bad("A");
        }
        if bit(9) && !(self.tracked && leaf) {
            return bad("D");
        }
        if bit(11) != (leaf && snoop) {
            return bad("SNP");
        }
        if leaf {
            let phys = Self::vtd_address(entry);
            return Ok(Entry::Leaf(Single { phys, read: bit(0), write: bit(1), dirty: bit(9), grouped: false }));
        }
        match bits(entry, 1, 0) {
            3 => Ok(Entry::Table(Self::vtd_address(entry))),
            _ => bad("a table that takes rights away"),
        }
    }

    pub(super) fn vtd_first_stage(&self, entry: u64, level: u32) -> Result<Entry, String> {
        let Layout::VtdFirstStage { supervisor, no_execute } = self.layout else {
            return bad("not this layout", entry, level);
        };
        let bad = |what: &str| bad(what, entry, level);
        let bit = |at: u32| bits(entry, at, at) == 1;
        if !bit(0) {
            return Ok(Entry::Nothing);
        }
        let large = level > 1 && bit(7);
        let leaf = level == 1 || large;
        if large && level > 3 {
            return bad("PS is reserved here");
        }
        if level == 1 && bit(7) {
            return bad("PAT is set");
        }
        if !self.vtd_high_bits(entry, leaf) {
            return bad("high bits are set");
        }
        if bit(63) != (leaf && no_execute) {
            return bad("XD");
        }
        if bit(2) == supervisor {
            return bad("U/S");
        }
        if !bit(5) {
            return bad("A is clear");
        }
        if bits(entry, 4, 3) != 0 || bits(entry, 11, 8) != 0 {
            return bad("PWT, PCD, G, EA or an ignored bit is set");
        }
        let write = bit(1);
        if leaf {
            if !self.tracked && bit(6) != write {
                return bad("D does not follow R/W");
            }
            let dirty = self.tracked && bit(6);
            return Ok(Entry::Leaf(Single {
                phys: Self::vtd_address(entry),
                read: true,
                write,
                dirty,
                grouped: false,
            }));
        }
        if bit(6) {
            return bad("bit 6 of a table entry");
        }
        match write {
            true => Ok(Entry::Table(Self::vtd_address(entry))),
            false => bad("a table without R/W"),
        }
    }
}
