//! What there is in the machine: physical pages, who pinned them, and what could reach them.

use super::{MOCK_PAGE, lock, platform, violation};
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::{DeviceTlb, Stream, StreamId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// Something that the core did, in the order in which it did it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Event {
    /// The stream leads to the domain of this number; `None`: it does not, and is blocked or identity.
    Attach {
        stream: Stream,
        domain: Option<u64>,
    },
    Map {
        domain: u64,
        iova: u64,
        len: u64,
    },
    Unmap {
        domain: u64,
        iova: u64,
        len: u64,
    },
    Flush {
        domain: u64,
    },
    Retire {
        domain: u64,
    },
    DropDomain {
        domain: u64,
    },
    Pin {
        memory: u64,
    },
    Unpin {
        memory: u64,
    },
    /// The function of this number is allowed to do DMA, or no more.
    BusMaster {
        function: u64,
        on: bool,
    },
    Feature {
        function: u64,
        feature: iommu_core::device::Feature,
        on: bool,
    },
    /// The unit was told of the device TLB behind the stream, or that there is none any more.
    DeviceTlb {
        stream: StreamId,
        tlb: Option<DeviceTlb>,
    },
}

/// Where a physical run is reachable.
#[derive(Clone, Copy, Debug)]
struct Reach {
    len: u64,
    domain: u64,
    iova: u64,
}

#[derive(Default)]
struct State {
    next_phys: u64,
    next_token: u64,
    /// Pages that sources own: how often each is pinned. By page number.
    pins: HashMap<u64, u32>,
    /// By address and token.
    reach: BTreeMap<(u64, u64), Reach>,
    longest: u64,
    /// Some flush was not confirmed: what is unmapped once more may not be mapped.
    doubt: bool,
    events: Option<Vec<Event>>,
}

/// A machine: what the stand-ins of one test have in common. A handle.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty machine.
    pub fn new() -> Self {
        platform();
        Self(Arc::new(Mutex::new(State { next_phys: 1 << 32, ..State::default() })))
    }

    /// `len` bytes of physical addresses at a multiple of `align` that belong to no source: memory that its owner keeps in
    /// place. Never adjacent to any other.
    pub fn phys(&self, len: u64, align: u64) -> PhysExtent {
        let mut state = lock(&self.0);
        let start = state.next_phys.next_multiple_of(align.max(MOCK_PAGE));
        state.next_phys = start + len.next_multiple_of(MOCK_PAGE) + MOCK_PAGE;
        PhysExtent::new(PhysAddr::new(start), len)
    }

    /// How many pages (of [`MOCK_PAGE`] bytes) are pinned at least once.
    pub fn pinned_pages(&self) -> usize {
        lock(&self.0).pins.values().filter(|&&pins| pins > 0).count()
    }

    /// How often the page at `phys` is pinned.
    pub fn pins(&self, phys: PhysAddr) -> u32 {
        lock(&self.0).pins.get(&(phys.get() / MOCK_PAGE)).copied().unwrap_or(0)
    }

    /// How many leaves and stale translations there are by which devices could reach memory.
    pub fn reachable(&self) -> usize {
        lock(&self.0).reach.len()
    }

    /// Where a device could reach any of `extent`, if anywhere: the domain's number, and the address.
    pub fn reaches(&self, extent: PhysExtent) -> Option<(u64, Iova)> {
        lock(&self.0).reaches(extent)
    }

    /// Nothing is pinned and nothing can be reached: what must hold at the end of a test.
    #[track_caller]
    pub fn assert_clean(&self) {
        let (pinned, reachable) = (self.pinned_pages(), self.reachable());
        assert!(pinned == 0 && reachable == 0, "{pinned} pages are still pinned, {reachable} translations still stand");
    }

    /// From now on keeps what happens.
    pub fn record(&self) {
        lock(&self.0).events = Some(Vec::new());
    }

    /// What happened since the last call, or since [`World::record`].
    pub fn events(&self) -> Vec<Event> {
        lock(&self.0).events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Some hardware did not confirm.
    pub(super) fn doubt(&self) {
        lock(&self.0).doubt = true;
    }

    /// Whether some hardware did not confirm, at any time.
    pub(super) fn is_in_doubt(&self) -> bool {
        lock(&self.0).doubt
    }

    pub(super) fn note(&self, event: Event) {
        if let Some(events) = &mut lock(&self.0).events {
            events.push(event);
        }
    }

    /// These pages belong to a source from now on, and must be pinned to be mapped.
    pub(super) fn own(&self, extents: &[PhysExtent]) {
        let mut state = lock(&self.0);
        for page in pages(extents) {
            state.pins.entry(page).or_insert(0);
        }
    }

    pub(super) fn pin(&self, extents: &[PhysExtent]) {
        let mut state = lock(&self.0);
        for page in pages(extents) {
            *state.pins.entry(page).or_insert(0) += 1;
        }
    }

    pub(super) fn unpin(&self, extents: &[PhysExtent], checked: bool) {
        let mut found = None;
        let mut state = lock(&self.0);
        for page in pages(extents) {
            let pins = state.pins.entry(page).or_insert(0);
            *pins = pins.saturating_sub(1);
            if *pins == 0 && checked && found.is_none() {
                let page = PhysExtent::new(PhysAddr::new(page * MOCK_PAGE), MOCK_PAGE);
                found = state.reaches(page).map(|at| (page.start, at));
            }
        }
        drop(state);
        if let Some((phys, (domain, iova))) = found {
            violation(format_args!("{phys} is unpinned, and can be reached through domain {domain} at {iova}"));
        }
    }

    /// A device can reach `extent` from now on. Returns what names this way.
    pub(super) fn expose(&self, extent: PhysExtent, domain: u64, iova: u64) -> u64 {
        let mut state = lock(&self.0);
        let unpinned = pages(&[extent]).find(|page| state.pins.get(page) == Some(&0));
        let token = state.next_token;
        state.next_token += 1;
        state.longest = state.longest.max(extent.len);
        state.reach.insert((extent.start.get(), token), Reach { len: extent.len, domain, iova });
        drop(state);
        if let Some(page) = unpinned {
            let phys = PhysAddr::new(page * MOCK_PAGE);
            violation(format_args!("{phys} is mapped at {iova:#x}, and is not pinned"));
        }
        token
    }

    pub(super) fn hide(&self, phys: PhysAddr, token: u64) {
        lock(&self.0).reach.remove(&(phys.get(), token));
    }
}

impl State {
    fn reaches(&self, extent: PhysExtent) -> Option<(u64, Iova)> {
        let last = extent.last()?.get();
        let low = extent.start.get().saturating_sub(self.longest);
        let mut near = self.reach.range((low, 0)..=(last, u64::MAX));
        near.find(|((start, _), reach)| start + reach.len > extent.start.get())
            .map(|(_, reach)| (reach.domain, Iova::new(reach.iova)))
    }
}

/// The numbers of the pages that `extents` touch.
fn pages(extents: &[PhysExtent]) -> impl Iterator<Item = u64> + '_ {
    let touched = extents.iter().filter_map(|extent| Some((extent.start.get(), extent.last()?.get())));
    touched.flat_map(|(start, last)| start / MOCK_PAGE..=last / MOCK_PAGE)
}
