//! The I/O address space: areas at fixed addresses, kept alike in every domain that joins it.
//!
//! An area is one map call: a range of I/O virtual addresses and the memory behind it. A map never replaces anything,
//! and an unmap takes whole areas. Whatever fails leaves the address space as it was, with one exception that isolation
//! demands: where hardware did not confirm an invalidation, the areas concerned stay, *draining*. Their addresses stay
//! taken, their memory must not be reused, and the next unmap of them tries again.

mod area;
mod error;
mod reserved;

pub use area::Area;
pub use error::IoasError;
pub use reserved::Owner;

use crate::addr::{Iova, IovaRange, PAGE_SIZE, PhysExtent, total_len};
use crate::hw::{Domain, Gather, HwError, Prot};
use alloc::boxed::Box;
use alloc::vec::Vec;
use area::Areas;
use reserved::Reserved;

/// Names a domain inside of its address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DomainId(u64);

struct Member {
    id: DomainId,
    domain: Box<dyn Domain>,
}

/// An address space.
///
/// Dropping it drops its domains, which blocks their streams; but only [`Ioas::remove_domain`] tells whether hardware has
/// confirmed that, so an embedder that reuses the memory calls it first.
#[derive(Default)]
pub struct Ioas {
    areas: Areas,
    reserved: Reserved,
    domains: Vec<Member>,
    next_domain: u64,
}

impl Ioas {
    /// An empty address space without domains.
    pub const fn new() -> Self {
        Self { areas: Areas::new(), reserved: Reserved::new(), domains: Vec::new(), next_domain: 0 }
    }

    /// Maps `extents`, one after the other, from `iova` on, in every domain.
    ///
    /// # Errors
    ///
    /// In the order in which they are looked for: [`IoasError::Protection`], [`IoasError::Overflow`],
    /// [`IoasError::Empty`], [`IoasError::Misaligned`], [`IoasError::Reserved`], [`IoasError::Overlap`],
    /// [`IoasError::OutOfMemory`], and [`IoasError::Domain`] with what a domain said.
    pub fn map_fixed(&mut self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), IoasError> {
        if prot.is_none() {
            return Err(IoasError::Protection(prot));
        }
        let overflow = IoasError::Overflow { iova };
        let len = total_len(extents).ok_or(overflow)?;
        if len == 0 {
            return Err(IoasError::Empty);
        }
        let range = IovaRange::from_len(iova, len).ok_or(overflow)?;
        self.check_alignment(iova, extents)?;
        if let Some(reserved) = self.reserved.overlapping(range) {
            return Err(IoasError::Reserved { reserved });
        }
        if let Some(area) = self.areas.overlapping(range) {
            return Err(IoasError::Overlap { area: area.range() });
        }
        // The area is complete and has its place before any domain is touched: nothing after this needs memory here.
        let area = Area::new(range, extents, prot)?;
        self.areas.reserve_one()?;
        for at in 0..self.domains.len() {
            let Err(error) = self.domains[at].domain.map(iova, extents, prot) else {
                continue;
            };
            // A domain that answers for hardware may hold the mapping although it failed: it is undone there too.
            let undo = if is_unconfirmed(error) { at + 1 } else { at };
            let mut undone = Ok(());
            for member in &self.domains[..undo] {
                // One that fails does not keep the others mapped.
                let result = remove(&*member.domain, core::iter::once(&area), true);
                undone = undone.and(result);
            }
            // What could not be undone is what the caller must know: until it is, the memory counts as reachable.
            return Err(IoasError::Domain(match undone {
                Ok(()) => error,
                Err(unconfirmed) => {
                    self.areas.insert(area.into_draining());
                    unconfirmed
                }
            }));
        }
        self.areas.insert(area);
        Ok(())
    }

    /// Takes every area inside of `range` away from every domain, waits until no device can reach the memory, and
    /// returns the number of bytes unmapped. Gaps are allowed.
    ///
    /// # Errors
    ///
    /// [`IoasError::NotFound`] where nothing is mapped; [`IoasError::CutsArea`] where an area lies only partly inside;
    /// nothing has changed. [`IoasError::Domain`] where hardware did not confirm: the areas are draining.
    pub fn unmap(&mut self, range: IovaRange) -> Result<u64, IoasError> {
        let touched = self.areas.touched_by(range);
        if touched.is_empty() {
            return Err(IoasError::NotFound { iova: range.start() });
        }
        let areas = self.areas.get_mut(touched.clone());
        if let Some(cut) = areas.iter().find(|area| !range.covers(area.range())) {
            return Err(IoasError::CutsArea { area: cut.range() });
        }
        let bytes = areas.iter().map(Area::len).fold(0u64, u64::saturating_add);
        let mut outcome = Ok(());
        for member in &self.domains {
            // A domain that fails does not keep the others mapped.
            let result = remove(&*member.domain, areas.iter(), false);
            outcome = outcome.and(result);
        }
        match outcome {
            Ok(()) => {
                self.areas.remove(touched);
                Ok(bytes)
            }
            Err(error) => {
                areas.iter_mut().for_each(Area::set_draining);
                Err(IoasError::Domain(error))
            }
        }
    }

