//! What a batch costs, and that it is done in order wherever it lies in the ring.

use super::*;
use iommu_models::vtd::Execution;

#[test]
fn a_caller_alone_pays_one_wait_one_doorbell_and_no_read() {
    let bed = Bed::server();
    for count in [0, 1, 8, 100] {
        let batch: Vec<_> = (0..count).map(domain).collect();
        let marker = bed.run(&batch).unwrap();
        assert_eq!(bed.counts(), (0, 1, 0), "{count} descriptors");
        let executed = bed.executed();
        assert_eq!(executed.len(), usize::from(count) + 1);
        assert!(executed.iter().zip(&batch).all(|((raw, _), wanted)| *raw == word(*wanted)));
        let (wait, done) = executed[usize::from(count)];
        // Status write, and nothing else; its data is the marker.
        assert_eq!((wait, done), (5 | 1 << 5 | u64::from(marker) << 32, true));
    }
    bed.check();
}

#[test]
fn a_batch_longer_than_the_ring_goes_in_parts() {
    let bed = Bed::server();
    for (count, waits) in [(253, 1), (254, 1), (255, 2), (508, 2), (509, 3), (2000, 8)] {
        let batch: Vec<_> = (0..count).map(domain).collect();
        bed.run(&batch).unwrap();
        assert_eq!(bed.counts(), (0, waits, 0), "{count} descriptors");
        let executed = bed.executed();
        assert_eq!(executed.iter().filter(|(raw, _)| is_wait(*raw)).count(), waits);
        let order: Vec<u64> = executed.iter().map(|(raw, _)| *raw).filter(|raw| !is_wait(*raw)).collect();
        assert_eq!(order, batch.iter().map(|it| word(*it)).collect::<Vec<_>>());
    }
    bed.check();
}

#[test]
fn every_slot_is_used_and_the_tail_wraps() {
    for config in [Config::server(), Config::legacy()] {
        let bed = Bed::new(config);
        let mut slots = [0; 256];
        for round in 0..600u16 {
            let batch: Vec<_> = (0..round % 9).map(|n| domain(round * 16 + n)).collect();
            bed.run(&batch).unwrap();
            let log = bed.model.take_log();
            assert_eq!(log.len(), batch.len() + 1, "round {round}");
            assert!(log.iter().zip(&batch).all(|(done, wanted)| done.raw[0] == word(*wanted)));
            log.iter().for_each(|done| slots[done.slot] += 1);
            let size = if bed.model.read64(IQA_REG) & 1 << 11 != 0 { 256 * 32 } else { 256 * 16 };
            assert!(bed.model.read64(IQT_REG) < size);
        }
        assert!(slots.iter().all(|used| *used > 5), "{slots:?}");
        bed.check();
    }
}

#[test]
fn a_ring_that_is_full_makes_others_wait() {
    let bed = Bed::server();
    // Another CPU's: as much as there is room for, and the wait of its round.
    let batch: Vec<_> = (0..250).map(domain).collect();
    let seat = bed.join(&batch);
    // Not together with these; so the first round goes alone, and this caller leads it.
    let more: Vec<_> = (0..5).map(|n| domain(1000 + n)).collect();
    bed.run(&more).unwrap();
    assert_eq!(bed.counts().1, 2);
    assert!(matches!(bed.outcome(seat), Some(Told::Confirmed(1))));
    let executed = bed.executed();
    assert_eq!(executed.len(), 250 + 1 + 5 + 1);
    assert!(is_wait(executed[250].0));
    bed.check();
}

#[test]
fn callers_that_came_meanwhile_share_a_doorbell() {
    let bed = Bed::server();
    let seats: Vec<_> = (0..20).map(|n| bed.join(&[domain(n), domain(100 + n)])).collect();
    let marker = bed.run(&[domain(999)]).unwrap();
    assert_eq!(bed.counts(), (0, 1, 0));
    assert_eq!(bed.executed().len(), 42);
    for seat in seats {
        assert_eq!(bed.outcome(seat), Some(Told::Confirmed(marker)));
    }
    bed.check();
}

#[test]
fn seats_come_back() {
    let bed = Bed::server();
    for _ in 0..10 {
        let seats: Vec<_> = (0..63).map(|_| bed.join(&[])).collect();
        bed.run(&[]).unwrap();
        assert!(seats.into_iter().all(|seat| bed.outcome(seat).is_some()));
    }
    // All taken by callers that gave up: the next one leads their round to its end, and gets one.
    let seats: Vec<_> = (0..64).map(|_| bed.join(&[])).collect();
    assert!(seats.into_iter().all(|seat| bed.queue().leave(seat).is_none()));
    bed.counts();
    bed.run(&[domain(1)]).unwrap();
    assert_eq!(bed.counts().1, 2);
    bed.check();
}

#[test]
fn markers_go_on_past_the_largest() {
    let bed = Bed::server();
    bed.queue().start_at(u32::MAX - 3);
    for n in 0..600u32 {
        // Cells that were never written hold 0, and each is used again.
        assert_eq!(bed.run(&[domain(1)]), Ok((u32::MAX - 2).wrapping_add(n)));
        assert_eq!(bed.invalidator.marker(), (u32::MAX - 2).wrapping_add(n));
        assert_eq!(bed.executed().len(), 2);
    }
    // With hardware that does nothing no number is taken for a confirmation, 0 and those of the cells included.
    bed.queue().start_at(u32::MAX);
    bed.model.set_queue(iommu_models::vtd::Queue::Mute);
    for _ in 0..300 {
        assert_eq!(bed.run(&[]), Err(HUNG));
    }
    bed.check();
}

#[test]
fn a_device_tlb_follows_the_first_stage_behind_a_fence() {
    let first = Invalidation::PasidIotlb { domain: 1, pasid: 0, pages: None };
    let kinds = |batch: &[Invalidation], order| {
        let bed = Bed::server();
        bed.model.set_execution(order);
        bed.run(batch).unwrap();
        assert_eq!(bed.counts().1, 1);
        bed.check();
        let fenced = |raw: u64| if raw & 1 << 6 != 0 && is_wait(raw) { 15 } else { raw & 0xf };
        bed.executed().into_iter().map(|(raw, _)| fenced(raw)).collect::<Vec<_>>()
    };
    for seed in 0..20 {
        let order = Execution::Shuffled(seed);
        assert_eq!(kinds(&[first, device(0x100)], order), [6, 15, 3, 5], "seed {seed}");
    }
    assert_eq!(kinds(&[first, device(1), device(2), first], Execution::Queued), [6, 15, 3, 3, 6, 5]);
    // Hardware keeps these apart by itself.
    assert_eq!(kinds(&[domain(1), device(0x100)], Execution::Reversed), [2, 3, 5]);
}
