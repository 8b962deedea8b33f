//! What is printed of a unit: every register as it reads, and every walk as the model walks.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{DomainConfig, Pasid, Prot, RequesterId, Stage, Stream, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, FaultCode, Model};
use iommu_tests::bench::{Bench, extent, stream};
use iommu_tests::case::Case;
use iommu_vtd::dump::{End, Place, Walk};

const RED: u16 = 0x0108;
const BLUE: u16 = 0x01a0;
const LARGE: u64 = 1 << 21;

fn case(name: &str, config: Config, stage: Stage) -> Case {
    Case { name: name.into(), config, stage, non_coherent: false }
}

fn cases() -> Vec<Case> {
    let legacy = [
        case("legacy", Config::legacy(), Stage::Second),
        case("legacy, without a queue", Config::legacy().ecap_bits(2 | 8, false), Stage::Second),
        case("legacy, without pass-through", Config::legacy().ecap_bits(Config::ECAP_PT, false), Stage::Second),
    ];
    Case::plain().into_iter().chain(legacy).collect()
}

/// A domain with a page that is read only, one that is written only where that can be, a page and a large leaf.
fn domain(bench: &Bench) -> Box<dyn iommu_core::hw::Domain> {
    let domain = bench.unit.create_domain(&DomainConfig::new(bench.case.stage)).expect("a domain");
    let map = |iova, phys, len, prot| domain.map(Iova::new(iova), &[extent(phys, len)], prot);
    map(0x1000, 0x5000_0000, 0x1000, Prot::READ).unwrap();
    map(0x2000, 0x5000_3000, 0x1000, Prot::READ_WRITE).unwrap();
    map(5 * LARGE, 0x6000_0000, 2 * LARGE, Prot::READ_WRITE).unwrap();
    if bench.case.stage == Stage::Second {
        map(0x3000, 0x5000_5000, 0x1000, Prot::WRITE).unwrap();
    }
    domain
}

fn addresses(case: &Case) -> Vec<u64> {
    let end = case.end();
    let near = |at: u64| [at.wrapping_sub(1), at, at.wrapping_add(0xabc)];
    [0, 0x1000, 0x2000, 0x3000, 0x4000, 5 * LARGE, 6 * LARGE, 7 * LARGE, 0xfee0_0000, 0xfef0_0000, 1 << 30, end]
        .into_iter()
        .flat_map(near)
        .chain([end / 2, 1 << case.config.haw, (1 << 47) - 1, 1 << 47, 1 << 48, 1 << 56, 1 << 57, u64::MAX])
        .collect()
}

/// A walk of every address, for reads and writes, against the model's of the very same memory.
#[track_caller]
fn compare(bench: &Bench, of: Stream, met: &mut Vec<Option<FaultCode>>) {
    let pasid = of.pasid.map(Pasid::get);
    for iova in addresses(&bench.case) {
        let walk = bench.unit.walk(of, Iova::new(iova));
        for write in [false, true] {
            let expected = bench.model.translate(of.id.get() as u16, pasid, Iova::new(iova), write);
            let code = expected.as_ref().err().copied();
            let agrees = match (walk.end(write), &expected) {
                (End::Reaches(phys), Ok(translation)) => phys == translation.phys,
                (End::Refused(reason), Err(code)) => reason.code() == code.0,
                (End::Interrupt, Err(code)) => *code == FaultCode::NONE,
                _ => false,
            };
            assert!(agrees, "{}: write {write}, {expected:x?}, but\n{walk}", bench.case.name);
            met.push(code);
        }
        check_steps(bench, &walk);
    }
}

/// Every entry is what stands in memory there.
#[track_caller]
fn check_steps(bench: &Bench, walk: &Walk) {
    let text = walk.to_string();
    for step in walk.steps() {
        for (index, word) in step.words().iter().enumerate() {
            let at = step.at.wrapping_add(index as u64 * 8);
            // Bit 52 of links is the driver's own note, of which a unit that does not snoop need not know.
            let note = if matches!(step.place, Place::Paging { .. }) { 1 << 52 } else { 0 };
            let seen = bench.memory.device_read64(at).map(|seen| seen & !note);
            assert_eq!(seen, Some(word & !note), "{}: {at}\n{text}", bench.case.name);
            assert!(*word == 0 || text.contains(&format!("{word:#018x}")), "{word:#x}\n{text}");
        }
    }
    assert!(text.contains("  read: ") && text.contains("  write: "), "{text}");
}

