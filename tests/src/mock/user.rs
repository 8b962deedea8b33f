//! An emulated device: what uses an access.

use super::{Outside, lock};
use iommu_core::access::{AccessUser, Pin};
use iommu_core::addr::IovaRange;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct State {
    pins: Vec<Pin>,
    told: Vec<IovaRange>,
    /// Calls that it does not listen to.
    deaf: u64,
}

/// Holds pins, and lets go of them when told.
#[derive(Default)]
pub struct MockUser(Mutex<State>);

impl MockUser {
    /// A user that holds nothing.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Holds `pin` until told to let go of it.
    pub fn hold(&self, pin: Pin) {
        let _outside = Outside::enter();
        lock(&self.0).pins.push(pin);
    }

    /// Does not listen the next `calls` times.
    pub fn ignore(&self, calls: u64) {
        lock(&self.0).deaf = calls;
    }

    /// How many pins it holds.
    pub fn held(&self) -> usize {
        lock(&self.0).pins.len()
    }

    /// Lets go of everything.
    pub fn let_go(&self) {
        let pins = std::mem::take(&mut lock(&self.0).pins);
        drop(pins);
    }

    /// What it was told since the last call.
    pub fn told(&self) -> Vec<IovaRange> {
        std::mem::take(&mut lock(&self.0).told)
    }
}

impl AccessUser for MockUser {
    fn unmap(&self, range: IovaRange) {
        let let_go: Vec<Pin> = {
            let _outside = Outside::enter();
            let mut state = lock(&self.0);
            state.told.push(range);
            if state.deaf > 0 {
                state.deaf -= 1;
                return;
            }
            state.pins.extract_if(.., |pin| pin.range().overlaps(range)).collect()
        };
        drop(let_go);
    }
}
