//! A walk with everything that it met.

use super::view::{Step, View};
use super::{Config, Context, FaultCode, PasidEntry, Read64, Request, Translation, request};
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

/// What a walk met, as far as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The context entry, where it is present and without fault.
    pub context: Option<Context>,
    /// The PASID table entry, likewise.
    pub entry: Option<PasidEntry>,
    /// The paging-structure entries that were used, in the order in which a unit marks them accessed.
    pub steps: Vec<Step>,
    /// Where it went, or the code with which it would be reported.
    pub result: Result<Translation, FaultCode>,
}

/// Memory alone, and the steps.
struct Recorder<'a> {
    read64: Read64<'a>,
    steps: Vec<Step>,
}

impl View for Recorder<'_> {
    fn read64(&mut self, phys: PhysAddr) -> Option<u64> {
        (self.read64)(phys)
    }

    fn used(&mut self, step: &Step) {
        self.steps.push(*step);
    }
}

/// Walks as [`translate`](super::translate) does, for any request, and tells what it met.
pub fn trace(read64: Read64<'_>, rtaddr: u64, config: &Config, asked: &Request) -> Trace {
    let mut view = Recorder { read64, steps: Vec::new() };
    let (mut context, mut entry) = (None, None);
    let found = request(&mut view, rtaddr, config, asked, |met, pasid| {
        context = Some(*met);
        entry = pasid.copied();
    });
    let result = found.map_err(|refused| refused.code).map(|found| match found {
        Some((regime, leaf)) => {
            let phys = PhysAddr::new(leaf.phys + (asked.iova.get() & (leaf.size - 1)));
            let (read, write) = leaf.allows(&regime, regime.is_privileged(asked));
            Translation { phys, size: leaf.size, write, read, domain: regime.domain }
        }
        // A translated request.
        None => {
            let domain = context.and_then(|context| context.domain()).unwrap_or_default();
            let phys = PhysAddr::new(asked.iova.get());
            Translation { phys, size: 0x1000, write: true, read: true, domain }
        }
    });
    Trace { context, entry, steps: view.steps, result }
}
