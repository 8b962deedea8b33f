//! A user of an access that holds pins under numbers, and lets go of them when it is told, or does not.

use iommu_core::access::{AccessUser, Pin};
use iommu_core::addr::IovaRange;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is held, and what was told.
#[derive(Default)]
pub struct Held {
    /// Pins by number.
    pub pins: Vec<(u64, Pin)>,
    /// What it was told since somebody looked.
    pub told: Vec<IovaRange>,
    /// It does not let go.
    pub stubborn: bool,
}

/// The user.
#[derive(Default)]
pub struct Holder(Mutex<Held>);

impl Holder {
    /// A user that holds nothing.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What it holds.
    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the pin at this index, outside of any lock.
    pub fn let_go(&self, at: usize) {
        let pin = self.held().pins.remove(at);
        drop(pin);
    }
}

impl AccessUser for Holder {
    fn unmap(&self, range: IovaRange) {
        let mut held = self.held();
        held.told.push(range);
        if held.stubborn {
            return;
        }
        let let_go: Vec<_> = held.pins.extract_if(.., |(_, pin)| pin.range().overlaps(range)).collect();
        drop(held);
        drop(let_go);
    }
}
