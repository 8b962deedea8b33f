//! Domains of an address space ("hardware page tables"): tables of one unit that hold every area of it.
//!
//! A domain has users: its owner's handle, what is attached to it, and the nested domains on top of it. It stays in its
//! address space as long as it has any, and leaves with the last; one that was made for an attachment alone goes with that.
//! Where hardware does not confirm that it is gone, the address space keeps it, and all it maps counts as reachable, until
//! [`Ioas::reclaim`] succeeds.

use crate::dirty::Tracking;
use crate::error::Error;
use crate::fault::FaultQueue;
use crate::hw::{Domain, DomainConfig, Stage, Unit, unique_number};
use crate::ioas::{Inner, Ioas};
use crate::quota::Amounts;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use iommu_alloc::Shared;

/// What a domain is to be.
#[derive(Clone)]
pub struct HwptConfig {
    /// The stage its tables are walked as.
    pub stage: Stage,
    /// Guests' own first stages are to go on top of it.
    pub nest_parent: bool,
    /// It is to be able to record which memory was written through it.
    pub dirty_tracking: bool,
    /// All DMA through it is coherent, whatever the device asks for. Decided here once and for all.
    pub enforce_coherency: bool,
    /// An access that faults waits until the group of one page request that it becomes in `faults` is answered, where the unit
    /// [can](crate::hw::UnitCapabilities::stalls) have it wait. Without `faults` it is refused at once.
    pub stall: bool,
    /// PASIDs, and functions that have some attached, may lead to it.
    pub pasid: bool,
    /// Where page requests and faults of the streams that lead to it go.
    pub faults: Option<FaultQueue>,
}

impl HwptConfig {
    /// A domain of `stage` without anything special.
    pub const fn new(stage: Stage) -> Self {
        Self {
            stage,
            nest_parent: false,
            dirty_tracking: false,
            enforce_coherency: false,
            stall: false,
            pasid: false,
            faults: None,
        }
    }

    fn domain(&self) -> DomainConfig {
        DomainConfig {
            stage: self.stage,
            nest_parent: self.nest_parent,
            dirty_tracking: self.dirty_tracking,
            enforce_coherency: self.enforce_coherency,
            stall: self.stall,
        }
    }
}

/// What users share.
pub(crate) struct HwptInner {
    pub(crate) domain: Box<dyn Domain>,
    pub(crate) unit: Arc<dyn Unit>,
    pub(crate) config: HwptConfig,
    pub(crate) ioas: Shared<Inner>,
    /// Names what it reserves.
    pub(crate) number: u64,
    /// At 0 it leaves its address space, for good.
    pub(crate) users: AtomicUsize,
    /// Whether writes through it are being recorded.
    pub(crate) tracking: Tracking,
    /// Made for devices that asked for any domain of the address space; false at first.
    pub(crate) automatic: AtomicBool,
    _cost: Cost,
}

/// What a domain costs the owner of its address space. Dropped, it is given back.
struct Cost(Shared<Inner>);

impl Cost {
    const AMOUNTS: Amounts = Amounts { objects: 1, metadata: size_of::<HwptInner>() as u64, ..Amounts::NONE };

    fn charge(ioas: &Shared<Inner>) -> Result<Self, Error> {
        ioas.ledger().charge(Self::AMOUNTS)?;
        Ok(Self(ioas.clone()))
    }
}

impl Drop for Cost {
    fn drop(&mut self) {
        self.0.ledger().release(Self::AMOUNTS);
    }
}

/// One user of a domain. Dropped without locks held: the last one has it leave.
pub(crate) struct HwptUse {
    hwpt: Shared<HwptInner>,
    /// It has left already.
    left: AtomicBool,
}

