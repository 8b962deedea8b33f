//! What one would write with the standard library: a `BTreeMap` of areas and one of the gaps between them.
//!
//! It checks what this project checks and rolls back what this project rolls back. [`Parallel`] can do what an address
//! space must be able to, as far as a map or an unmap has to do with it: several domains, which are called without the
//! lock on areas, so that disjoint maps run at once; areas that are locked or on their way; an account that several
//! address spaces share. [`Serial`] leaves that out: one domain, one lock that is held all the time, a plain count.

mod state;

use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{Domain, Gather, HwError, Prot};
use state::State;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Why something was refused.
#[derive(Debug)]
#[allow(dead_code)]
pub enum Refused {
    /// The arguments.
    Invalid(&'static str),
    /// A reserved range, or the end of the aperture.
    Reserved(u64),
    /// An area is in the way.
    Overlap(u64),
    /// No hole.
    NoSpace,
    /// The quota.
    Quota,
    /// Nothing there.
    NotFound,
    /// An area lies only partly inside.
    Cuts(u64),
    /// Locked, or somebody else is at it.
    Busy,
    /// The domain.
    Domain(HwError),
}

/// What an area costs, beside the memory.
const RECORD: u64 = 128;

/// The length of all extents.
fn total(extents: &[PhysExtent], prot: Prot) -> Result<u64, Refused> {
    if prot.is_none() {
        return Err(Refused::Invalid("protection"));
    }
    let mut len = 0u64;
    for extent in extents {
        extent.last().ok_or(Refused::Invalid("an extent that wraps"))?;
        len = len.checked_add(extent.len).ok_or(Refused::Invalid("length"))?;
    }
    if len == 0 { Err(Refused::Invalid("length")) } else { Ok(len) }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn span(start: u64, last: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), Iova::new(last)).expect("in order")
}

/// One domain, one lock.
pub struct Serial(Mutex<(State, Box<dyn Domain>, u64)>);

impl Serial {
    /// An empty one without limits.
    pub fn new(domain: Box<dyn Domain>) -> Self {
        Self(Mutex::new((State::new(&*domain), domain, 0)))
    }

    /// Maps memory, run after run.
    pub fn map(&self, extents: &[PhysExtent], at: Option<u64>, prot: Prot) -> Result<u64, Refused> {
        let len = total(extents, prot)?;
        let (state, domain, charged) = &mut *held(&self.0);
        if u64::MAX - *charged < len {
            return Err(Refused::Quota);
        }
        let (start, last) = state.place(extents, len, at, prot, true)?;
        if let Err(error) = domain.map(Iova::new(start), extents, prot) {
            state.remove(start);
            return Err(Refused::Domain(error));
        }
        *charged += last - start + 1;
        Ok(start)
    }

    /// Takes away every area inside of the range, and returns how many bytes that were.
    pub fn unmap(&self, start: u64, last: u64) -> Result<u64, Refused> {
        let (state, domain, charged) = &mut *held(&self.0);
        state.mark(start, last)?;
        let mut gather = Gather::new();
        for (start, area) in state.areas.range(start..=last) {
            domain.unmap(span(*start, area.last), &mut gather).map_err(Refused::Domain)?;
        }
        domain.flush(&mut gather).map_err(Refused::Domain)?;
        let bytes = state.remove_all(start, last);
        *charged -= bytes;
        Ok(bytes)
    }
}

/// Who pays: several address spaces may have the same.
#[derive(Default)]
struct Account {
    pinned: AtomicU64,
    records: AtomicU64,
}

impl Account {
    fn charge(counter: &AtomicU64, amount: u64) -> Result<(), Refused> {
        let more = |used: u64| used.checked_add(amount);
        let charged = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        charged.map(drop).map_err(|_| Refused::Quota)
    }

    fn pay(&self, bytes: u64) -> Result<(), Refused> {
        Self::charge(&self.pinned, bytes)?;
        Self::charge(&self.records, RECORD).inspect_err(|_| {
            self.pinned.fetch_sub(bytes, Ordering::Relaxed);
        })
    }

    fn repay(&self, bytes: u64, areas: u64) {
        self.pinned.fetch_sub(bytes, Ordering::Relaxed);
        self.records.fetch_sub(areas * RECORD, Ordering::Relaxed);
    }
}

/// Several domains, disjoint maps at once, an account that is shared.
pub struct Parallel {
    state: Mutex<State>,
    domains: RwLock<Vec<Box<dyn Domain>>>,
    account: Mutex<Arc<Account>>,
}

impl Parallel {
    /// An empty one without limits.
    pub fn new(domain: Box<dyn Domain>) -> Self {
        let state = Mutex::new(State::new(&*domain));
        Self { state, domains: RwLock::new(vec![domain]), account: Mutex::default() }
    }

    /// Maps memory, run after run.
    pub fn map(&self, extents: &[PhysExtent], at: Option<u64>, prot: Prot) -> Result<u64, Refused> {
        let len = total(extents, prot)?;
        // The lock keeps the account from being exchanged meanwhile.
        held(&self.account).pay(len)?;
        let placed = self.place_and_fill(extents, len, at, prot);
        placed.inspect_err(|_| held(&self.account).repay(len, 1))
    }

    fn place_and_fill(&self, extents: &[PhysExtent], len: u64, at: Option<u64>, prot: Prot) -> Result<u64, Refused> {
        let domains = self.domains.read().unwrap_or_else(PoisonError::into_inner);
        let (start, last) = held(&self.state).place(extents, len, at, prot, false)?;
        for (filled, domain) in domains.iter().enumerate() {
            if let Err(error) = domain.map(Iova::new(start), extents, prot) {
                for domain in &domains[..filled] {
                    let mut gather = Gather::new();
                    domain.unmap(span(start, last), &mut gather).map_err(Refused::Domain)?;
                    domain.flush(&mut gather).map_err(Refused::Domain)?;
                }
                held(&self.state).remove(start);
                return Err(Refused::Domain(error));
            }
        }
        if let Some(area) = held(&self.state).areas.get_mut(&start) {
            area.live = true;
        }
        Ok(start)
    }

    /// Takes away every area inside of the range, and returns how many bytes that were.
    pub fn unmap(&self, start: u64, last: u64) -> Result<u64, Refused> {
        let (areas, first) = held(&self.state).mark(start, last)?;
        {
            let domains = self.domains.read().unwrap_or_else(PoisonError::into_inner);
            for domain in &*domains {
                let mut gather = Gather::new();
                let mut next = Some(first);
                while let Some((start, end)) = next {
                    domain.unmap(span(start, end), &mut gather).map_err(Refused::Domain)?;
                    // Most unmaps are of one area, and need no second look.
                    next = if areas > 1 && end < last { held(&self.state).first(end + 1, last) } else { None };
                }
                domain.flush(&mut gather).map_err(Refused::Domain)?;
            }
        }
        let bytes = held(&self.state).remove_all(start, last);
        held(&self.account).repay(bytes, areas);
        Ok(bytes)
    }
}
