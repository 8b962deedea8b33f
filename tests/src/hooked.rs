//! Memory that calls a test back on the thread that asks for a frame, that waits, or that stores. What it takes of the heap
//! is not the driver's.

use crate::heap::plenty;
use iommu_core::addr::PhysAddr;
use iommu_hal::{FrameRequest, Hal};
use iommu_models::memory::TestMemory;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;

type Hook<F> = RefCell<Option<Box<F>>>;

thread_local! {
    static AT_ALLOC: Hook<dyn FnOnce()> = const { RefCell::new(None) };
    static AT_RELAX: Hook<dyn FnMut()> = const { RefCell::new(None) };
    static AT_STORE: Hook<dyn FnMut(PhysAddr)> = const { RefCell::new(None) };
}

/// Does this at the next frame that this thread asks for.
pub fn at_alloc(hook: impl FnOnce() + 'static) {
    AT_ALLOC.set(Some(Box::new(hook)));
}

/// Does this whenever this thread waits.
pub fn at_relax(hook: impl FnMut() + 'static) {
    AT_RELAX.set(Some(Box::new(hook)));
}

/// Does this after each store and each clean of this thread, with its address, but for those that it makes itself; `None`
/// ends that. Unlike an observer of the memory it may call the driver, for what takes none of the locks that are held then.
pub fn at_store(hook: Option<Box<dyn FnMut(PhysAddr)>>) {
    AT_STORE.set(hook);
}

fn stored(phys: PhysAddr) {
    if let Some(mut hook) = AT_STORE.take() {
        hook(phys);
        AT_STORE.set(Some(hook));
    }
}

/// The memory.
#[derive(Clone)]
pub struct Hooked(pub Arc<TestMemory>);

// SAFETY: every method forwards to an implementation that keeps the promises.
unsafe impl Hal for Hooked {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        plenty(|| {
            if let Some(hook) = AT_ALLOC.take() {
                hook();
            }
            self.0.alloc_frames(request)
        })
    }

    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: the caller keeps the same promises.
        plenty(|| unsafe { self.0.free_frames(frames, request) })
    }

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        self.0.phys_to_virt(phys)
    }

    fn clean(&self, phys: PhysAddr, len: usize) {
        plenty(|| {
            self.0.clean(phys, len);
            stored(phys);
        });
    }

    fn invalidate(&self, phys: PhysAddr, len: usize) {
        plenty(|| self.0.invalidate(phys, len));
    }

    fn now(&self) -> u64 {
        plenty(|| self.0.now())
    }

    fn relax(&self) {
        let hooked = |hook: &mut Option<Box<dyn FnMut()>>| match hook {
            Some(hook) => hook(),
            None => std::thread::yield_now(),
        };
        plenty(|| AT_RELAX.with_borrow_mut(hooked));
    }

    fn stored(&self, phys: PhysAddr) {
        plenty(|| {
            self.0.stored(phys);
            stored(phys);
        });
    }
}
