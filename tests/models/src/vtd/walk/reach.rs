//! Everything that a stream reaches.

use super::page::{Leaf, page};
use super::{Config, FaultCode, PasidEntry, Read64, Refused, at, context, pasid_entry};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};

/// A leaf that a stream reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// First address.
    pub iova: Iova,
    /// Where it leads.
    pub phys: PhysAddr,
    /// Length in bytes.
    pub len: u64,
    /// Whether reads are let through.
    pub read: bool,
    /// Whether writes are let through.
    pub write: bool,
}

/// Every leaf through which `requester` reaches memory, in table order: what a test of publish order asks of each
/// snapshot. Leaves that would fault are left out. Pass-through is one leaf as wide as the host.
///
/// # Errors
///
/// As [`translate`](super::translate), where the stream's PASID entry cannot be reached: then nothing can.
pub fn reachable(
    read64: Read64<'_>,
    rtaddr: u64,
    config: &Config,
    requester: u16,
    pasid: Option<u32>,
) -> Result<Vec<Reach>, FaultCode> {
    let entry = || pasid_entry(read64, config, &context(read64, rtaddr, config, requester, pasid.is_some())?, pasid);
    let entry = entry().map_err(|refused: Refused| refused.code)?;
    let (word, levels) = match entry.kind() {
        1 => (entry.words[2], if entry.words[2] >> 2 & 3 == 1 { 5 } else { 4 }),
        2 => (entry.words[0], (entry.words[0] >> 2 & 7) as u32 + 2),
        _ => {
            let (iova, phys) = (Iova::new(0), PhysAddr::new(0));
            return Ok(alloc::vec![Reach { iova, phys, len: 1 << config.haw, read: true, write: true }]);
        }
    };
    let mut search = Search { read64, config, entry: &entry, levels, found: Vec::new() };
    search.descend(word, levels, 0);
    Ok(search.found)
}

struct Search<'a> {
    read64: Read64<'a>,
    config: &'a Config,
    entry: &'a PasidEntry,
    levels: u32,
    found: Vec<Reach>,
}

impl Search<'_> {
    /// Finds candidates by their present bits; whether they are reachable is for [`page`] to say.
    fn descend(&mut self, table: u64, level: u32, from: u64) {
        let first_stage = self.entry.kind() == 1;
        let (present, shift) = (if first_stage { 1 } else { 3 }, 3 + 9 * level);
        for index in 0..512 {
            let Some(word) = (self.read64)(at(table & 0x000f_ffff_ffff_ffff, index * 8)) else { return };
            if word & present == 0 {
                continue;
            }
            let iova = from | index << shift;
            if level > 1 && word & 1 << 7 == 0 {
                self.descend(word, level - 1, iova);
            } else if first_stage {
                let sign = 64 - (12 + 9 * self.levels);
                self.leaf(((iova << sign) as i64 >> sign) as u64);
            } else {
                self.leaf(iova);
            }
        }
    }

    fn leaf(&mut self, iova: u64) {
        let try_as = |write| page(self.read64, self.config, self.entry, iova, write).ok();
        let (read, write) = (try_as(false), try_as(true));
        if let Some(Leaf { phys, size, .. }) = read.or(write) {
            let (iova, phys) = (Iova::new(iova), PhysAddr::new(phys));
            self.found.push(Reach { iova, phys, len: size, read: read.is_some(), write: write.is_some() });
        }
    }
}
