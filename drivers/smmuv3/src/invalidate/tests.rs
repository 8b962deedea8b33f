//! Every row of the transition table, as raw command words worked out from the specification's bit numbers.

mod covers;
mod entries;
mod tables;

use super::*;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, IovaRange};

/// A command's two words.
type Words = [u64; 2];

const STREAM: StreamId = StreamId::new(0x0001_0abc);
const OTHER: StreamId = StreamId::new(0x0001_0abd);
const SID: u64 = 0x0001_0abc << 32;
const OTHER_SID: u64 = 0x0001_0abd << 32;
const PASID: u32 = 0x5_4321;

const FIRST: Tag = Tag::Asid(0x8765);
const SECOND: Tag = Tag::Vmid(0x1234);
/// A guest's stage 1 on top of [`SECOND`].
const GUEST: Tag = Tag::Guest { vmid: 0x1234, number: 7 };

const CFGI_STE: Words = [0x03 | SID, 1];
const CFGI_STE_AND_LEVEL_1: Words = [0x03 | SID, 0];
const CFGI_ALL: Words = [0x04, 31];
const CFGI_CD_0: Words = [0x05 | SID, 1];
const CFGI_CD_PASID: Words = [0x05 | 0x5_4321 << 12 | SID, 1];
const CFGI_CD_ALL: Words = [0x06 | SID, 0];
const TLBI_NH_ALL: Words = [0x10 | 0x1234 << 32, 0];
const TLBI_NH_ASID: Words = [0x11 | 0x8765 << 48, 0];
const TLBI_NH_VA: u64 = 0x12 | 0x8765 << 48;
const TLBI_EL2_ALL: Words = [0x20, 0];
const TLBI_S12_VMALL: Words = [0x28 | 0x1234 << 32, 0];
const TLBI_S2_IPA: u64 = 0x2a | 0x1234 << 32;
const TLBI_NSNH_ALL: Words = [0x30, 0];
/// Size 52.
const ATC_ALL: Words = [0x40 | SID, 52];
/// SSV and the PASID.
const ATC_ALL_OF_PASID: Words = [0x40 | 1 << 11 | 0x5_4321 << 12 | SID, 52];

/// Leaf; TG of 4 KiB; TTL, NUM and SCALE.
const LEAF: u64 = 1;
const TG_4K: u64 = 1 << 10;
const fn ttl(level: u64) -> u64 {
    level << 8
}
const fn num(num: u64) -> u64 {
    num << 12
}
const fn scale(scale: u64) -> u64 {
    scale << 20
}

const K4: u64 = 0x1000;
const M2: u64 = 0x20_0000;
const G1: u64 = 0x4000_0000;

fn caps(hyp: u32, ril: u32) -> Capabilities {
    Capabilities::new([0x0d44_101b | hyp << 9, 0x0273_0010, 0, 0x1014 | ril << 10, 0, 0x74], 1)
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// Keeps what it is given, in order.
struct List(Vec<Words>);

impl batch::Sink<Command> for List {
    fn add(&mut self, command: Command) {
        self.0.push(command.0);
    }
}

fn run_on(caps: &Capabilities, change: Change<'_>) -> Vec<Words> {
    let mut list = List(Vec::new());
    plan(caps, &change, &mut list);
    list.0
}

fn run(change: Change<'_>) -> Vec<Words> {
    run_on(&caps(0, 1), change)
}

fn user(stream: StreamId, pasid: Option<u32>, atc: bool) -> User {
    User { stream, pasid: pasid.and_then(Pasid::new), atc: atc.then_some(Atc) }
}

fn users(all: &[(User, Tag)]) -> Users {
    let mut users = Users::new();
    all.iter().for_each(|(user, tag)| users.add(*tag, Seat::new(*user).unwrap()));
    users
}

fn unmapped_for(caps: &Capabilities, users: &Users, tag: Tag, page_bits: u8, gather: &Gather) -> Vec<Words> {
    run_on(caps, Change::Unmapped { tag, page_bits, users, gather })
}

/// With one stream without device TLB there.
fn unmapped(ril: u32, tag: Tag, gather: &Gather) -> Vec<Words> {
    unmapped_for(&caps(0, ril), &users(&[(user(STREAM, None, false), tag)]), tag, 12, gather)
}

/// A gather of leaves of one level.
fn gather(ranges: &[(u64, u64)], level: u8) -> Gather {
    let mut gather = Gather::new();
    ranges.iter().for_each(|(start, len)| gather.add_leaves(range(*start, *len), level));
    gather
}
