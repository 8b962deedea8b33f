//! Translations that devices ask for, and requests that come translated, one by one: no device TLB stands between.

use super::dma::Blocked;
use super::model::Model;
use super::walk::{Denied, Granted};
use iommu_core::addr::{Iova, PhysAddr};

impl Model {
    /// A request of stream `sid` for the translation of `iova`; with `write` it asks for writes as well (NW clear). Caches
    /// are used and filled, accessed and dirty flags are set as by the access itself.
    ///
    /// An answer with success may allow neither reads nor writes.
    ///
    /// # Errors
    ///
    /// Unsupported Request or Completer Abort (section 3.9.1.2); F_BAD_ATS_TREQ is recorded where it is to be.
    pub fn ats_request(&self, sid: u32, ssid: Option<u32>, iova: Iova, write: bool) -> Result<Granted, Denied> {
        self.lock().ats_request(sid, ssid, iova.get(), write)
    }

    /// A request of stream `sid` that says of itself that `phys` is translated: where it goes, as the unit and CR0.ATSCHK let
    /// it.
    ///
    /// # Errors
    ///
    /// Why it is blocked (section 3.9.1.3); the event is recorded where there is one.
    pub fn ats_translated(&self, sid: u32, phys: PhysAddr, write: bool) -> Result<PhysAddr, Blocked> {
        self.lock().translated(sid, phys.get(), write).map(PhysAddr::new)
    }
}
