use super::*;
use alloc::sync::Arc;
use iommu_hal::mem::Frames as HalFrames;
use iommu_hal::{Hal, wait};

const BASE: PhysAddr = PhysAddr::new(0x8_0000_3000);

fn single(memory: WalkerMemory) -> FrameRequest {
    FrameRequest::single(46, memory)
}

fn coherent() -> FrameRequest {
    single(WalkerMemory::Coherent)
}

#[test]
fn frames_are_aligned_zero_and_counted() {
    let memory = TestMemory::new(BASE, 64);
    for order in [0u8, 1, 3, 4] {
        let request = FrameRequest { order, address_bits: 46, memory: WalkerMemory::Coherent };
        let frames = HalFrames::alloc(&memory, request).unwrap();
        assert!(frames.phys().is_aligned(4096 << order));
        let virt = memory.phys_to_virt(frames.phys()).as_ptr() as u64;
        assert_eq!(virt % (4096 << order), 0);
        assert_ne!(virt, frames.phys().get());
        assert_eq!(memory.in_use(), 1 << order);
        let frame = frames.frame((1 << order) - 1).unwrap();
        assert_eq!(frame.load(511), 0);
        frame.store(511, 7);
        drop(frames);
        assert_eq!(memory.in_use(), 0);
    }
    assert_eq!((memory.peak(), memory.allocations(), memory.failures()), (16, 4, 0));
}

#[test]
fn frames_are_reused_zeroed() {
    let memory = TestMemory::new(BASE, 2);
    for _ in 0..5 {
        let frames = HalFrames::alloc(&memory, coherent()).unwrap();
        let frame = frames.frame(0).unwrap();
        assert_eq!((0..512).map(|at| frame.load(at)).sum::<u64>(), 0);
        frame.store(3, 9);
    }
}

#[test]
fn the_width_of_addresses_is_kept() {
    let memory = TestMemory::new(PhysAddr::new(0xffff_f000), 4);
    let below = FrameRequest::single(32, WalkerMemory::Coherent);
    assert_eq!(memory.alloc_frames(below), Some(PhysAddr::new(0xffff_f000)));
    assert_eq!(memory.alloc_frames(below), None);
    assert_eq!(memory.alloc_frames(coherent()), Some(PhysAddr::new(0x1_0000_0000)));
    assert_eq!(memory.alloc_frames(FrameRequest { order: 60, ..below }), None);
    assert_eq!(memory.alloc_frames(FrameRequest { order: 200, ..below }), None);
}

#[test]
fn the_nth_allocation_fails() {
    let memory = TestMemory::new(BASE, 64);
    let next = || memory.alloc_frames(coherent()).is_some();
    memory.fail_after(2);
    assert_eq!([next(), next(), next(), next()], [true, true, false, true]);
    memory.exhaust_after(1);
    assert_eq!([next(), next(), next()], [true, false, false]);
    memory.fail_never();
    assert!(next());
    assert_eq!(memory.failures(), 3);
}

#[test]
#[should_panic(expected = "a double free?")]
fn a_double_free_panics() {
    let memory = TestMemory::new(BASE, 4);
    let phys = memory.alloc_frames(coherent()).unwrap();
    // SAFETY: the first is a proper free; the second is the bug under test and panics.
    unsafe {
        memory.free_frames(phys, coherent());
        memory.free_frames(phys, coherent());
    }
}

#[test]
#[should_panic(expected = "no frame of this memory")]
fn a_foreign_free_panics() {
    let memory = TestMemory::new(BASE, 4);
    // SAFETY: the bug under test; it panics.
    unsafe { memory.free_frames(PhysAddr::new(0x1000), coherent()) };
}

#[test]
#[should_panic(expected = "but was allocated as")]
fn a_free_with_another_size_panics() {
    let memory = TestMemory::new(BASE, 4);
    let phys = memory.alloc_frames(coherent()).unwrap();
    // SAFETY: the bug under test; it panics.
    unsafe { memory.free_frames(phys, FrameRequest { order: 1, ..coherent() }) };
}

#[test]
#[should_panic(expected = "was written after it was freed")]
fn a_store_to_a_freed_frame_is_seen() {
    let memory = TestMemory::new(BASE, 4);
    let frames = HalFrames::alloc(&memory, coherent()).unwrap();
    let word = memory.phys_to_virt(frames.phys()).cast::<u64>();
    drop(frames);
    // SAFETY: the arena still lives; that the frame is free is the bug under test.
    unsafe { word.write_volatile(1) };
    memory.check_freed();
}

#[test]
fn a_device_that_reads_a_freed_frame_is_recorded() {
    let memory = TestMemory::new(BASE, 4);
    let frames = HalFrames::alloc(&memory, coherent()).unwrap();
    let phys = frames.phys();
    assert_eq!(memory.device_read64(phys), Some(0));
    assert!(memory.take_stale_reads().is_empty());
    drop(frames);
    assert_eq!(memory.device_read64(phys), Some(POISON));
    assert_eq!(memory.device_write32(phys, 1), Some(()));
    assert_eq!(memory.device_or64(phys, 1), Some(POISON));
    assert_eq!(memory.take_stale_reads(), [phys; 3]);
    assert_eq!(memory.device_read64(PhysAddr::new(0)), None);
    memory.check_freed();
}

