//! What stays when hardware does not confirm: frames, ids and streams of a map, a flush, a detach and a drop, until a
//! later attempt succeeds.

use iommu_core::addr::Iova;
use iommu_core::hw::{DomainConfig, Gather, HwError, Prot, Target, Transition, Unit as _};
use iommu_models::vtd::{Config, FaultCode, Queue};
use iommu_tests::bench::{Bench, extent, map, range, stream, unmap};
use iommu_tests::case::Case;
use iommu_tests::four_pages::{HUNG, RED};

#[test]
fn a_flush_that_fails_keeps_the_tables_until_one_succeeds() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(1 << 30, 0x5000_1000, 1 << 21);
        bench.attach(RED, &*domain);
        bench.expect(RED, 1 << 30, Ok(0x5000_1000));
        let before = bench.memory.in_use();
        let mut gather = Gather::new();
        domain.unmap(range(1 << 30, 1 << 21), &mut gather).unwrap();
        assert!(gather.tables_changed());
        for queue in [Queue::Stopped, Queue::Mute] {
            bench.model.set_queue(queue);
            assert_eq!(domain.flush(&mut gather), Err(HUNG), "{}", case.name);
            assert_eq!((gather.is_empty(), bench.memory.in_use()), (false, before), "{}", case.name);
        }
        bench.model.set_queue(Queue::Running);
        bench.model.fail_descriptor_after(0);
        assert!(matches!(domain.flush(&mut gather), Err(HwError::Queue { .. })), "{}", case.name);
        assert_eq!((gather.is_empty(), bench.memory.in_use()), (false, before), "{}", case.name);
        domain.flush(&mut gather).expect("works");
        assert_eq!(bench.memory.in_use(), before - 1, "{}: one table", case.name);
        bench.expect(RED, 1 << 30, Err(case.not_mapped()));
        bench.check();
    }
}

#[test]
fn tables_of_a_gather_that_was_never_flushed_go_with_the_domain() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let kept = bench.memory.in_use();
        let domain = bench.domain_with(1 << 30, 0x5000_1000, 1 << 21);
        bench.attach(RED, &*domain);
        bench.expect(RED, 1 << 30, Ok(0x5000_1000));
        let before = bench.memory.in_use();
        let mut gather = Gather::new();
        domain.unmap(range(1 << 30, 1 << 21), &mut gather).unwrap();
        drop(gather);
        assert_eq!(bench.memory.in_use(), before, "hardware may still walk them");
        // Another flush of another gather is not theirs.
        map(&*domain, 2 << 30, 0x5000_1000, 1 << 21);
        let more = bench.memory.in_use();
        unmap(&*domain, 2 << 30, 1 << 21);
        assert_eq!(bench.memory.in_use(), more - 1, "{}: its own table, and no other", case.name);
        drop(domain);
        assert_eq!(bench.memory.in_use(), kept + 1, "{}: one context table more", case.name);
        bench.check();
    }
}

#[test]
fn a_detach_that_fails_keeps_everything_and_the_retry_finishes() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let kept = bench.memory.in_use();
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.attach(RED, &*domain);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        let other = bench.domain_with(0x2000, 0x6000_0000, 0x1000);
        let before = bench.memory.in_use();
        bench.model.set_queue(Queue::Stopped);
        assert_eq!(bench.unit.detach(stream(RED)), Err(HUNG));
        assert_eq!(bench.memory.in_use(), before, "{}", case.name);
        // Not confirmed: the stale copy still leads there, so the frames must stay.
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        assert_eq!(bench.unit.attach(stream(RED), Target::Paging(&*other)), Err(HUNG));
        bench.model.set_queue(Queue::Running);
        bench.detach(RED);
        bench.expect(RED, 0x1000, Err(FaultCode::CONTEXT_NOT_PRESENT));
        assert_eq!(bench.attach(RED, &*other), Transition::Hitless);
        bench.expect(RED, 0x2000, Ok(0x6000_0000));
        bench.expect(RED, 0x1000, Err(case.not_mapped()));
        drop((domain, other));
        assert_eq!(bench.memory.in_use(), kept + 1, "{}: one context table more", case.name);
        bench.check();
    }
}

