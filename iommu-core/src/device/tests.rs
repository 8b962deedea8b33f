//! Devices over hardware that knows where each stream leads.

pub(crate) mod mock;

mod attach;
mod device_tlb;
mod failures;
mod faults;
mod features;
mod groups;
mod hostile;
mod pasids;
mod regions;
mod replace;

use super::*;
use crate::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use crate::group::OwnerId;
use crate::hw::{Prot, Stage, Stream};
use crate::hwpt::HwptConfig;
use crate::ioas::{AreaInfo, IoasConfig, Placement};
use crate::quota::Amounts;
use crate::region::RegionKind;
use mock::{At, Call, Mock, MockFunction, MockUnit};
use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;
use std::vec::Vec;

extern crate std;

/// Of each function, unless a test changes them.
const FEATURES: Features =
    Features { pasid_bits: 16, ats: true, ats_queue_depth: 4, ats_global_invalidate: false, physical: None, pri: true };

pub(crate) const OWNER: OwnerId = OwnerId(7);

/// A unit, a group behind it, and two address spaces.
pub(crate) struct World {
    pub(crate) devices: Vec<Device>,
    pub(crate) functions: Vec<Arc<MockFunction>>,
    pub(crate) group: Group,
    pub(crate) ioas: Ioas,
    pub(crate) other: Ioas,
    pub(crate) account: Account,
    /// For the devices that are made from now on.
    pub(crate) router: Option<FaultRouter>,
    pub(crate) unit: Arc<dyn Unit>,
    pub(crate) mock: Arc<Mock>,
}

/// All that a failed operation must leave as it was.
#[derive(PartialEq, Debug)]
struct Snapshot {
    streams: BTreeMap<Stream, At>,
    unconfirmed: BTreeMap<Stream, Vec<At>>,
    mastering: Vec<bool>,
    attached: Vec<(bool, usize, usize)>,
    features: Vec<u8>,
    owner: Option<OwnerId>,
    spaces: Vec<(Vec<IovaRange>, Vec<AreaInfo>)>,
    usage: Amounts,
}

impl World {
    pub(crate) fn new() -> Self {
        let mock = Mock::new();
        let account = Account::new(Amounts::UNLIMITED).unwrap();
        let space = || Ioas::new(IoasConfig { account: Some(account.clone()), ..IoasConfig::default() }).unwrap();
        Self {
            devices: Vec::new(),
            functions: Vec::new(),
            group: Group::new(Some(&account)).unwrap(),
            ioas: space(),
            other: space(),
            unit: Arc::new(MockUnit(mock.clone())),
            mock,
            account,
            router: None,
        }
    }

    /// With one bound device of each list of streams.
    pub(crate) fn with(streams: &[&[u32]]) -> Self {
        let mut world = Self::new();
        streams.iter().for_each(|streams| world.add(streams, &[]).bind(OWNER, false).unwrap());
        world.mock.calls();
        world
    }

    /// One more device, not bound.
    pub(crate) fn add(&mut self, streams: &[u32], regions: &[ReservedRegion]) -> &Device {
        let function = Arc::new(MockFunction {
            mock: self.mock.clone(),
            number: self.functions.len() as u32,
            features: StdMutex::new(FEATURES),
            mastering: StdMutex::default(),
            on: StdMutex::default(),
            during: StdMutex::default(),
        });
        let ids: Vec<_> = streams.iter().map(|&id| StreamId::new(id)).collect();
        let config = DeviceConfig {
            unit: self.unit.clone(),
            streams: &ids,
            function: Some(function.clone()),
            regions,
            coherent: true,
            isolated_msi: true,
            router: self.router.clone(),
            account: Some(self.account.clone()),
        };
        self.functions.push(function);
        self.devices.push(Device::new(&self.group, &config).unwrap());
        self.devices.last().unwrap()
    }

    pub(crate) fn hwpt(&self) -> Hwpt {
        self.hwpt_of(&self.ioas, HwptConfig::new(Stage::Second))
    }

    pub(crate) fn pasid_hwpt(&self) -> Hwpt {
        self.hwpt_of(&self.ioas, HwptConfig { pasid: true, ..HwptConfig::new(Stage::First) })
    }

    pub(crate) fn hwpt_of(&self, ioas: &Ioas, config: HwptConfig) -> Hwpt {
        Hwpt::new(ioas, &self.unit, config).unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        let inner = |device: &Device| {
            let inner = &device.0;
            let stuck = inner.group.look(|state| {
                state.records.at(None).filter(|record| record.phase != crate::group::Phase::There).count()
            });
            (device.is_attached(), inner.attached(), inner.pasids.load(Ordering::Relaxed) + 1000 * stuck)
        };
        Snapshot {
            streams: self.mock.streams(),
            unconfirmed: self.mock.unconfirmed(),
            mastering: self.functions.iter().map(|function| *function.mastering.lock().unwrap()).collect(),
            attached: self.devices.iter().map(inner).collect(),
            features: self.devices.iter().map(|device| device.0.features.load(Ordering::Relaxed)).collect(),
            owner: self.group.owner(),
            spaces: [&self.ioas, &self.other].map(|ioas| (free(ioas), areas(ioas))).to_vec(),
            usage: self.account.usage(),
        }
    }
}

/// Ranges of an address space that nobody reserved.
fn free(ioas: &Ioas) -> Vec<IovaRange> {
    let mut ranges = [IovaRange::FULL; 32];
    let count = ioas.iova_ranges(&mut ranges);
    ranges[..count].to_vec()
}

fn areas(ioas: &Ioas) -> Vec<AreaInfo> {
    let mut found = Vec::new();
    let mut from = Some(Iova::new(0));
    while let Some(area) = from.and_then(|from| ioas.area(IovaRange::new(from, Iova::new(u64::MAX)).unwrap())) {
        from = area.range.last().checked_add(1);
        found.push(area);
    }
    found
}

pub(crate) fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// Maps one run.
pub(crate) fn map(ioas: &Ioas, iova: u64, phys: u64, len: u64, prot: Prot) {
    let run = PhysExtent::new(PhysAddr::new(phys), len);
    ioas.map_extents(&[run], Placement::Fixed(Iova::new(iova)), prot).unwrap();
}

fn region(start: u64, len: u64, kind: RegionKind) -> ReservedRegion {
    ReservedRegion { range: range(start, len), kind }
}

pub(crate) fn whole(id: u32) -> Stream {
    Stream::function(StreamId::new(id))
}

pub(crate) fn pasid(raw: u32) -> Pasid {
    Pasid::new(raw).unwrap()
}

pub(crate) fn tagged(id: u32, raw: u32) -> Stream {
    Stream::with_pasid(StreamId::new(id), pasid(raw))
}

fn is_invalid<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Invalid(_)))
}
