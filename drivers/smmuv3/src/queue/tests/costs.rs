//! What a batch costs, and that it is done in order wherever it lies in the ring.

use super::*;

#[test]
fn a_caller_alone_pays_one_sync_one_doorbell_and_one_look() {
    for (completion, reads, word0) in [(Completion::Poll, 1, 0x46), (Completion::Event, 1, 0x46 | 2 << 12)] {
        let bed = Bed::new(Config::server().sid_bits(32), 8, completion);
        for count in [0, 1, 8, 100] {
            let batch: Vec<_> = (0..count).map(domain).collect();
            let marker = bed.run(&batch).unwrap();
            assert_eq!(bed.counts(), (reads, 1, 0), "{count} commands, {completion:?}");
            assert_eq!(marker & 0x1ff, bed.model.read32(CMDQ_PROD_REG));
            let executed = bed.executed();
            assert!(executed.iter().zip(&batch).all(|(raw, wanted)| *raw == wanted.0));
            assert_eq!(executed[usize::from(count)..], [[word0, 0]], "{completion:?}");
        }
        bed.check();
    }
}

#[test]
fn a_message_tells_without_a_read() {
    let bed = Bed::new(Config::server().sid_bits(32), 8, Completion::Message);
    let mut cells = None;
    bed.queue.for_each_frame(|structure, frame| {
        if structure == Structure::QueueStatus {
            cells = Some(frame.get());
        }
    });
    let cells = cells.expect("a frame of cells");
    for round in 0..400 {
        let marker = bed.run(&[domain(round)]).unwrap();
        assert_eq!(bed.counts(), (0, 1, 0), "round {round}");
        // CS 1, inner shareable, write-back, and the marker, to the cell of its own slot.
        let cell = cells + u64::from(marker - 1) % 256 * 8;
        assert_eq!(bed.executed(), [domain(round).0, [0xfc0_1046 | u64::from(marker) << 32, cell]]);
    }
    bed.check();
}

#[test]
fn where_the_unit_cannot_send_messages_it_is_polled() {
    let on = |config: Config| {
        let model = Model::new(config, Arc::new(TestMemory::new(PhysAddr::new(0), 1)));
        let caps = Regs::new(model, Duration::ZERO, false).capabilities().unwrap();
        [Completion::Poll, Completion::Event, Completion::Message].map(|completion| completion.on(&caps))
    };
    let server = Config::server().sid_bits(32);
    assert_eq!(on(server), [Completion::Poll, Completion::Event, Completion::Message]);
    for config in [server.idr0_bits(Config::MSI, false), server.non_coherent()] {
        assert_eq!(on(config), [Completion::Poll, Completion::Event, Completion::Poll]);
    }
    // Whatever it is told, the queue reads no cells that it would have to maintain.
    let bed = Bed::new(server.non_coherent(), 8, Completion::Message);
    bed.run(&[domain(1)]).unwrap();
    assert_eq!(bed.executed(), [domain(1).0, [0x46, 0]]);
    bed.queue.for_each_frame(|structure, _| assert_eq!(structure, Structure::CommandQueue));
}

#[test]
fn kinds_are_kept_apart_by_a_sync_where_they_depend_on_each_other() {
    const S: [u64; 2] = [0x46, 0];
    let [c, t, d, stall] = [config(1), domain(2), device(3), Command::stall_term(4)];
    let done = |batch: &[Command]| {
        let bed = Bed::server();
        bed.run(batch).unwrap();
        assert_eq!(bed.counts().1, 1, "one doorbell");
        bed.check();
        bed.executed()
    };
    assert_eq!(done(&[c, t, d, stall]), [c.0, S, t.0, S, d.0, S, stall.0, S]);
    assert_eq!(done(&[c, c, t, t, d, d]), [c.0, c.0, S, t.0, t.0, S, d.0, d.0, S]);
    assert_eq!(done(&[c, d]), [c.0, S, d.0, S]);
    assert_eq!(done(&[t, t]), [t.0, t.0, S]);
    // What does not depend on the one before: no CMD_SYNC.
    assert_eq!(done(&[d, t, c]), [d.0, t.0, c.0, S]);
    assert_eq!(done(&[]), [S]);
}