#[test]
fn a_map_that_is_not_confirmed_stands_and_can_be_taken_back() {
    let case = Case::plain()[0].with_cap(Config::CAP_CM, true);
    let bench = Bench::up(&case);
    let domain = bench.domain();
    bench.attach(RED, &*domain);
    bench.model.set_queue(Queue::Stopped);
    let found = domain.map(Iova::new(0x1000), &[extent(0x5000_0000, 0x1000)], Prot::READ_WRITE);
    assert_eq!(found, Err(HUNG));
    assert!(domain.translate(Iova::new(0x1000)).is_some(), "it counts as reachable");
    bench.model.set_queue(Queue::Running);
    bench.expect(RED, 0x1000, Ok(0x5000_0000));
    unmap(&*domain, 0x1000, 0x1000);
    bench.expect(RED, 0x1000, Err(case.not_mapped()));
    bench.check();
}

#[test]
fn dropping_a_domain_that_hardware_does_not_let_go_of_blocks_all_its_streams_in_the_tables() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let streams = [0x0108u16, 0x0110, 0x0288];
        streams.iter().for_each(|rid| assert_eq!(bench.attach(*rid, &*domain), Transition::Hitless));
        let before = bench.memory.in_use();
        bench.model.set_queue(Queue::Stopped);
        drop(domain);
        assert_eq!(bench.memory.in_use(), before, "{}: all of it stays allocated", case.name);
        for rid in streams {
            // Nothing is cached, so the tables alone decide: nobody is left who could detach these later.
            let found = bench.model.translate(rid, None, Iova::new(0x1000), true);
            assert!(found.is_err(), "{}: {rid:#x} still reaches {found:x?}", case.name);
        }
        bench.model.set_queue(Queue::Running);
        // The streams can be given away again.
        let other = bench.domain_with(0x2000, 0x6000_0000, 0x1000);
        for rid in streams {
            bench.attach(rid, &*other);
            bench.expect(rid, 0x2000, Ok(0x6000_0000));
            bench.expect(rid, 0x1000, Err(case.not_mapped()));
        }
        bench.check();
    }
}

#[test]
fn each_flush_frees_the_tables_of_its_own_gather() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        bench.attach(RED, &*domain);
        // Three gathers with one table each, taken out in this order and flushed in another.
        let places = [1u64 << 30, 2 << 30, 3 << 30];
        places.iter().for_each(|iova| map(&*domain, *iova, 0x5000_1000, 1 << 21));
        places.iter().for_each(|iova| bench.expect(RED, *iova, Ok(0x5000_1000)));
        let mut gathers = [Gather::new(), Gather::new(), Gather::new()];
        for (iova, gather) in places.iter().zip(&mut gathers) {
            domain.unmap(range(*iova, 1 << 21), gather).unwrap();
        }
        let before = bench.memory.in_use();
        for (freed, at) in [1, 0, 2].into_iter().enumerate() {
            domain.flush(&mut gathers[at]).unwrap();
            assert_eq!(bench.memory.in_use(), before - freed - 1, "{}", case.name);
            bench.expect(RED, places[at], Err(case.not_mapped()));
            // Nothing of a gather that was not flushed is walked in freed frames.
            for iova in places {
                let _ = (bench.read(RED, iova), bench.write(RED, iova));
            }
        }
        bench.check();
    }
}

#[test]
fn the_id_of_a_domain_that_hardware_did_not_let_go_of_is_not_given_again() {
    for case in Case::plain() {
        // ND, bits 2:0: 16 of them.
        let case = case.with_cap(7, false);
        let bench = Bench::up(&case);
        let free = || {
            std::iter::from_fn(|| bench.unit.create_domain(&DomainConfig::new(case.stage)).ok())
                .collect::<Vec<_>>()
                .len()
        };
        let before = free();
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.attach(RED, &*domain);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        bench.model.set_queue(Queue::Stopped);
        drop(domain);
        bench.model.set_queue(Queue::Running);
        assert_eq!((before, free()), (14, 13), "{}", case.name);
        // One that hardware did let go of is.
        drop(bench.domain());
        assert_eq!(free(), 13, "{}", case.name);
    }
}
