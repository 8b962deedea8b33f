//! Looks at addresses where nothing is mapped, while a neighbour puts in tables that translate them.

use crate::common::{self, Kind, Unit, range};
use crate::{page_at, parts};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, HwError, Prot, Transition};
use iommu_hal::{FrameRequest, Hal};
use iommu_models::memory::TestMemory;
use iommu_pgtable::Claim;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// This thread gets no frames.
    static STARVED: Cell<bool> = const { Cell::new(false) };
}

/// Memory that some threads get no frames of.
struct Starving<'m>(&'m TestMemory);

// SAFETY: every method forwards to an implementation that keeps the promises.
unsafe impl Hal for Starving<'_> {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        if STARVED.get() { None } else { self.0.alloc_frames(request) }
    }

    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.0.free_frames(frames, request) }
    }

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        self.0.phys_to_virt(phys)
    }

    fn clean(&self, phys: PhysAddr, len: usize) {
        self.0.clean(phys, len);
    }

    fn invalidate(&self, phys: PhysAddr, len: usize) {
        self.0.invalidate(phys, len);
    }

    fn now(&self) -> u64 {
        self.0.now()
    }
}

/// One thread looks again and again at addresses where nothing is mapped, in every way, while another puts in the tables
/// that translate them. It finds nothing, whether it comes before that or after.
pub fn nothing_is_found_while_a_neighbour_puts_in_tables<K: Kind>() {
    let memory = common::memory();
    let mut looks = [0; 6];
    for round in 0..25 * u64::from(K::RAW.levels) {
        // The entries of this level are shared.
        let level = 1 + (round / 6 % u64::from(K::RAW.levels)) as u32;
        let span = K::RAW.entry_size(level);
        let ranges = [range(0, span), range(span, span)];
        let mut table = K::table(Starving(&memory));
        let (start, done) = (Barrier::new(2), AtomicBool::new(false));
        let mut claims = parts(table.exclusive(), &ranges).into_iter();
        let (mut mine, mut other) = (claims.next().unwrap(), claims.next().unwrap());
        let way = round as usize % 6;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // Not at once.
                (0..round % 7 * 300).for_each(|_| std::hint::spin_loop());
                let at = ranges[1].start();
                other.map(at, &[page_at::<K>(at.get())], Prot::READ, &mut Unit::default()).unwrap();
                done.store(true, Ordering::Relaxed);
            });
            STARVED.set(true);
            start.wait();
            while !done.load(Ordering::Relaxed) {
                look::<K>(way, &mut mine);
                looks[way] += 1;
            }
            look::<K>(way, &mut mine);
            STARVED.set(false);
        });
        drop((mine, other, claims));
        drop(table);
        assert_eq!(memory.in_use(), 0);
    }
    println!("looks: {looks:?}");
}

/// Looks at the start of a claim in which nothing is mapped.
fn look<K: Kind>(way: usize, claim: &mut Claim<'_, Starving<'_>, K::F>) {
    let at = claim.range().start();
    let page = range(at.get(), K::PAGE);
    let nothing = Err(HwError::NotMapped { iova: at });
    let unit = &mut Unit::default();
    match way {
        0 => assert_eq!(claim.translate(at), None),
        1 => assert_eq!(claim.unmap(page, &mut Gather::new(), &mut |_| ()), nothing),
        2 => assert_eq!(claim.protect(page, Prot::READ, unit).map(|_| ()), nothing),
        3 => {
            // As far as the tables are there, nothing fails for want of them.
            match claim.map(at, &[page_at::<K>(at.get())], Prot::READ, unit) {
                Ok(()) => claim.unmap(page, &mut Gather::new(), &mut |_| ()).unwrap(),
                Err(error) => assert_eq!(error, HwError::OutOfMemory),
            }
        }
        4 => assert_eq!(claim.cut(page, K::PAGE, unit), Ok(Transition::Hitless)),
        _ if K::RAW.tracked => claim.read_dirty(page, &mut |range| panic!("{range} is dirty")).unwrap(),
        _ => assert_eq!(claim.merge(page, unit), Ok(Transition::Hitless)),
    }
}
