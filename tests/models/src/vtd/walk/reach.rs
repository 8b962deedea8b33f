//! Everything that a stream reaches.

use super::view::Plain;
use super::{
    Admission, Config, FaultCode, Leaf, PasidEntry, Read64, Refused, Regime, Request, address, admit, at, context,
    page, pasid_entry, second, size,
};
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
/// snapshot. Leaves that would fault are left out. Pass-through is one leaf as wide as the host; nested translation
/// gives the smaller of two leaves each time.
///
/// # Errors
///
/// As [`translate`](super::translate), where the stream's tables cannot be reached: then nothing can.
pub fn reachable(
    read64: Read64<'_>,
    rtaddr: u64,
    config: &Config,
    requester: u16,
    pasid: Option<u32>,
) -> Result<Vec<Reach>, FaultCode> {
    let request = Request::new(requester, pasid, Iova::new(0), false);
    let regime = regime(read64, rtaddr, config, &request).map_err(|refused: Refused| refused.code)?;
    let (table, levels) = match (&regime.first, &regime.second) {
        (Some(first), _) => (first.table, first.levels),
        (None, Some(second)) => (second.table, second.levels),
        (None, None) => {
            let (iova, phys) = (Iova::new(0), PhysAddr::new(0));
            return Ok(alloc::vec![Reach { iova, phys, len: 1 << config.haw, read: true, write: true }]);
        }
    };
    let mut search = Search { read64, config, regime, request, levels, found: Vec::new() };
    search.descend(table, levels, 0);
    Ok(search.found)
}

fn regime(read64: Read64<'_>, rtaddr: u64, config: &Config, request: &Request) -> Result<Regime, Refused> {
    let view = &mut Plain(read64);
    let context = context(view, rtaddr, config, request)?;
    match admit(config, &context, request)? {
        Admission::Pasid(pasid) => {
            let entry: PasidEntry = pasid_entry(view, config, &context, pasid)?;
            Ok(Regime::of_pasid(config, &context, &entry))
        }
        // A request is untranslated here.
        Admission::Legacy | Admission::Translated => Ok(Regime::of_context(config, &context)),
    }
}

struct Search<'a> {
    read64: Read64<'a>,
    config: &'a Config,
    regime: Regime,
    request: Request,
    levels: u32,
    found: Vec<Reach>,
}

impl Search<'_> {
    /// Finds candidates by their present bits; whether they are reachable is for [`page`] to say.
    fn descend(&mut self, table: u64, level: u32, from: u64) {
        let first_stage = self.regime.first.is_some();
        let (present, shift) = (if first_stage { 1 } else { 3 }, 3 + 9 * level);
        let Some(table) = self.host(table) else { return };
        for index in 0..512 {
            let Some(word) = (self.read64)(at(table, index * 8)) else { return };
            if word & present == 0 {
                continue;
            }
            let iova = from | index << shift;
            if level > 1 && word & 1 << 7 == 0 {
                self.descend(address(word), level - 1, iova);
            } else if first_stage {
                let sign = 64 - (12 + 9 * self.levels);
                self.leaf(((iova << sign) as i64 >> sign) as u64, size(level));
            } else {
                self.leaf(iova, size(level));
            }
        }
    }

    /// Where a table lies: in nested translation, where the second stage puts it.
    fn host(&self, table: u64) -> Option<u64> {
        match (&self.regime.first, &self.regime.second) {
            (Some(_), Some(second)) => {
                let found = second::walk(&mut Plain(self.read64), self.config, second, table, false).ok()?;
                Some(found.phys)
            }
            _ => Some(table),
        }
    }

    /// What is reached through a leaf of `len` bytes, which the second stage may cut into smaller ones.
    fn leaf(&mut self, iova: u64, len: u64) {
        let mut offset = 0;
        while offset < len {
            let at = Iova::new(iova + offset);
            let try_as = |write| {
                let request =
                    Request { requester: self.request.requester, ..Request::new(0, self.request.pasid, at, write) };
                page(&mut Plain(self.read64), self.config, &self.regime, &request).ok()
            };
            let (read, write) = (try_as(false), try_as(true));
            let Some(Leaf { phys, size, .. }) = read.or(write) else {
                // Without a second stage the whole leaf is refused; with one, this page of it.
                offset += if self.regime.kind == 3 { 0x1000 } else { len };
                continue;
            };
            let phys = PhysAddr::new(phys);
            self.found.push(Reach { iova: at, phys, len: size, read: read.is_some(), write: write.is_some() });
            offset += size;
        }
    }
}