#[test]
fn walks_end_where_the_model_says_in_every_mode_and_stage() {
    let mut met = Vec::new();
    for case in cases() {
        let bench = Bench::up(&case);
        let (domain, empty) = (domain(&bench), bench.domain());
        // Nobody yet.
        compare(&bench, stream(RED), &mut met);
        bench.attach(RED, &*domain);
        bench.unit.attach(stream(BLUE), Target::Identity).unwrap();
        for of in [RED, BLUE, RED ^ 8, 0xff00] {
            compare(&bench, stream(of), &mut met);
        }
        for pasid in [0, 1, 5, 0xf_ffff] {
            let of = Stream::with_pasid(RequesterId::new(RED), Pasid::new(pasid).unwrap());
            compare(&bench, of, &mut met);
        }
        bench.attach(RED, &*empty);
        compare(&bench, stream(RED), &mut met);
        bench.detach(RED);
        compare(&bench, stream(RED), &mut met);
        bench.check();
    }
    // Ends of many kinds were met: in memory, and each of these.
    assert!(met.contains(&None));
    for code in [
        FaultCode::NONE,
        FaultCode::NO_INTERRUPT,
        FaultCode::LEGACY_ROOT_NOT_PRESENT,
        FaultCode::LEGACY_CONTEXT_NOT_PRESENT,
        FaultCode::LEGACY_BEYOND_WIDTH,
        FaultCode::LEGACY_READ,
        FaultCode::LEGACY_WRITE,
        FaultCode::MODE,
        FaultCode::ROOT_NOT_PRESENT,
        FaultCode::CONTEXT_NOT_PRESENT,
        FaultCode::FIRST_NOT_PRESENT,
        FaultCode::SECOND_PERMISSION,
        FaultCode::NOT_CANONICAL,
        FaultCode::BEYOND_HOST,
        FaultCode::BEYOND_WIDTH,
        FaultCode::NO_WRITE,
        FaultCode::NO_READ,
    ] {
        assert!(met.contains(&Some(code)), "{code:?}");
    }
}

#[test]
fn pasids_are_walked_each_to_its_own_domain() {
    for stage in [Stage::First, Stage::Second] {
        let bench = Bench::up(&case("server", Config::server(), stage));
        let (whole, part) = (domain(&bench), bench.domain_with(0x2000, 0x7000_0000, 0x1000));
        bench.attach(RED, &*whole);
        let of = |pasid| Stream::with_pasid(RequesterId::new(RED), Pasid::new(pasid).unwrap());
        let mut met = Vec::new();
        for pasid in [1, 0x3f, 0x40, 0x1_2345, 0xf_ffff] {
            bench.unit.attach(of(pasid), Target::Paging(&*part)).unwrap();
        }
        for pasid in [0, 1, 2, 0x3f, 0x40, 0x41, 0x1_2345, 0x1_2380, 0xf_ffff] {
            compare(&bench, of(pasid), &mut met);
        }
        compare(&bench, stream(RED), &mut met);
        assert_eq!(
            bench.unit.walk(of(0x1_2345), Iova::new(0x2000)).end(true),
            End::Reaches(PhysAddr::new(0x7000_0000))
        );
        for code in [FaultCode::RID_PASID, FaultCode::DIRECTORY_NOT_PRESENT, FaultCode::PASID_NOT_PRESENT] {
            assert!(met.contains(&Some(code)), "{code:?}");
        }
        bench.check();
    }
}

#[test]
fn a_walk_names_every_entry_on_its_way() {
    let places = |case: &Case| {
        let bench = Bench::up(case);
        let domain = domain(&bench);
        bench.attach(RED, &*domain);
        let walk = bench.unit.walk(stream(RED), Iova::new(0x2000));
        let levels = walk.steps().iter().filter(|step| matches!(step.place, Place::Paging { .. })).count();
        (
            walk.steps().iter().map(|step| step.place).take_while(|it| !matches!(it, Place::Paging { .. })).count(),
            levels,
        )
    };
    assert_eq!(places(&case("second", Config::second_stage(), Stage::Second)), (4, 4));
    assert_eq!(places(&case("server, first", Config::server(), Stage::First)), (4, 5));
    assert_eq!(places(&case("server, second", Config::server(), Stage::Second)), (4, 5));
    assert_eq!(places(&case("legacy", Config::legacy(), Stage::Second)), (2, 4));
}