    /// Takes everything away. Succeeds on an empty address space.
    ///
    /// # Errors
    ///
    /// [`IoasError::Domain`] as for [`Ioas::unmap`].
    pub fn unmap_all(&mut self) -> Result<u64, IoasError> {
        match self.unmap(IovaRange::FULL) {
            Err(IoasError::NotFound { .. }) => Ok(0),
            other => other,
        }
    }

    /// Lets `domain` join: maps every area in it and keeps its reserved ranges free from now on.
    ///
    /// # Errors
    ///
    /// [`IoasError::Overlap`] where a range that the domain reserves is mapped already; [`IoasError::OutOfMemory`];
    /// [`IoasError::Domain`]. The domain is dropped, and nothing has changed.
    pub fn add_domain(&mut self, domain: Box<dyn Domain>) -> Result<DomainId, IoasError> {
        self.domains.try_reserve(1).map_err(|_| IoasError::OutOfMemory)?;
        let id = DomainId(self.next_domain);
        let owner = Owner::Domain(id);
        for range in domain.reserved_ranges() {
            self.reserve(*range, owner).inspect_err(|_| self.reserved.release(owner))?;
        }
        // What is draining was unmapped as far as its owner is concerned: no new domain may lead there.
        for area in self.areas.iter().filter(|area| !area.is_draining()) {
            if let Err(error) = domain.map(area.range().start(), area.extents(), area.prot()) {
                self.reserved.release(owner);
                return Err(IoasError::Domain(error));
            }
        }
        self.next_domain += 1;
        self.domains.push(Member { id, domain });
        Ok(id)
    }

    /// The domain named `id`, for attaching streams to it.
    pub fn domain(&self, id: DomainId) -> Option<&dyn Domain> {
        self.domains.iter().find(|member| member.id == id).map(|member| &*member.domain)
    }

    /// Lets a domain leave: blocks its streams and waits until no device reaches anything through it. Its reserved
    /// ranges become free.
    ///
    /// # Errors
    ///
    /// [`IoasError::NoDomain`]. [`IoasError::Domain`] where hardware did not confirm: the domain stays, and all of its
    /// memory counts as reachable until a later call succeeds.
    pub fn remove_domain(&mut self, id: DomainId) -> Result<(), IoasError> {
        let at = self.domains.iter().position(|member| member.id == id).ok_or(IoasError::NoDomain)?;
        self.domains[at].domain.retire()?;
        drop(self.domains.remove(at));
        self.reserved.release(Owner::Domain(id));
        Ok(())
    }

    /// Keeps `range` free for `owner`. Ranges of several owners may overlap.
    ///
    /// # Errors
    ///
    /// [`IoasError::Overlap`] where an area is in the way; [`IoasError::OutOfMemory`].
    pub fn reserve(&mut self, range: IovaRange, owner: Owner) -> Result<(), IoasError> {
        if let Some(area) = self.areas.overlapping(range) {
            return Err(IoasError::Overlap { area: area.range() });
        }
        self.reserved.insert(range, owner)
    }

    /// Frees every range of `owner`.
    pub fn release(&mut self, owner: Owner) {
        self.reserved.release(owner);
    }

    /// The ranges that areas may lie in: what every domain translates and nobody reserves, lowest first.
    pub fn iova_ranges(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let aperture = self.domains.iter().try_fold(IovaRange::FULL, |common, member| {
            let other = member.domain.geometry().aperture;
            IovaRange::new(common.start().max(other.start()), common.last().min(other.last()))
        });
        self.reserved.gaps(aperture)
    }

    /// What every area's address and length must be a multiple of, in bytes.
    pub fn alignment(&self) -> u64 {
        let smallest = |member: &Member| member.domain.geometry().page_sizes.smallest().unwrap_or(PAGE_SIZE);
        self.domains.iter().map(smallest).fold(PAGE_SIZE, u64::max)
    }

    /// The areas, lowest first.
    pub fn areas(&self) -> impl Iterator<Item = &Area> + '_ {
        self.areas.iter()
    }

    fn check_alignment(&self, iova: Iova, extents: &[PhysExtent]) -> Result<(), IoasError> {
        let align = self.alignment();
        let values = extents.iter().flat_map(|extent| [extent.start.get(), extent.len]);
        match core::iter::once(iova.get()).chain(values).find(|value| value & (align - 1) != 0) {
            Some(value) => Err(IoasError::Misaligned { value, align }),
            None => Ok(()),
        }
    }
}

/// Whether an error means that hardware may still act on the old state, or already on the new one.
fn is_unconfirmed(error: HwError) -> bool {
    matches!(error, HwError::TimedOut(_) | HwError::Queue { .. })
}

/// Takes `areas` out of one domain with one flush. What is gone already counts as removed where the area is draining or
/// `partly` says that the domain may hold only some of them: then everything is invalidated.
fn remove<'a>(domain: &dyn Domain, areas: impl Iterator<Item = &'a Area>, partly: bool) -> Result<(), HwError> {
    let mut gather = Gather::new();
    let mut outcome = Ok(());
    for area in areas {
        match domain.unmap(area.range(), &mut gather) {
            Ok(()) => {}
            Err(HwError::NotMapped { .. }) if partly || area.is_draining() => gather.add_everything(),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome.and(domain.flush(&mut gather))
}

#[cfg(test)]
mod tests;
