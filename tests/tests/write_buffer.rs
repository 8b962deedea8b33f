//! Units that need their write buffer flushed (CAP.RWBF): it is, exactly where no invalidation does it by the way.

use iommu_core::hw::{Domain, Gather, HwError, Target, Unit as _, Wait};
use iommu_models::vtd::Config;
use iommu_tests::bench::{Bench, map, range, stream};
use iommu_tests::case::Case;
use iommu_tests::spy::{GCMD, IQT, WBF};

const RED: u16 = 0x0108;
const HUGE: u64 = 1 << 30;

#[test]
fn the_write_buffer_is_flushed_exactly_where_no_invalidation_follows() {
    for case in Case::all() {
        for rwbf in [false, true] {
            let case = case.with_cap(Config::CAP_RWBF, rwbf);
            let bench = Bench::up(&case);
            // Hardware takes its time, so that a command given too early is seen.
            bench.model.answer_after(3);
            let other = bench.domain();
            bench.spy.take_writes();
            // Flushes of the write buffer, and whether there was any doorbell.
            let counted = |name: &str, expected: usize, does: &mut dyn FnMut()| {
                does();
                let writes = bench.spy.take_writes();
                let flushes = writes.iter().filter(|it| it.offset == GCMD && it.value as u32 & WBF != 0).count();
                let doorbells = writes.iter().filter(|it| it.offset == IQT).count();
                let expected = if rwbf && doorbells == 0 { expected } else { 0 };
                assert_eq!(flushes, expected, "{}: {name}, {doorbells} doorbells", case.name);
            };
            let domain = bench.domain();
            let attach = |domain: &dyn Domain| assert!(bench.unit.attach(stream(RED), Target::Paging(domain)).is_ok());
            counted("create", 0, &mut || ());
            counted("attach", 1, &mut || attach(&*domain));
            counted("map", 1, &mut || map(&*domain, 0x1000, 0x5000_0000, 0x1000));
            counted("map deeper", 1, &mut || map(&*domain, 0x40 * HUGE, 0x5000_0000, 0x1000));
            let mut gather = Gather::new();
            counted("unmap, not flushed", 0, &mut || domain.unmap(range(0x1000, 0x1000), &mut gather).unwrap());
            counted("flush", 0, &mut || domain.flush(&mut gather).unwrap());
            counted("nothing to flush", 0, &mut || domain.flush(&mut gather).unwrap());
            counted("attach to the same", 0, &mut || attach(&*domain));
            counted("detach", 0, &mut || bench.detach(RED));
            counted("detach again", 0, &mut || bench.detach(RED));
            drop(other);
            bench.check();
        }
    }
}

#[test]
fn a_replacement_flushes_the_write_buffer_after_the_new_entry() {
    for case in Case::all() {
        let case = case.with_cap(Config::CAP_RWBF, true);
        let bench = Bench::up(&case);
        let (red, blue) = (bench.domain(), bench.domain());
        bench.attach(RED, &*red);
        bench.spy.take_writes();
        bench.attach(RED, &*blue);
        // The invalidation of the old entry came before the new one was written, so that it flushed none of that.
        let steps: Vec<char> = (bench.spy.take_writes().iter())
            .filter_map(|it| match it.offset {
                IQT => Some('I'),
                GCMD if it.value as u32 & WBF != 0 => Some('W'),
                _ => None,
            })
            .collect();
        assert_eq!(steps, if case.caching() { ['I', 'I'] } else { ['I', 'W'] }, "{}", case.name);
    }
}

#[test]
fn a_write_buffer_flush_that_is_never_acknowledged_blocks_the_stream() {
    let case = Case::plain()[0].with_cap(Config::CAP_RWBF, true);
    let bench = Bench::up(&case);
    let domain = bench.domain();
    map(&*domain, 0x1000, 0x5000_0000, 0x1000);
    bench.model.never_answer(WBF);
    let found = bench.unit.attach(stream(RED), Target::Paging(&*domain));
    assert_eq!(found, Err(HwError::TimedOut(Wait::Status("GSTS.WBFS"))));
    bench.read(RED, 0x1000).unwrap_err();
    bench.model.never_answer(0);
    bench.model.take_violations();
    bench.attach(RED, &*domain);
    bench.expect(RED, 0x1000, Ok(0x5000_0000));
    bench.check();
}
