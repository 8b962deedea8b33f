//! A guest's first stage on a mock domain: nothing but a few cached translations.

use super::domain::Body;
use super::unit::Shared;
use super::{Call, Outside, lock};
use iommu_core::hw::{HwError, Invalidation, Nested, unique_number};
use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// The layout of the words of the configuration and of requests: of the configuration, one word, what every cached
/// translation holds at first; of a request, the number of one, and flags.
pub const NESTED_KIND: u32 = 0x6d6f_636b;
/// How many cached translations there are.
pub const IOTLB_IDS: u64 = 4;
/// Flag of a request: all of them, whichever number it gives.
pub const INVALIDATE_ALL: u64 = 1;

/// What a nested domain has cached.
pub type Iotlb = [u64; IOTLB_IDS as usize];

/// The layout of requests that concern a device's caches: the number of one, and flags.
pub const DEVICE_KIND: u32 = 0x6d6f_6364;
/// How many caches a device has.
pub const DEVICE_CACHES: u64 = 4;

/// A nested domain.
pub struct MockNested {
    pub(super) number: u64,
    pub(super) parent: Arc<Body>,
    pub(super) unit: Arc<Shared>,
    pub(super) iotlb: Arc<Mutex<Iotlb>>,
}

impl MockNested {
    pub(super) fn new(unit: &Arc<Shared>, parent: &Arc<Body>, value: u64) -> Self {
        parent.nested.fetch_add(1, Ordering::AcqRel);
        let iotlb = Arc::new(Mutex::new([value; IOTLB_IDS as usize]));
        Self { number: unique_number(), parent: parent.clone(), unit: unit.clone(), iotlb }
    }

    /// The mock behind `nested`, which is one.
    pub fn of(nested: &dyn Nested) -> &Self {
        (nested as &dyn Any).downcast_ref().expect("not a mock")
    }

    /// What names it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What is cached; zero where it was invalidated.
    pub fn iotlb(&self) -> Iotlb {
        *lock(&self.iotlb)
    }
}

impl Nested for MockNested {
    fn invalidate(&self, request: &Invalidation) -> Result<(), HwError> {
        let _outside = Outside::enter();
        self.unit.script.next(Call::Invalidate).map_err(|(error, _)| error)?;
        let [id, flags] = request.words;
        if request.kind != NESTED_KIND {
            return Err(HwError::Unsupported("this kind of request"));
        }
        if flags & !INVALIDATE_ALL != 0 {
            return Err(HwError::Unsupported("flags that are reserved"));
        }
        let mut iotlb = lock(&self.iotlb);
        if flags & INVALIDATE_ALL != 0 {
            iotlb.fill(0);
            return Ok(());
        }
        let entry = iotlb.get_mut(id as usize).ok_or(HwError::Hardware("no such cached translation"))?;
        *entry = 0;
        Ok(())
    }
}

impl Drop for MockNested {
    fn drop(&mut self) {
        let _outside = Outside::enter();
        if let Some(stream) = self.unit.leads_to(self.number) {
            super::violation(format_args!("nested domain {} goes, and {stream} leads to it", self.number));
        }
        self.parent.nested.fetch_sub(1, Ordering::AcqRel);
    }
}
