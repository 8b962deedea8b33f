//! Configuration spaces that are well made, and such that lie.

mod adi;
mod function;
mod lists;

use super::*;
use crate::topology::PcieType;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

/// Where things are in [`Space::whole`].
const EXPRESS_AT: u16 = 0x40;
const PASID_AT: u16 = 0x100;
const ATS_AT: u16 = 0x110;
const PRI_AT: u16 = 0x120;
const SRIOV_AT: u16 = 0x130;
const OTHER_DVSEC_AT: u16 = 0x170;
const SIOV_AT: u16 = 0x180;

/// A configuration space in memory that keeps what is written where its bits may be written.
struct Space(Mutex<State>);

struct State {
    words: Vec<u32>,
    /// Bits that writes change, by word.
    writable: Vec<u32>,
    /// Bits that a one clears, by word.
    clearable: Vec<u32>,
    reads: usize,
    writes: Vec<(u16, u32)>,
    /// After so many writes nothing answers any more.
    dies_after: Option<usize>,
}

impl Space {
    /// A function of this PCI Express type, without extended capabilities.
    fn new(port: u32) -> Self {
        let (mut words, mut writable, mut clearable) = (vec![0; 1024], vec![0; 1024], vec![0; 1024]);
        // Status: a list, and bits that ones clear.
        (words[0], words[1], words[0xd]) = (0x1234_8086, 0xf910_0000, EXPRESS_AT.into());
        (writable[1], clearable[1]) = (0x0547, 0xf900_0000);
        words[usize::from(EXPRESS_AT) / 4] = port << 20 | 2 << 16 | 0x10;
        Self(Mutex::new(State { words, writable, clearable, reads: 0, writes: Vec::new(), dies_after: None }))
    }

    /// An endpoint that has everything.
    fn whole() -> Self {
        let space = Self::new(0);
        space.capability(PASID_AT, 0x1b, ATS_AT);
        space.set(PASID_AT + 4, 20 << 8 | 1 << 1 | 1 << 2, 7 << 16);
        space.capability(ATS_AT, 0x0f, PRI_AT);
        space.set(ATS_AT + 4, 1 << 6 | 1 << 5 | 8, 0x801f << 16);
        space.capability(PRI_AT, 0x13, SRIOV_AT);
        space.set(PRI_AT + 4, 0x8100 << 16, 3);
        space.0.lock().unwrap().clearable[usize::from(PRI_AT + 4) / 4] = 3 << 16;
        space.capability(SRIOV_AT, 0x10, OTHER_DVSEC_AT);
        space.set(SRIOV_AT + 8, 1, 0x1f);
        space.set(SRIOV_AT + 0xc, 8 << 16 | 8, 0);
        space.set(SRIOV_AT + 0x10, 4, 0xffff);
        space.set(SRIOV_AT + 0x14, 2 << 16 | 0x80, 0);
        space.capability(OTHER_DVSEC_AT, 0x23, SIOV_AT);
        space.set(OTHER_DVSEC_AT + 4, 0x00c0_1e98, 0);
        space.set(OTHER_DVSEC_AT + 8, 5, 0);
        space.capability(SIOV_AT, 0x23, 0);
        space.set(SIOV_AT + 4, 0x0180_8086, 0);
        space.set(SIOV_AT + 8, 0x0100_0005, 0);
        space.set(SIOV_AT + 0xc, 0x553, 0);
        space.set(SIOV_AT + 0x10, 1, 0x553);
        space.set(SIOV_AT + 0x14, 1, 0);
        space
    }

    fn capability(&self, at: u16, id: u32, next: u16) {
        self.set(at, u32::from(next) << 20 | 1 << 16 | id, 0);
    }

    /// What the word says, and which of its bits can be written.
    fn set(&self, at: u16, value: u32, writable: u32) {
        let mut state = self.0.lock().unwrap();
        state.words[usize::from(at) / 4] = value;
        state.writable[usize::from(at) / 4] = writable;
    }

    fn get(&self, at: u16) -> u32 {
        self.0.lock().unwrap().words[usize::from(at) / 4]
    }

    /// The word at `at` is another.
    fn with(self, at: u16, change: impl Fn(u32) -> u32) -> Self {
        let value = change(self.get(at));
        self.0.lock().unwrap().words[usize::from(at) / 4] = value;
        self
    }