#[test]
fn a_device_replaces_only_what_it_has_read() {
    let memory = TestMemory::new(BASE, 4);
    let frames = HalFrames::alloc(&memory, coherent()).unwrap();
    let phys = frames.phys();
    assert_eq!(memory.device_update64(phys, 0, 7), Some(Ok(())));
    assert_eq!(memory.device_update64(phys, 0, 9), Some(Err(7)));
    assert_eq!(memory.read64(phys), 7);
    assert_eq!(memory.device_update64(PhysAddr::new(0), 0, 1), None);
    drop(frames);
    assert!(memory.take_stale_reads().is_empty());
    // A freed frame is not changed, whatever the device takes it for.
    assert_eq!(memory.device_update64(phys, POISON, 1), Some(Ok(())));
    assert_eq!(memory.device_update64(phys, 7, 1), Some(Err(POISON)));
    assert_eq!(memory.take_stale_reads(), [phys; 2]);
    memory.check_freed();
}

#[test]
fn a_device_writes_either_half_of_a_word() {
    let memory = TestMemory::new(BASE, 4);
    let phys = memory.alloc_frames(coherent()).unwrap();
    memory.write64(phys, 0x1111_1111_2222_2222);
    memory.device_write32(phys.wrapping_add(4), 0xaaaa_aaaa).unwrap();
    assert_eq!(memory.read64(phys), 0xaaaa_aaaa_2222_2222);
    memory.device_write32(phys, 0xbbbb_bbbb).unwrap();
    assert_eq!(memory.read64(phys), 0xaaaa_aaaa_bbbb_bbbb);
}

#[test]
fn without_snooping_a_device_sees_what_was_cleaned() {
    let memory = TestMemory::non_coherent(BASE, 4);
    let frames = HalFrames::alloc(&memory, single(WalkerMemory::NonCoherent)).unwrap();
    let (phys, next) = (frames.phys(), frames.phys().wrapping_add(8));
    let frame = frames.frame(0).unwrap();
    frame.store(0, 5);
    frame.store(1, 6);
    assert_eq!(memory.device_read64(phys), Some(0));
    frame.clean(0, 1);
    assert_eq!((memory.device_read64(phys), memory.device_read64(next)), (Some(5), Some(0)));
    assert_eq!(memory.snapshot().read64(phys), Some(5));
    assert_eq!(memory.take_maintenance(), [Maintenance::Clean { phys, len: 8 }]);
    memory.device_write32(phys, 9);
    assert_eq!(frame.load(0), 5);
    memory.invalidate(phys, 8);
    assert_eq!(frame.load(0), 9);
    // Others on the same memory are snooped.
    let snooped = HalFrames::alloc(&memory, coherent()).unwrap();
    snooped.frame(0).unwrap().store(0, 7);
    assert_eq!(memory.device_read64(snooped.phys()), Some(7));
    // Freed and allocated anew: zero for devices too, without a clean.
    drop((frames, snooped));
    for _ in 0..4 {
        let again = memory.alloc_frames(single(WalkerMemory::NonCoherent)).unwrap();
        assert_eq!(memory.device_read64(again), Some(0));
    }
}

#[test]
fn the_observer_sees_each_store_in_order() {
    let memory = Arc::new(TestMemory::new(BASE, 4));
    let frames = HalFrames::alloc(memory.clone(), coherent()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    memory.set_observer(Some(Box::new(move |memory, phys| {
        let snapshot = memory.snapshot();
        assert_eq!(snapshot.read64(phys), memory.device_read64(phys));
        log.lock().push((phys, snapshot));
    })));
    let frame = frames.frame(0).unwrap();
    frame.store(2, 5);
    frame.publish(0, 1);
    memory.set_observer(None);
    frame.store(3, 1);
    let seen = seen.lock();
    let (first, second) = (frames.phys(), frames.phys().wrapping_add(16));
    assert_eq!(seen.iter().map(|(phys, _)| *phys).collect::<Vec<_>>(), [second, first]);
    assert_eq!([seen[0].1.read64(first), seen[0].1.read64(second)], [Some(0), Some(5)]);
    assert_eq!([seen[1].1.read64(first), seen[1].1.read64(second)], [Some(1), Some(5)]);
    assert_eq!(seen[0].1.read64(PhysAddr::new(0x1000)), None);
    assert_eq!(seen[0].1.frames().collect::<Vec<_>>(), [first]);
}

#[test]
fn deadlines_pass_without_real_time() {
    let memory = TestMemory::new(BASE, 1);
    memory.set_clock_step(1_000_000);
    let mut polls = 0;
    let limit = core::time::Duration::from_secs(1);
    let done = wait::poll(&memory, limit, || {
        polls += 1;
        None::<()>
    });
    assert_eq!((done, polls), (None, 1001));
    let before = memory.now();
    memory.advance_clock(5);
    assert_eq!(memory.now(), before + 1_000_005);
}
