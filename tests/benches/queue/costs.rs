//! What operations cost in commands and register accesses, counted on the device model. Used by the benchmark and by the
//! test `queue_costs`.

use iommu_core::hw::{DeviceTlb, Domain, Gather, RequesterId, Stage, StreamId, Target, Unit as _};
use iommu_models::vtd::Config;
use iommu_tests::bench::{Bench, map, range, stream};
use iommu_tests::case::Case;
use iommu_tests::spy::IQT;

/// What an operation took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Invalidations, without waits.
    pub commands: usize,
    /// Waits.
    pub waits: usize,
    /// Writes to IQT.
    pub doorbells: usize,
    /// Other accesses to registers.
    pub accesses: usize,
}

/// The operations, in this order.
#[allow(dead_code, reason = "the test has names of its own")]
pub const OPERATIONS: [&str; 6] = [
    "unmap of 4 KiB",
    "unmap of 1 GiB contiguous",
    "the same in 4 KiB leaves",
    "unmap of 512 scattered pages",
    "attach",
    "detach",
];

/// One kind of unit.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub name: String,
    /// For each of [`OPERATIONS`].
    pub costs: [Cost; 6],
}

const FUNCTION: u16 = 0x0108;
const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// The kinds of unit.
pub fn cases() -> Vec<Case> {
    let kinds = [
        ("scalable, second stage", Config::second_stage(), Stage::Second),
        ("scalable, first stage", Config::first_stage(), Stage::First),
        ("scalable, server, second stage", Config::server(), Stage::Second),
        ("scalable, server, first stage", Config::server(), Stage::First),
        ("legacy", Config::legacy(), Stage::Second),
    ];
    let case = |name: String, config, stage| Case { name, config, stage, non_coherent: false };
    let all = kinds.into_iter().flat_map(|(name, config, stage)| {
        [case(name.into(), config, stage), case(format!("{name}, caching mode"), config.caching_mode(), stage)]
    });
    all.collect()
}

/// Counts on every kind of unit, without and with a device TLB where the unit and the driver have them.
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for case in cases() {
        rows.extend(row(&case, false));
        if case.config.ecap & Config::ECAP_DT != 0 {
            rows.extend(row(&case, true));
        }
    }
    rows
}

/// `None` where the driver does not know what is asked for.
fn row(case: &Case, device_tlb: bool) -> Option<Row> {
    let bench = Bench::up(case);
    let name = if device_tlb { format!("{}, device TLB", case.name) } else { case.name.clone() };
    if device_tlb {
        let id = StreamId::from(RequesterId::new(FUNCTION));
        let tlb = DeviceTlb { queue_depth: 32, physical: id, global_invalidate: true };
        bench.unit.set_device_tlb(id, Some(tlb)).ok()?;
    }
    let domain = bench.domain();
    // Tables and structures that stay, as they do at work; and an attach that is not a function's first.
    map(&*domain, 0x1000, 0x1000, PAGE);
    bench.unit.attach(stream(FUNCTION), Target::Paging(&*domain)).ok()?;
    bench.unit.attach(stream(FUNCTION), Target::Blocked).ok()?;
    let attach = count(&bench, || {
        bench.attach(FUNCTION, &*domain);
    });
    let unmap = |domain: &dyn Domain, ranges: &[(u64, u64)]| {
        count(&bench, || {
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
    let detach = count(&bench, || bench.detach(FUNCTION));
    bench.check();
    Some(Row { name, costs: [page, gib, leaves, scattered, attach, detach] })
}

/// What `does` takes.
fn count(bench: &Bench, does: impl FnOnce()) -> Cost {
    bench.model.take_log();
    bench.spy.take_writes();
    bench.spy.take_reads();
    does();
    let log = bench.model.take_log();
    let waits = log.iter().filter(|it| it.raw[0] & 0xf == 5).count();
    let writes = bench.spy.take_writes();
    let doorbells = writes.iter().filter(|write| write.offset == IQT).count();
    let accesses = writes.len() - doorbells + bench.spy.take_reads();
    Cost { commands: log.len() - waits, waits, doorbells, accesses }
}
