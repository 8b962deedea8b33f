//! Streams that lead to domains.

use super::OWNER;
use iommu_core::Error;
use iommu_core::device::{Device, DeviceConfig};
use iommu_core::group::Group;
use iommu_core::hw::{Prot, Stream, StreamId, Target, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::Ioas;
use iommu_core::region::ReservedRegion;
use iommu_tests::mock::MockUnit;
use std::sync::Arc;

/// A stream of a unit that leads, or will lead, to a domain: a whole device, or nothing but a domain.
pub struct Lead {
    pub device: Option<Device>,
    _hwpt: Option<Hwpt>,
    pub unit: Arc<MockUnit>,
    pub stream: Stream,
}

impl Lead {
    /// A device in a group of its own, bound to [`OWNER`], attached to nothing.
    pub fn device(unit: &Arc<MockUnit>, stream: u32) -> Self {
        Self::configured(unit, stream, |_| {})
    }

    /// The same, with some things changed.
    pub fn configured(unit: &Arc<MockUnit>, stream: u32, change: impl FnOnce(&mut DeviceConfig<'_>)) -> Self {
        Self::made(unit, stream, &[], change)
    }

    /// The same, with reserved regions.
    pub fn reserving(unit: &Arc<MockUnit>, stream: u32, regions: &[ReservedRegion]) -> Self {
        Self::made(unit, stream, regions, |_| {})
    }

    fn made(
        unit: &Arc<MockUnit>,
        stream: u32,
        regions: &[ReservedRegion],
        change: impl FnOnce(&mut DeviceConfig<'_>),
    ) -> Self {
        let group = Group::new(None).unwrap();
        let streams = [StreamId::new(stream)];
        let mut config = DeviceConfig {
            unit: unit.clone(),
            streams: &streams,
            function: None,
            regions,
            coherent: true,
            isolated_msi: true,
            router: None,
            account: None,
        };
        change(&mut config);
        let device = Device::new(&group, &config).unwrap();
        device.bind(OWNER, false).unwrap();
        Self { device: Some(device), _hwpt: None, unit: unit.clone(), stream: Stream::function(StreamId::new(stream)) }
    }

    /// A domain of `ioas`, and a stream that the test leads there itself.
    pub fn domain(unit: &Arc<MockUnit>, stream: u32, ioas: &Ioas, config: HwptConfig) -> Result<Self, Error> {
        let hwpt = Hwpt::new(ioas, &dynamic(unit), config)?;
        let stream = Stream::function(StreamId::new(stream));
        unit.attach(stream, Target::Paging(hwpt.domain())).unwrap();
        Ok(Self { device: None, _hwpt: Some(hwpt), unit: unit.clone(), stream })
    }

    /// The device, which there is.
    pub fn dev(&self) -> &Device {
        self.device.as_ref().expect("a device")
    }

    /// Where the stream may get to.
    pub fn ways(&self, iova: u64) -> Vec<(u64, Prot)> {
        self.unit.ways(self.stream, iova).into_iter().map(|(phys, prot)| (phys.get(), prot)).collect()
    }

    /// How much the stream may get to.
    pub fn mapped(&self) -> u64 {
        self.unit.leaves(self.stream).iter().map(|(range, ..)| range.len().unwrap()).sum()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.device.is_none() {
            let _ = self.unit.detach(self.stream);
        }
    }
}

/// The unit as the core takes it.
pub fn dynamic(unit: &Arc<MockUnit>) -> Arc<dyn Unit> {
    unit.clone()
}
