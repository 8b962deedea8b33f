//! Everything that a stream reaches.

use super::page::{Half, Stage2, size};
use super::request::{Plain, View, request};
use super::stream::{self, Kind};
use super::{Config, FaultCode, Read64, Refused, Tables, context};
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

/// Every leaf through which stream `sid` reaches memory, in table order: what a test of publish order asks of each
/// snapshot. Leaves that would fault are left out. Bypass is one leaf as wide as the unit's addresses.
///
/// # Errors
///
/// As [`translate`](super::translate), where STE or CD refuse every request: then nothing can be reached.
///
/// # Panics
///
/// Where the stream has both stages: that is not done.
pub fn reachable(
    read64: Read64<'_>,
    tables: Tables,
    config: &Config,
    sid: u32,
    ssid: Option<u32>,
) -> Result<Vec<Reach>, FaultCode> {
    let halves = || -> Result<_, Refused> {
        let view = &mut Plain(read64);
        let ste = stream::ste(view, config, tables, sid)?;
        let (first, second) = match stream::kind(config, &ste)? {
            Kind::Abort => return Err(Refused::by(FaultCode::NONE)),
            Kind::Bypass => return Ok([None, None]),
            Kind::Translate { first, second } => (first, second),
        };
        let Some(ssid) = (if first { context::select(&ste, ssid)? } else { None }) else {
            let of = |stage2: Stage2| Half {
                table: stage2.table,
                input_bits: stage2.input_bits,
                level: stage2.level,
                flat: true,
            };
            return Ok([second.map(of), None]);
        };
        assert!(second.is_none(), "stream {sid:#x} has both stages");
        let cd = context::fetch(view, &ste, ssid, &mut |_, at| Ok(at))?;
        let stage1 = context::check(config, &ste, &cd, false)?;
        // Neither half: every address is refused.
        if stage1.low.or(stage1.high).is_none() {
            return Err(Refused::by(FaultCode::F_TRANSLATION));
        }
        Ok([stage1.low, stage1.high])
    };
    let halves = halves().map_err(|refused| refused.code)?;
    let mut search = Search { read64, config, tables, sid, ssid, found: Vec::new() };
    if let [None, None] = halves {
        let len = 1 << config.output_bits();
        return Ok(alloc::vec![Reach { iova: Iova::new(0), phys: PhysAddr::new(0), len, read: true, write: true }]);
    }
    for (half, high) in halves.into_iter().zip([false, true]) {
        if let Some(Half { table, input_bits, level, .. }) = half {
            let from = if high { !(u64::MAX >> (64 - input_bits)) } else { 0 };
            search.descend(table, level, (1u64 << input_bits).div_ceil(size(level)), from);
        }
    }
    Ok(search.found)
}

struct Search<'a> {
    read64: Read64<'a>,
    config: &'a Config,
    tables: Tables,
    sid: u32,
    ssid: Option<u32>,
    found: Vec<Reach>,
}

impl Search<'_> {
    /// Finds candidates by their valid bits; whether they are reachable is for [`request`] to say.
    fn descend(&mut self, table: u64, level: u8, entries: u64, from: u64) {
        for index in 0..entries {
            let Some(word) = Plain(self.read64).word(table + index * 8) else { return };
            if word & 1 == 0 {
                continue;
            }
            let iova = from + index * size(level);
            if level < 3 && word & 2 != 0 {
                self.descend(word & 0x000f_ffff_ffff_f000, level + 1, 512, iova);
            } else {
                self.leaf(iova);
            }
        }
    }

    fn leaf(&mut self, iova: u64) {
        let try_as = |write| {
            let found = request(&mut Plain(self.read64), self.config, self.tables, self.sid, self.ssid, iova, write);
            found.ok().map(|found| found.entry)
        };
        let (read, write) = (try_as(false), try_as(true));
        if let Some(entry) = read.or(write) {
            let (iova, phys) = (Iova::new(iova), PhysAddr::new(entry.phys));
            self.found.push(Reach { iova, phys, len: entry.size, read: read.is_some(), write: write.is_some() });
        }
    }
}
