//! What is printed of an SMMU: every register as it reads, and every walk as the model walks.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Domain, Pasid, Prot, Stage, Stream, StreamId, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Config, FaultCode, Model};
use iommu_smmuv3::dump::{End, Place, Walk};
use iommu_tests::smmuv3::bench::{Bench, extent, stream};
use iommu_tests::smmuv3::case::Case;

const LARGE: u64 = 1 << 21;

/// A domain with a page that is read only, one that is written only where that can be, a page and a large leaf.
fn domain(bench: &Bench) -> Box<dyn Domain> {
    let domain = bench.domain();
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
    [0, 0x1000, 0x2000, 0x3000, 0x4000, 5 * LARGE, 6 * LARGE, 7 * LARGE, 1 << 30, end, 1 << case.config.output_bits()]
        .into_iter()
        .flat_map(near)
        .chain([end / 2, (1 << 47) - 1, 1 << 47, 1 << 48, 1 << 55, 1 << 56, u64::MAX])
        .collect()
}

/// A walk of every address, for reads and writes, against the model's of the very same memory.
#[track_caller]
fn compare(bench: &Bench, of: Stream, met: &mut Vec<Option<FaultCode>>) {
    let pasid = of.pasid.map(Pasid::get);
    for iova in addresses(&bench.case) {
        let walk = bench.unit.walk(of, Iova::new(iova));
        for write in [false, true] {
            let expected = bench.model.translate(of.id.get(), pasid, Iova::new(iova), write);
            let code = expected.as_ref().err().copied();
            let agrees = match (walk.end(write), &expected) {
                (End::Reaches(phys), Ok(translation)) => phys == translation.phys,
                (End::Refused { event, .. }, Err(code)) => event == code.0,
                (End::Aborted, Err(code)) => *code == FaultCode::NONE,
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
            // Bit 55 of links is the driver's own note, of which a unit that does not snoop need not know.
            let note = if matches!(step.place, Place::Paging { .. }) { 1 << 55 } else { 0 };
            let seen = bench.memory.device_read64(at).map(|seen| seen & !note);
            assert_eq!(seen, Some(word & !note), "{}: {at}\n{text}", bench.case.name);
            assert!(*word == 0 || text.contains(&format!("{word:#018x}")), "{word:#x}\n{text}");
        }
    }
    assert!(text.contains("  read: ") && text.contains("  write: "), "{text}");
}

#[test]
fn walks_end_where_the_model_says_on_every_unit() {
    let mut met = Vec::new();
    for case in Case::all() {
        let bench = Bench::up(&case);
        let (domain, empty) = (domain(&bench), bench.domain());
        let [near, other, far] = case.streams();
        // Nobody yet.
        compare(&bench, stream(near), &mut met);
        bench.attach(near, &*domain);
        bench.unit.attach(stream(other), Target::Identity).unwrap();
        for of in [near, other, near ^ 1, far, 1 << case.table_bits(), u32::MAX] {
            compare(&bench, stream(of), &mut met);
        }
        for pasid in [0, 1, 0xf_ffff] {
            compare(&bench, Stream::with_pasid(StreamId::new(near), Pasid::new(pasid).unwrap()), &mut met);
        }
        bench.attach(near, &*empty);
        compare(&bench, stream(near), &mut met);
        bench.detach(near);
        compare(&bench, stream(near), &mut met);
        bench.check();
    }
    // Ends of many kinds were met: in memory, and each of these.
    assert!(met.contains(&None));
    for code in [
        FaultCode::NONE,
        FaultCode::C_BAD_STREAMID,
        FaultCode::C_BAD_SUBSTREAMID,
        FaultCode::F_TRANSLATION,
        FaultCode::F_ADDR_SIZE,
        FaultCode::F_PERMISSION,
    ] {
        assert!(met.contains(&Some(code)), "{code:?}");
    }
}

#[test]
fn pasids_are_walked_each_to_its_own_domain() {
    let servers = Case::all().into_iter().filter(|case| case.name.starts_with("server") && case.stage == Stage::First);
    for case in servers {
        let bench = Bench::up(&case);
        let (whole, part) = (domain(&bench), bench.domain_with(0x2000, 0x7000_0000, 0x1000));
        let of = |pasid| Stream::with_pasid(StreamId::new(8), Pasid::new(pasid).unwrap());
        let widest = (1 << bench.unit.capabilities().pasid_bits.min(20)) - 1;
        let mut met = Vec::new();
        // First without a domain of the function, then with one, then passed through.
        for pasid in [1, 0x3f, 0x40, widest] {
            bench.unit.attach(of(pasid), Target::Paging(&*part)).unwrap();
        }
        for round in 0..3 {
            match round {
                1 => bench.unit.attach(stream(8), Target::Paging(&*whole)).map(drop).unwrap(),
                2 => bench.unit.attach(stream(8), Target::Identity).map(drop).unwrap(),
                _ => {}
            }
            for pasid in [0, 1, 2, 0x3f, 0x40, 0x41, widest / 2, widest - 1, widest] {
                compare(&bench, of(pasid), &mut met);
            }
            compare(&bench, stream(8), &mut met);
        }
        assert_eq!(bench.unit.walk(of(widest), Iova::new(0x2000)).end(true), End::Reaches(PhysAddr::new(0x7000_0000)));
        for code in [FaultCode::C_BAD_SUBSTREAMID, FaultCode::C_BAD_CD, FaultCode::F_STREAM_DISABLED] {
            assert!(met.contains(&Some(code)), "{}: {code:?}", case.name);
        }
        let walk = bench.unit.walk(of(widest), Iova::new(0x2000));
        let places: Vec<Place> = walk.steps().iter().map(|step| step.place).take(4).collect();
        assert_eq!(places, [Place::Level1Stream, Place::Stream, Place::Level1Context, Place::Context], "{walk}");
        bench.check();
    }
}

#[test]
fn what_is_not_the_drivers_is_not_read() {
    let bench = Bench::up(&Case::nested(Stage::Second));
    let domain = domain(&bench);
    bench.attach(8, &*domain);
    // Somebody has overwritten the level-1 descriptor: it leads to memory of nobody.
    let root = PhysAddr::new(bench.model.read64(0x80) & 0x000f_ffff_ffff_ffc0);
    let entry = bench.memory.device_read64(root).unwrap();
    bench.memory.write64(root, 0x7fff_0000 | 9);
    let walk = bench.unit.walk(stream(8), Iova::new(0x2000));
    bench.memory.write64(root, entry);
    assert_eq!((walk.end(false), walk.steps().len()), (End::Unknown(PhysAddr::new(0x7fff_0200)), 1), "{walk}");
    assert_eq!(bench.memory.take_stale_reads(), []);
}

/// What the model reads at `offset`.
fn read(model: &Model, offset: usize, digits: usize) -> u64 {
    if digits == 16 { model.read64(offset) } else { model.read32(offset).into() }
}

#[test]
fn every_register_is_printed_as_it_reads_and_nothing_is_written() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        bench.model.dma(1 << case.table_bits(), None, Iova::new(0x1234_5000), 4, true).unwrap_err();
        bench.model.raise_error(1 << 2);
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
        let has = |name: &str, offset: usize, len: usize| names.contains(&(name.to_owned(), offset, len));
        for (name, offset, len) in [
            ("IDR0", 0, 4),
            ("IDR5", 0x14, 4),
            ("CR0", 0x20, 4),
            ("CR0ACK", 0x24, 4),
            ("GBPA", 0x44, 4),
            ("IRQ_CTRL", 0x50, 4),
            ("GERROR", 0x60, 4),
            ("STRTAB_BASE", 0x80, 8),
            ("STRTAB_BASE_CFG", 0x88, 4),
            ("CMDQ_BASE", 0x90, 8),
            ("CMDQ_CONS", 0x9c, 4),
            ("EVENTQ_BASE", 0xa0, 8),
            ("EVENTQ_PROD", 0x1_00a8, 4),
            ("EVENTQ_CONS", 0x1_00ac, 4),
        ] {
            assert!(has(name, offset, len), "{name}: {text}");
        }
        let msi = case.config.idr0 & Config::MSI != 0;
        assert_eq!([has("GERROR_IRQ_CFG0", 0x68, 8), has("EVENTQ_IRQ_CFG2", 0xbc, 4)], [msi; 2], "{}", case.name);
        assert_eq!(has("PRIQ_PROD", 0x1_00c8, 4), case.config.idr0 & Config::PRI != 0, "{}", case.name);
        let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
        assert!(line("CR0ACK").contains(" SMMUEN") && line("CR0").contains(" CMDQEN"), "{text}");
        assert!(line("GBPA").contains(" ABORT") && line("GERROR").contains(" EVENTQ_ABT_ERR"), "{text}");
        assert!(line("EVENTQ_PROD").contains(" WR=0x1") && line("IDR0").contains(" TTF="), "{text}");
        assert_eq!(line("IDR0").contains(" S1P"), case.config.idr0 & Config::S1P != 0, "{text}");
    }
}

#[test]
fn registers_of_a_unit_that_is_gone_are_ones() {
    let bench = Bench::up(&Case::nested(Stage::First));
    bench.model.set_absent(true);
    let text = bench.unit.registers().to_string();
    assert!(text.lines().all(|line| line.contains("0xffffffff")), "{text}");
}
