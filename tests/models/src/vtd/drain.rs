//! Requests that were translated and are not in memory yet (section 6.5.4).
//!
//! With [`Model::linger`](super::Model::linger) requests stay on their way until an invalidation drains them and has
//! completed: a frame that one of them goes to is not free.

use super::config::Config;
use super::descriptor::{Descriptor, Granularity};
use super::unit::Unit;
use super::walk::{Leaf, Regime, Request};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};

/// A request on its way to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// Source id.
    pub requester: u16,
    /// Domain id of the translation.
    pub domain: u16,
    /// PASID of the translation, RID_PASID where the request had none; `None` in legacy mode.
    pub pasid: Option<u32>,
    /// First byte of the page asked for.
    pub iova: Iova,
    /// First byte of the page it goes to.
    pub phys: PhysAddr,
    /// Whether it writes.
    pub write: bool,
}

#[derive(Default)]
pub(super) struct Draining {
    pub(super) lingers: bool,
    /// With whether it is gone once the command that drains it has completed.
    requests: Vec<(InFlight, bool)>,
}

impl Draining {
    /// An untranslated request goes to memory through `leaf`. Those that come translated are drained by their device.
    pub(super) fn add(&mut self, request: &Request, regime: &Regime, leaf: &Leaf) {
        if !self.lingers || request.is_translation() {
            return;
        }
        let page = request.iova.get() & !0xfff;
        let request = InFlight {
            requester: request.requester,
            domain: regime.domain,
            pasid: regime.pasid,
            iova: Iova::new(page),
            phys: PhysAddr::new(leaf.phys + (page & (leaf.size - 1))),
            write: request.operation.writes(),
        };
        self.requests.push((request, false));
    }

    pub(super) fn all(&self) -> Vec<InFlight> {
        self.requests.iter().map(|(request, _)| *request).collect()
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
    }

    fn mark(&mut self, config: &Config, descriptor: &Descriptor) {
        // From major version 2 on the flags are not looked at.
        let always = config.version >> 4 & 0xf >= 2;
        let (granularity, writes, reads) = match *descriptor {
            Descriptor::Iotlb { granularity, drain_writes, drain_reads } => {
                (granularity, always || drain_writes && config.cap_bit(54), always || drain_reads && config.cap_bit(55))
            }
            Descriptor::PasidIotlb(granularity) => (granularity, true, true),
            _ => return,
        };
        for (request, gone) in &mut self.requests {
            let covered = match granularity {
                Granularity::Global => true,
                Granularity::Domain(domain) => request.domain == domain,
                Granularity::Pasid { domain, pasid } => (request.domain, request.pasid) == (domain, Some(pasid)),
                Granularity::Pages { domain, pasid, address, mask, .. } => {
                    let span = super::cache::span(mask);
                    let pasid = pasid.is_none() || pasid == request.pasid;
                    request.domain == domain && pasid && request.iova.get() & !span == address & !span
                }
                Granularity::Device { .. } => false,
            };
            *gone |= covered && if request.write { writes } else { reads };
        }
    }
}

impl Unit {
    /// Begins to drain what `descriptor` says.
    pub(super) fn drain(&mut self, descriptor: &Descriptor) {
        self.draining.mark(&self.config, descriptor);
    }

    /// The command that drains has completed.
    pub(super) fn drained(&mut self) {
        self.draining.requests.retain(|(_, gone)| !gone);
    }
}