impl HwptUse {
    /// A new domain of `ioas`, filled with all that is mapped there; this is its first user.
    pub(crate) fn new(ioas: &Shared<Inner>, unit: &Arc<dyn Unit>, config: HwptConfig) -> Result<Self, Error> {
        if config.nest_parent && config.faults.is_some() {
            return Err(Error::Unsupported("a fault queue on a nest parent"));
        }
        let cost = Cost::charge(ioas)?;
        let domain = unit.create_domain(&config.domain())?;
        let hwpt = Shared::try_new(HwptInner {
            domain,
            unit: unit.clone(),
            config,
            ioas: ioas.clone(),
            number: unique_number(),
            users: AtomicUsize::new(1),
            tracking: Tracking::new(),
            automatic: AtomicBool::new(false),
            _cost: cost,
        })?;
        // Where that fails it has no streams, so nothing is reachable through what it holds.
        ioas.join(&hwpt)?;
        Ok(Self { hwpt, left: AtomicBool::new(false) })
    }

    /// One user more, unless it is on its way out.
    pub(crate) fn of(hwpt: &Shared<HwptInner>) -> Option<Self> {
        let more = |users: usize| if users == 0 { None } else { users.checked_add(1) };
        hwpt.users.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(Self { hwpt: hwpt.clone(), left: AtomicBool::new(false) })
    }

    /// One user more.
    pub(crate) fn another(&self) -> Self {
        // There is one: it cannot be on its way out.
        self.users.fetch_add(1, Ordering::Relaxed);
        Self { hwpt: self.hwpt.clone(), left: AtomicBool::new(false) }
    }

    /// Whether both use the same domain.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Shared::same(&self.hwpt, &other.hwpt)
    }

    /// Has it leave, if this is the only user.
    fn leave(&self) -> Result<(), Error> {
        if self.users.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Err(Error::Busy);
        }
        self.ioas.leave(&self.hwpt, 1)?;
        self.left.store(true, Ordering::Relaxed);
        Inner::unmap_left(&self.ioas);
        Ok(())
    }
}

impl Deref for HwptUse {
    type Target = HwptInner;

    fn deref(&self) -> &HwptInner {
        &self.hwpt
    }
}

impl Drop for HwptUse {
    fn drop(&mut self) {
        if *self.left.get_mut() || self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        match self.ioas.leave(&self.hwpt, 0) {
            Ok(()) => Inner::unmap_left(&self.ioas),
            // The address space keeps it.
            Err(error) => error!("a domain could not be taken down: error {}", error.errno()),
        }
    }
}

/// A domain of an address space. Dropped, it goes once nothing is attached to it any more.
pub struct Hwpt(pub(crate) HwptUse);

impl Hwpt {
    /// A new domain of `ioas` on `unit`, filled with all that is mapped there.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a fault queue on a nest parent; [`Error::Quota`] (an object of the address space's
    /// account); [`Error::OutOfMemory`]; [`Error::AddressInUse`] where an area, an allowed range or an area's alignment is
    /// at odds with the domain's geometry, or an area stands where the domain reserves; [`Error::Hardware`] with what the
    /// unit or the domain said, such as a capability that is missing. Nothing has changed.
    pub fn new(ioas: &Ioas, unit: &Arc<dyn Unit>, config: HwptConfig) -> Result<Self, Error> {
        HwptUse::new(ioas.inner(), unit, config).map(Self)
    }

    /// Takes it out of its address space.
    ///
    /// # Errors
    ///
    /// Together with the domain, for another try: [`Error::Busy`] where something is attached to it or nested on it;
    /// [`Error::Hardware`] where hardware did not confirm that nothing is reachable through it any more.
    pub fn destroy(self) -> Result<(), (Self, Error)> {
        match self.leave() {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }

    /// As [`Hwpt::destroy`], of one that is dropped next.
    pub(crate) fn leave(&self) -> Result<(), Error> {
        self.0.leave()
    }

    /// The driver's domain, for translations and the like.
    pub fn domain(&self) -> &dyn Domain {
        &*self.0.domain
    }

    /// What it was made as.
    pub fn config(&self) -> &HwptConfig {
        &self.0.config
    }

    /// Whether anything is attached to it or nested on it.
    pub fn is_used(&self) -> bool {
        self.0.users.load(Ordering::Acquire) > 1
    }

    /// Whether both are the same domain.
    pub fn same(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }
}