#[test]
fn what_is_not_the_drivers_is_not_read() {
    let bench = Bench::up(&case("server", Config::server(), Stage::Second));
    let domain = domain(&bench);
    bench.attach(RED, &*domain);
    // Somebody has overwritten the root entry: it leads to memory of nobody.
    let root = PhysAddr::new(bench.model.root() & !0xfff).wrapping_add(16);
    let entry = bench.memory.device_read64(root).unwrap();
    bench.memory.write64(root, 0x7fff_f000 | 1);
    let walk = bench.unit.walk(stream(RED), Iova::new(0x2000));
    bench.memory.write64(root, entry);
    assert_eq!((walk.end(false), walk.steps().len()), (End::Unknown(PhysAddr::new(0x7fff_f100)), 1), "{walk}");
    assert_eq!(bench.memory.take_stale_reads(), []);
}

/// What the model reads at `offset`.
fn read(model: &Model, offset: usize, digits: usize) -> u64 {
    if digits == 16 { model.read64(offset) } else { model.read32(offset).into() }
}

#[test]
fn every_register_is_printed_as_it_reads_and_nothing_is_written() {
    for case in cases().into_iter().chain([case("interrupts", Config::server().ecap_bits(8, true), Stage::First)]) {
        let bench = Bench::up(&case);
        bench.model.dma(RED, None, Iova::new(0x1234_5000), 4, true).unwrap_err();
        bench.spy.take_writes();
        let text = bench.unit.registers().to_string();
        assert_eq!(bench.spy.take_writes(), [], "{}", case.name);
        let mut names = Vec::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (name, offset, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let offset = usize::from_str_radix(offset.trim_matches(['[', ']']).trim_start_matches("0x"), 16).unwrap();
            let digits = value.strip_prefix("0x").unwrap();
            assert_eq!(u64::from_str_radix(digits, 16).unwrap(), read(&bench.model, offset, digits.len()), "{line}");
            names.push((name.to_owned(), offset, digits.len() / 2));
        }
        let queue = case.config.ecap & 2 != 0;
        let has = |name: &str, offset: usize, len: usize| names.contains(&(name.to_owned(), offset, len));
        assert!(has("VER", 0, 4) && has("CAP", 8, 8) && has("ECAP", 0x10, 8) && has("GSTS", 0x1c, 4));
        assert!(has("RTADDR", 0x20, 8) && has("FSTS", 0x34, 4) && has("FECTL", 0x38, 4) && has("FEUADDR", 0x44, 4));
        assert_eq!([has("IQA", 0x90, 8), has("IQERCD", 0xb0, 8)], [queue; 2], "{}", case.name);
        assert!(!has("PMEN", 0x64, 4) && !has("PQA", 0xd0, 8));
        let records = (case.config.cap >> 40 & 0xff) as usize;
        let last = (case.config.cap >> 24 & 0x3ff) as usize * 16 + records * 16;
        assert!(
            has(&format!("FRCD_HI{records}"), last + 8, 8) && !has(&format!("FRCD_HI{}", records + 1), last + 24, 8)
        );
        let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
        assert!(line("GSTS").contains(" TES") && line("GSTS").contains(" QIES") == queue, "{text}");
        assert!(
            line("FSTS").contains(" PPF") && line("FRCD_HI0").contains(" F ") && line("FRCD_HI0").contains("SID=0x108")
        );
        assert!(line("ECAP").contains(" SMTS") == (case.config.ecap >> 43 & 1 != 0), "{text}");
        bench.check();
    }
}

#[test]
fn registers_of_a_unit_that_is_gone_are_ones() {
    let bench = Bench::up(&case("server", Config::server(), Stage::First));
    bench.model.set_absent(true);
    let text = bench.unit.registers().to_string();
    assert!(text.lines().all(|line| line.contains("0xffffffff")), "{text}");
}
