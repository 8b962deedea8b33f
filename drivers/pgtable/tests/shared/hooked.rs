//! A `Hal` that calls back on the thread that uses it.

use crate::common;
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
}

/// Does this at the next frame that this thread asks for.
pub fn at_alloc(hook: impl FnOnce() + 'static) {
    AT_ALLOC.set(Some(Box::new(hook)));
}

/// Does this whenever this thread waits.
pub fn at_relax(hook: impl FnMut() + 'static) {
    AT_RELAX.set(Some(Box::new(hook)));
}

#[derive(Clone)]
pub struct Hooked(Arc<TestMemory>);

impl Hooked {
    pub fn new() -> Self {
        Self(Arc::new(common::memory()))
    }

    pub fn memory(&self) -> &TestMemory {
        &self.0
    }
}

// SAFETY: every method forwards to an implementation that keeps the promises.
unsafe impl Hal for Hooked {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        if let Some(hook) = AT_ALLOC.take() {
            hook();
        }
        self.0.alloc_frames(request)
    }

    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: the caller keeps the same promises.
        unsafe { self.0.free_frames(frames, request) }
    }

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        // Whoever still looks into a table that was freed is found here.
        assert!(self.0.is_allocated(phys), "a look into a frame that was freed: {phys}");
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

    fn relax(&self) {
        AT_RELAX.with_borrow_mut(|hook| match hook {
            Some(hook) => hook(),
            None => std::thread::yield_now(),
        });
    }
}
