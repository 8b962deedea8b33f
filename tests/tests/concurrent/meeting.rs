//! A domain in which CPUs meet: a call of it waits for another CPU's.

use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{
    Domain, DomainConfig, Fault, FaultReport, Gather, Geometry, HwError, PageSizes, Prot, Stream, Target, Transition,
    Translation, Unit, UnitCapabilities,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a CPU waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is in which call.
#[derive(Default)]
pub struct Meeting {
    /// From now on calls wait.
    pub on: AtomicBool,
    maps: AtomicUsize,
    unmaps: AtomicUsize,
    /// A CPU waited in vain.
    pub missed: AtomicBool,
}

impl Meeting {
    /// Waits until two CPUs were in the call at the same time.
    fn meet(&self, inside: &AtomicUsize) {
        if !self.on.load(Ordering::SeqCst) {
            return;
        }
        inside.fetch_add(1, Ordering::SeqCst);
        let start = Instant::now();
        while inside.load(Ordering::SeqCst) % 2 == 1 {
            if start.elapsed() > PATIENCE {
                self.missed.store(true, Ordering::SeqCst);
                inside.fetch_add(1, Ordering::SeqCst);
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// A unit of such domains, which hold nothing.
pub struct MeetingUnit(pub Arc<Meeting>);

struct MeetingDomain(Arc<Meeting>);

impl Unit for MeetingUnit {
    fn capabilities(&self) -> UnitCapabilities {
        UnitCapabilities { second_stage: true, ..UnitCapabilities::default() }
    }

    fn create_domain(&self, _: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        Ok(Box::new(MeetingDomain(self.0.clone())))
    }

    fn attach(&self, _: Stream, _: Target<'_>) -> Result<Transition, HwError> {
        Ok(Transition::Hitless)
    }

    fn report_faults(&self, _: &mut dyn FnMut(&Fault)) -> FaultReport {
        FaultReport::default()
    }
}

impl Domain for MeetingDomain {
    fn geometry(&self) -> Geometry {
        Geometry { aperture: IovaRange::FULL, page_sizes: PageSizes::new(1 << 12), output_bits: 52 }
    }

    fn map(&self, _: Iova, _: &[PhysExtent], _: Prot) -> Result<(), HwError> {
        self.0.meet(&self.0.maps);
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        gather.add_leaves(range, 0);
        self.0.meet(&self.0.unmaps);
        Ok(())
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        Ok(())
    }

    fn translate(&self, _: Iova) -> Option<Translation> {
        None
    }
}