    /// These bits do not change, whatever is written.
    fn stuck(self, at: u16, bits: u32) -> Self {
        self.0.lock().unwrap().writable[usize::from(at) / 4] &= !bits;
        self
    }

    fn writes(&self) -> Vec<(u16, u32)> {
        core::mem::take(&mut self.0.lock().unwrap().writes)
    }

    fn reads(&self) -> usize {
        core::mem::take(&mut self.0.lock().unwrap().reads)
    }
}

impl State {
    fn is_dead(&self) -> bool {
        self.dies_after.is_some_and(|after| self.writes.len() >= after)
    }
}

impl ConfigAccess for Space {
    fn read32(&self, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < SPACE_LEN, "read at {offset:#x}");
        let mut state = self.0.lock().unwrap();
        state.reads += 1;
        if state.is_dead() { u32::MAX } else { state.words[usize::from(offset) / 4] }
    }

    fn write32(&self, offset: u16, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < SPACE_LEN, "write at {offset:#x}");
        let mut state = self.0.lock().unwrap();
        state.writes.push((offset, value));
        let at = usize::from(offset) / 4;
        let (writable, clearable) = (state.writable[at], state.clearable[at]);
        state.words[at] = (state.words[at] & !writable | value & writable) & !(value & clearable);
    }
}

#[test]
fn everything_is_decoded() {
    let found = Capabilities::read(&Space::whole()).unwrap();
    let expected = Capabilities {
        express: Some(Express { offset: EXPRESS_AT, port: PcieType::Endpoint }),
        ats: Some(Ats {
            offset: ATS_AT,
            queue_depth: 8,
            page_aligned: true,
            global_invalidate: true,
            stu: 0,
            enabled: false,
        }),
        pasid: Some(Pasid { offset: PASID_AT, bits: 20, execute: true, privileged: true, enabled: false }),
        pri: Some(Pri { offset: PRI_AT, enabled: false }),
        sriov: Some(Sriov { offset: SRIOV_AT, enabled: true, total: 8, count: 4, first: 0x80, stride: 2 }),
        siov: Some(Siov {
            offset: SIOV_AT,
            flags: 0x0100,
            supported_page_sizes: 0x553,
            system_page_size: 1,
            ims: true,
        }),
    };
    assert_eq!(found, expected);
}

#[test]
fn what_is_on_is_seen() {
    let space = Space::whole().with(ATS_AT + 4, |word| word | 1 << 31 | 3 << 16);
    let space = space.with(PASID_AT + 4, |word| word | 1 << 16).with(PRI_AT + 4, |word| word | 1);
    let found = Capabilities::read(&space).unwrap();
    let (ats, pasid) = (found.ats.unwrap(), found.pasid.unwrap());
    assert_eq!((ats.enabled, ats.stu, pasid.enabled, found.pri.unwrap().enabled), (true, 3, true, true));
    assert_eq!(space.writes(), []);
}

#[test]
fn virtual_functions_have_routing_ids() {
    use iommu_core::hw::RequesterId;
    let sriov = Sriov { offset: 0x100, enabled: true, total: 8, count: 4, first: 0x80, stride: 2 };
    let ids =
        |sriov: Sriov, at: u16| sriov.virtual_functions(RequesterId::new(at)).map(RequesterId::get).collect::<Vec<_>>();
    assert_eq!(ids(sriov, 0x0300), [0x0380, 0x0382, 0x0384, 0x0386]);
    // They carry into the bus number, and end with the segment.
    assert_eq!(ids(Sriov { stride: 0x100, ..sriov }, 0x03f8), [0x0478, 0x0578, 0x0678, 0x0778]);
    assert_eq!(ids(Sriov { stride: 0x40, ..sriov }, 0xff00), [0xff80, 0xffc0]);
    assert_eq!(ids(Sriov { stride: u16::MAX, first: u16::MAX, count: u16::MAX, total: u16::MAX, ..sriov }, 1), []);
    // Not there, or nonsense.
    for nothing in [
        Sriov { enabled: false, ..sriov },
        Sriov { count: 0, ..sriov },
        Sriov { total: 0, ..sriov },
        Sriov { first: 0, ..sriov },
    ] {
        assert_eq!(ids(nothing, 0x0300), []);
    }
    assert_eq!(ids(Sriov { stride: 0, ..sriov }, 0x0300), [0x0380]);
    assert_eq!(ids(Sriov { count: 9, total: 1, ..sriov }, 0x0300), [0x0380]);
}
