//! RISC-V Sv39 and Sv48: "Virtual-Memory System" of the privileged specification.

use super::{Entry, Raw, Single, bad, bits};

impl Raw {
    pub(super) fn riscv64(&self, entry: u64, level: u32) -> Result<Entry, String> {
        let bad = |what: &str| bad(what, entry, level);
        let bit = |at: u32| bits(entry, at, at) == 1;
        if !bit(0) {
            return Ok(Entry::Nothing);
        }
        if bits(entry, 63, 54) != 0 {
            return bad("N, PBMT or reserved bits are set");
        }
        if bit(5) || bit(9) {
            return bad("G or a software bit is set");
        }
        let address = bits(entry, 53, 10) << 12;
        if bits(entry, 3, 1) == 0 {
            return if level == 1 {
                bad("a page that leads to a table")
            } else if bit(4) || bit(6) || bit(7) {
                bad("U, A and D are reserved in entries that lead to tables")
            } else if bit(8) && self.coherent {
                bad("a software bit is set")
            } else {
                Ok(Entry::Table(address))
            };
        }
        let (read, write) = (bit(1), bit(2));
        if !read {
            return bad("writable or executable, but not readable");
        }
        if bit(3) || !bit(4) || bit(8) {
            return bad("X, U or a software bit");
        }
        if !bit(6) {
            return bad("A is clear");
        }
        if !self.tracked && bit(7) != write {
            return bad("D does not follow W");
        }
        Ok(Entry::Leaf(Single { phys: address, read, write, dirty: self.tracked && bit(7), grouped: false }))
    }
}
