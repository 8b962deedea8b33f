//! What operations cost in commands and register accesses, counted on the device models. Used by the benchmark and by the
//! test `queue_costs`.

use iommu_core::hw::{self, DeviceTlb, Domain, Gather, Stage, StreamId, Target};
use iommu_models::{smmuv3, vtd};
use iommu_smmuv3::Completion;
use iommu_tests::bench::{map, range};
use iommu_tests::house::{Driver, House, Smmuv3, Vtd, function};
use iommu_tests::{case, smmuv3::case as smmuv3_case};

/// What an operation took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Invalidations, without waits.
    pub commands: usize,
    /// Waits.
    pub waits: usize,
    /// Writes to the register that tells hardware of commands.
    pub doorbells: usize,
    /// Other accesses to registers.
    pub accesses: usize,
}

/// The operations, in this order.
#[allow(dead_code, reason = "the test has names of its own")]
pub const OPERATIONS: [&str; 8] = [
    "lone sync",
    "unmap of 4 KiB",
    "unmap of 1 GiB contiguous",
    "the same in 4 KiB leaves",
    "unmap of 512 scattered pages",
    "attach",
    "replace",
    "detach",
];

/// One kind of unit.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub name: String,
    /// For each of [`OPERATIONS`].
    pub costs: [Cost; 8],
}

/// A driver that is measured.
pub trait Measured: Driver {
    /// The kinds of unit, and whether each has device TLBs.
    fn kinds() -> Vec<(String, Self::Case, bool)>;

    /// A wait alone.
    fn sync(unit: &Self::Unit);
}

impl Measured for Vtd {
    fn kinds() -> Vec<(String, case::Case, bool)> {
        use vtd::Config;
        let kinds = [
            ("scalable, second stage", Config::second_stage(), Stage::Second),
            ("scalable, first stage", Config::first_stage(), Stage::First),
            ("scalable, server, second stage", Config::server(), Stage::Second),
            ("scalable, server, first stage", Config::server(), Stage::First),
            ("legacy", Config::legacy(), Stage::Second),
        ];
        let kind = |name: String, config: Config, stage| {
            let case = case::Case { name: name.clone(), config, stage, non_coherent: false };
            (name, case, config.ecap & Config::ECAP_DT != 0)
        };
        let all = kinds.into_iter().flat_map(|(name, config, stage)| {
            [kind(name.into(), config, stage), kind(format!("{name}, caching mode"), config.caching_mode(), stage)]
        });
        all.collect()
    }

    fn sync(unit: &Self::Unit) {
        unit.sync().expect("a wait");
    }
}

impl Measured for Smmuv3 {
    fn kinds() -> Vec<(String, smmuv3_case::Case, bool)> {
        use smmuv3::Config;
        let kinds = [
            ("as in QEMU", Config::nested(), Completion::Poll),
            ("server", Config::server(), Completion::Poll),
            ("server, messages", Config::server(), Completion::Message),
        ];
        let mut all = Vec::new();
        for (kind, config, completion) in kinds {
            for (stage, which) in [(Stage::Second, "stage 2"), (Stage::First, "stage 1")] {
                for (ranges, config) in [("", config), (", without ranges", config.without_ril())] {
                    let name = format!("{kind}, {which}{ranges}");
                    let case = smmuv3_case::Case {
                        name: name.clone(),
                        config,
                        completion,
                        ..smmuv3_case::Case::nested(stage)
                    };
                    all.push((name, case, config.idr0 & Config::ATS != 0));
                }
            }
        }
        all
    }

    fn sync(unit: &Self::Unit) {
        unit.sync().expect("a wait");
    }
}

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// Counts on every kind of unit, without and with a device TLB where the unit has them.
pub fn all<D: Measured>() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, case, device_tlbs) in D::kinds() {
        rows.extend(row::<D>(&name, &case, false));
        if device_tlbs {
            rows.extend(row::<D>(&name, &case, true));
        }
    }
    rows
}

/// `None` where the driver does not know what is asked for.
fn row<D: Measured>(name: &str, case: &D::Case, device_tlb: bool) -> Option<Row> {
    let house = House::<D>::up(case);
    let [id, ..] = house.kind.streams;
    let name = if device_tlb { format!("{name}, device TLB") } else { name.into() };
    if device_tlb {
        let id = StreamId::new(id);
        let tlb = DeviceTlb { queue_depth: 32, physical: id, global_invalidate: true };
        hw::Unit::set_device_tlb(&house.unit, id, Some(tlb)).ok()?;
    }
    let (domain, other) = (house.domain(), house.domain());
    // Tables and structures that stay, as they do at work; and an attach that is not a function's first.
    map(&*domain, 0x1000, 0x1000, PAGE);
    house.lead(function(id), Target::Paging(&*domain)).ok()?;
    house.lead(function(id), Target::Blocked).ok()?;
    let sync = count(&house, || D::sync(&house.unit));
    let attach = count(&house, || {
        house.attach(id, &*domain);
    });
    let unmap = |domain: &dyn Domain, ranges: &[(u64, u64)]| {
        count(&house, || {
            let mut gather = Gather::new();
            for (start, len) in ranges {
                domain.unmap(range(*start, *len), &mut gather).expect("an unmap");
            }
            domain.flush(&mut gather).expect("a flush");
        })
    };
    map(&*domain, 0x2000, 0x5000, PAGE);
    let page = unmap(&*domain, &[(0x2000, PAGE)]);
    map(&*domain, 4 * GIB, 8 * GIB, GIB);
    let gib = unmap(&*domain, &[(4 * GIB, GIB)]);
    // Memory that begins a page further on: no larger leaf fits.
    map(&*domain, 4 * GIB, 8 * GIB + PAGE, GIB);
    let leaves = unmap(&*domain, &[(4 * GIB, GIB)]);
    let scattered: Vec<_> = (0..512).map(|n| (16 * GIB + n * 0x1_3000, PAGE)).collect();
    for (start, len) in &scattered {
        map(&*domain, *start, 0x4000_0000 + start, *len);
    }
    let scattered = unmap(&*domain, &scattered);
    let replace = count(&house, || {
        house.attach(id, &*other);
    });
    let detach = count(&house, || house.detach(id));
    house.check();
    Some(Row { name, costs: [sync, page, gib, leaves, scattered, attach, replace, detach] })
}

/// What `does` takes.
fn count<D: Driver>(house: &House<D>, does: impl FnOnce()) -> Cost {
    D::take_log(&house.model);
    house.spy.take_writes();
    house.spy.take_reads();
    does();
    let (commands, waits) = D::take_log(&house.model);
    let writes = house.spy.take_writes();
    let doorbells = writes.iter().filter(|write| write.offset == D::DOORBELL).count();
    let accesses = writes.len() - doorbells + house.spy.take_reads();
    Cost { commands, waits, doorbells, accesses }
}
