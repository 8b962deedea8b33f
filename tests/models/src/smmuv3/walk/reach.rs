//! Everything that a stream reaches.

use super::page::{self, Stage2, Tables as Top};
use super::request::{Request, Stop, fetch_cd, request};
use super::second::{self, Asked};
use super::stream::{self, Kind};
use super::view::{Plain, View};
use super::{Class, Config, FaultCode, Read64, Refused, Tables, context};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};

/// A leaf that a stream reaches, or with both stages the part of it that one leaf of stage 2 maps.
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

/// Every leaf through which requests of stream `sid`, with or without substream, reach memory, in table order: what a test
/// of publish order asks of each snapshot. Leaves that would fault are left out. Bypass is one leaf as wide as the unit's
/// addresses.
///
/// With both stages it takes a walk for each 4 KiB of the leaves of stage 1 that stage 2 does not map.
///
/// # Errors
///
/// As [`translate`](super::translate), where STE or CD refuse every request: then nothing can be reached.
pub fn reachable(
    read64: Read64<'_>,
    tables: Tables,
    config: &Config,
    sid: u32,
    ssid: Option<u32>,
) -> Result<Vec<Reach>, FaultCode> {
    let mut search = Search { read64, config, tables, sid, ssid, stage2: None, found: Vec::new() };
    match search.run() {
        Ok(()) => Ok(search.found),
        Err(Stop::Refused(refused)) => Err(refused.code),
        Err(Stop::Changed) => Err(FaultCode::F_WALK_EABT),
    }
}

struct Search<'a> {
    read64: Read64<'a>,
    config: &'a Config,
    tables: Tables,
    sid: u32,
    ssid: Option<u32>,
    /// What the tables of stage 1 lie behind.
    stage2: Option<Stage2>,
    found: Vec<Reach>,
}

impl Search<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let view = &mut Plain(self.read64);
        let ste = stream::ste(view, self.config, self.tables, self.sid)?;
        let (first, stage2) = match stream::kind(self.config, &ste)? {
            Kind::Abort => return Err(Refused::by(FaultCode::NONE).into()),
            Kind::Bypass => (false, None),
            Kind::Translate { first, second } => (first, second),
        };
        let selected = if first {
            context::select(&ste, self.ssid)?
        } else {
            context::without_first(self.ssid)?;
            None
        };
        let Some(ssid) = selected else {
            match stage2 {
                Some(stage2) => self.descend_top(&stage2.tables, false),
                None => {
                    let (iova, phys, len) = (Iova::new(0), PhysAddr::new(0), 1 << self.config.output_bits());
                    self.found.push(Reach { iova, phys, len, read: true, write: true });
                }
            }
            return Ok(());
        };
        let cd = fetch_cd(view, &ste, stage2.as_ref(), self.sid, ssid)?;
        let stage1 = context::check(self.config, &ste, &cd, stage2.is_some())?;
        // Neither half: every address is refused.
        if stage1.low.or(stage1.high).is_none() {
            return Err(Refused::by(FaultCode::F_TRANSLATION).into());
        }
        self.stage2 = stage2;
        for (half, high) in [(stage1.low, false), (stage1.high, true)] {
            if let Some(half) = half {
                self.descend_top(&half, high);
            }
        }
        Ok(())
    }

    fn descend_top(&mut self, top: &Top, high: bool) {
        let from = if high { !(u64::MAX >> (64 - top.input_bits)) } else { 0 };
        let entries = (1u64 << top.input_bits).div_ceil(1 << top.granule.shift(top.level));
        self.descend(top, top.table, top.level, entries, from);
    }

    /// Finds candidates by their valid bits; whether they are reachable is for [`request`] to say.
    fn descend(&mut self, top: &Top, table: u64, level: u8, entries: u64, from: u64) {
        for index in 0..entries {
            let Some(word) = self.word(table + index * 8) else { continue };
            if word & 1 == 0 {
                continue;
            }
            let iova = from.wrapping_add(index << top.granule.shift(level));
            if level < 3 && word & 2 != 0 {
                self.descend(top, word & page::ADDRESS, level + 1, 1 << top.granule.stride(), iova);
            } else {
                self.leaf(iova, 1 << top.granule.shift(level));
            }
        }
    }

    /// A descriptor, through stage 2 where the tables lie behind it.
    fn word(&self, at: u64) -> Option<u64> {
        let view = &mut Plain(self.read64);
        let phys = match &self.stage2 {
            None => at,
            Some(stage2) => {
                let asked = Asked { ipa: at, write: false, class: Class::Table };
                let entry = second::translate(view, stage2, asked, true).ok()?;
                entry.phys + (at & entry.mask())
            }
        };
        view.word(phys)
    }

    fn leaf(&mut self, first: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let iova = first.wrapping_add(done);
            let try_as = |write| {
                let request_for = Request { sid: self.sid, ssid: self.ssid, iova, write };
                let found = request(&mut Plain(self.read64), self.config, self.tables, request_for);
                found.ok().map(|found| found.entry)
            };
            let (read, write) = (try_as(false), try_as(true));
            let size = match read.or(write) {
                Some(entry) => {
                    let (iova, phys, len) = (Iova::new(iova), PhysAddr::new(entry.phys), entry.mask() + 1);
                    self.found.push(Reach { iova, phys, len, read: read.is_some(), write: write.is_some() });
                    len
                }
                // Without stage 2 the whole leaf is refused.
                None if self.stage2.is_none() => len,
                None => 0x1000,
            };
            done += size;
        }
    }
}
