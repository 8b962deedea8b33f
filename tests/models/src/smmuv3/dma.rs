//! Requests of devices.

mod live;

pub use live::FetchHook;
pub(super) use live::Fetching;

use super::control;
use super::stall::Attempt;
use super::unit::Unit;
use super::walk::{self, Denied, FaultCode, Found, Granted, Order, Refused, Request};
use crate::random::Random;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use live::Live;

/// CR0.ATSCHK.
const ATSCHK: u32 = 1 << 4;

/// Why a request was blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The event's type; [`FaultCode::NONE`] for what is blocked without one.
    pub code: FaultCode,
    /// The first address that was refused.
    pub iova: Iova,
    /// Whether it is an event that software gets to see, room in the event queue provided.
    pub reported: bool,
    /// Whether the request waits for an answer; nothing below counts until it has one.
    pub stalled: bool,
    /// Whether the device is told; otherwise it reads zeros and writes nothing (CD.A).
    pub aborted: bool,
}

impl Unit {
    /// Translates the `len` bytes from `iova` through the caches, records the first fault.
    pub(super) fn dma(
        &mut self,
        sid: u32,
        ssid: Option<u32>,
        iova: Iova,
        len: u64,
        write: bool,
    ) -> Result<Vec<PhysExtent>, Blocked> {
        let mut extents: Vec<PhysExtent> = Vec::new();
        let Some(less) = len.checked_sub(1) else { return Ok(extents) };
        let last = iova.get().checked_add(less).expect("a request does not wrap");
        let mut at = iova.get();
        loop {
            let end = last.min(at | 0xfff);
            let attempt = Attempt { sid, ssid, iova, len, write };
            let phys = self.page(sid, ssid, at, write).map_err(|refused| self.refuse(&attempt, at, &refused))?;
            match extents.last_mut() {
                Some(before) if before.start.get() + before.len == phys => before.len += end - at + 1,
                _ => extents.push(PhysExtent::new(PhysAddr::new(phys), end - at + 1)),
            }
            if end == last {
                break;
            }
            at = end + 1;
        }
        Ok(extents)
    }

    /// Where the byte at `iova` lies. Nothing is recorded.
    pub(super) fn page(&mut self, sid: u32, ssid: Option<u32>, iova: u64, write: bool) -> Result<u64, Refused> {
        if self.failed {
            return Err(FaultCode::NONE.into());
        }
        if self.cr0.actual & control::SMMUEN == 0 {
            let aborts = self.gbpa & control::ABORT != 0 || iova >> self.config.output_bits() != 0;
            return if aborts { Err(FaultCode::NONE.into()) } else { Ok(iova) };
        }
        self.translate(Request { sid, ssid, iova, write }).map(|found| found.phys())
    }

    /// Where the byte lies, with the unit on.
    pub(super) fn translate(&mut self, request: Request) -> Result<Found, Refused> {
        self.lose_entries();
        let (config, tables) = (self.config, self.tables);
        walk::request(&mut self.live(), &config, tables, request)
    }

    /// The answer to a request of a device for a translation (section 3.9.1.2). With `write` it asks for writes as well (NW
    /// clear): accessed and dirty flags are set as by the access. F_BAD_ATS_TREQ is recorded.
    pub(super) fn ats_request(
        &mut self,
        sid: u32,
        ssid: Option<u32>,
        iova: u64,
        write: bool,
    ) -> Result<Granted, Denied> {
        let answer = if self.failed {
            Err(Denied::Aborted(FaultCode::NONE))
        } else if self.cr0.actual & control::SMMUEN == 0 {
            Err(Denied::Unsupported { recorded: true })
        } else {
            self.lose_entries();
            let (config, tables, checked) = (self.config, self.tables, self.cr0.actual & ATSCHK != 0);
            walk::ask(&mut self.live(), &config, tables, Request { sid, ssid, iova, write }, checked)
        };
        if answer == Err(Denied::Unsupported { recorded: true }) {
            let attempt = Attempt { sid, ssid, iova: Iova::new(iova), len: 1, write };
            self.refuse(&attempt, iova, &FaultCode::F_BAD_ATS_TREQ.into());
        }
        answer
    }

    /// Where a translated request to `phys` goes (section 3.9.1.3). Nothing is recorded.
    pub(super) fn ats_translated(&mut self, sid: u32, phys: u64, write: bool) -> Result<u64, Refused> {
        if self.cr0.actual & control::SMMUEN == 0 {
            return Err(FaultCode::F_TRANSL_FORBIDDEN.into());
        }
        let (config, tables, checked) = (self.config, self.tables, self.cr0.actual & ATSCHK != 0);
        let request = Request { sid, ssid: None, iova: phys, write };
        walk::translated(&mut self.live(), &config, tables, request, checked)
    }

    /// Memory as it looks from behind the caches.
    fn live(&mut self) -> Live<'_> {
        self.caches.split = match self.tables.config >> 6 & 0x1f {
            split @ (6 | 8 | 10) => split,
            _ => 6,
        };
        Live {
            caches: &mut self.caches,
            memory: &self.memory,
            config: &self.config,
            violations: &mut self.violations,
            fetching: &mut self.fetching,
        }
    }

    /// Lets caches lose entries, where a switch asks for it.
    fn lose_entries(&mut self) {
        let fetching = &mut self.fetching;
        if let Some(one_in) = fetching.evict
            && fetching.random.below(one_in) == 0
        {
            self.caches.evict(&mut fetching.random);
        }
    }

    /// Every stream whose STE is cached reads from each of `inputs`, by each substream whose CD is, and nobody is told what
    /// comes of it.
    pub(super) fn ask_again(&mut self, inputs: &[u64]) {
        let mut askers: Vec<(u32, Option<u32>)> = self.caches.stes.keys().map(|sid| (*sid, None)).collect();
        askers.extend(self.caches.cds.keys().map(|(sid, ssid)| (*sid, Some(*ssid))));
        for ((sid, ssid), iova) in askers.into_iter().flat_map(|asker| inputs.iter().map(move |iova| (asker, *iova))) {
            let _ = self.translate(Request { sid, ssid, iova, write: false });
        }
    }

    /// From now on words are fetched in this order.
    pub(super) fn set_order(&mut self, order: Order) {
        self.fetching.order = order;
        if let Order::Shuffled(seed) = order {
            self.fetching.random = Random::new(seed);
        }
    }

    pub(super) fn set_fetch_hook(&mut self, hook: Option<FetchHook>) {
        self.fetching.hook = hook;
    }

    /// Contiguous groups are kept leaf by leaf.
    pub(super) fn split_groups(&mut self, split: bool) {
        self.fetching.single = split;
    }

    /// From now on caches lose entries at one lookup in so many; zero: never.
    pub(super) fn set_evict(&mut self, seed: u64, one_in: usize) {
        self.fetching.random = Random::new(seed);
        self.fetching.evict = (one_in != 0).then_some(one_in);
    }
}