#[test]
fn a_ring_of_any_size_takes_every_batch_in_order() {
    for log2 in 1..=8 {
        for bed in beds(log2) {
            for round in 0..60u16 {
                let count = round % 9;
                let mut batch: Vec<_> = (0..count).map(|n| config(u32::from(round << 4 | n))).collect();
                batch.extend((0..count).map(|n| domain(round << 4 | n)));
                batch.extend((0..count % 4).map(|n| device(u32::from(round << 4 | n))));
                let marker = bed.run(&batch).unwrap();
                let executed = bed.executed();
                let order: Vec<_> = executed.iter().copied().filter(|raw| !is_sync(*raw)).collect();
                assert_eq!(order, batch.iter().map(|it| it.0).collect::<Vec<_>>(), "2^{log2}, round {round}");
                // Between two ranks at least one CMD_SYNC, whether the batch fits or not.
                let rank = |raw: &[u64; 2]| match raw[0] & 0xff {
                    0x03 => Some(0),
                    0x11 => Some(1),
                    0x40 => Some(2),
                    _ => None,
                };
                for pair in executed.windows(2) {
                    if let (Some(first), Some(second)) = (rank(&pair[0]), rank(&pair[1])) {
                        assert_eq!(first, second, "2^{log2}, round {round}: {executed:x?}");
                    }
                }
                assert!(is_sync(*executed.last().unwrap()));
                let mask = (2 << log2) - 1;
                assert_eq!(marker & mask, bed.model.read32(CMDQ_PROD_REG));
                assert_eq!(bed.model.read32(CMDQ_CONS_REG) & 0xf_ffff, marker & mask);
            }
            bed.check();
        }
    }
}

#[test]
fn every_slot_is_used_and_a_batch_may_fill_the_ring() {
    for log2 in [1, 2, 5, 8] {
        let bed = Bed::new(Config::server().sid_bits(32), log2, Completion::Poll);
        let slots = 1u16 << log2;
        for (count, syncs) in [(slots - 1, 1), (slots, 2), (2 * slots - 2, 2), (2 * slots - 1, 3)] {
            bed.run(&(0..count).map(domain).collect::<Vec<_>>()).unwrap();
            assert_eq!(bed.counts().1, syncs, "{count} commands in a ring of {slots}");
        }
        let mut used = std::vec![0; slots.into()];
        bed.model.take_log().iter().for_each(|executed| used[executed.slot] += 1);
        assert!(used.iter().all(|count| *count > 2), "{used:?}");
        bed.check();
    }
}

#[test]
fn callers_that_came_meanwhile_share_a_doorbell() {
    for bed in beds(8) {
        let seats: Vec<_> = (0..20).map(|n| bed.join(&[domain(n), domain(100 + n)])).collect();
        let marker = bed.run(&[domain(999)]).unwrap();
        assert_eq!(bed.counts().1, 1);
        let executed = bed.executed();
        assert_eq!(executed.len(), 42);
        assert_eq!(executed.iter().filter(|raw| is_sync(**raw)).count(), 1);
        for seat in seats {
            assert_eq!(bed.outcome(seat), Some(Told::Confirmed(marker)));
        }
        bed.check();
    }
}

#[test]
fn a_ring_that_is_full_makes_others_wait() {
    for log2 in [1, 2, 8] {
        for bed in beds(log2) {
            // Another CPU's: as much as there is room for, and the CMD_SYNC of its round.
            let batch: Vec<_> = (0..(1 << log2) - 1).map(domain).collect();
            let seat = bed.join(&batch);
            // Not together with this; so the first round goes alone, and this caller leads it.
            bed.run(&[domain(1000)]).unwrap();
            assert_eq!(bed.counts().1, 2);
            assert!(matches!(bed.outcome(seat), Some(Told::Confirmed(_))));
            let executed = bed.executed();
            assert_eq!(executed.len(), batch.len() + 1 + 2);
            assert!(is_sync(executed[batch.len()]));
            bed.check();
        }
    }
}

#[test]
fn markers_go_on_past_the_largest_index() {
    for completion in [Completion::Poll, Completion::Message] {
        let bed = Bed::new(Config::server().sid_bits(32), 1, completion);
        let mut last = 0;
        for n in 0..2000u16 {
            let marker = bed.run(&[domain(n)]).unwrap();
            assert_eq!((marker, bed.queue.marker()), (last + 2, last + 2));
            last = marker;
        }
        bed.check();
    }
}

#[test]
fn a_queue_of_one_command_is_too_small_to_hang_on() {
    // Capabilities refuse such a unit; whoever makes one all the same gets errors.
    let bed = Bed::new(Config::server().sid_bits(32).queues(0), 0, Completion::Poll);
    bed.run(&[]).expect("a CMD_SYNC fits");
    assert_eq!(bed.run(&[domain(1)]), Err(HUNG));
}
