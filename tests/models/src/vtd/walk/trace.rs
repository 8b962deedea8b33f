//! A walk with everything that it met.

use super::view::{Step, View};
use super::{Config, Context, FaultCode, PasidEntry, Read64, Request, Translation, request, translation};
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
    let domain = context.and_then(|context: Context| context.domain());
    let result = found.map(|found| translation(asked, found, domain)).map_err(|refused| refused.code);
    Trace { context, entry, steps: view.steps, result }
}
