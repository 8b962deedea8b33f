//! Every row of the transition table, as raw descriptor words worked out from the specification's bit numbers.

use super::*;
use crate::spec::descriptor::Descriptor;
use alloc::vec::Vec;
use iommu_core::addr::Iova;

const CAP: u64 = 0x00d2_008c_222f_0606;
/// SMTS and SSTS, and as added here DT (2), PASID (40) and PSS of 20 bits (39:35).
const ECAP: u64 = 0x0000_4800_80f0_0f4a | 1 << 2 | 1 << 40 | 19 << 35;
/// DW and DR, bits 6 and 7: the capabilities above report both.
const DRAIN: u64 = 0b11 << 6;
const DID: u16 = 0x1234;
const SECOND: Tag = Tag::Domain(DID);
const FIRST: Tag = Tag::DomainAndPasid(DID);
/// A guest's first stage on top of [`SECOND`].
const NESTED: Tag = Tag::Domain(0x2345);

const CONTEXT_GLOBAL: u64 = 1 | 1 << 4;
const CONTEXT_DEVICE: u64 = 1 | 3 << 4 | 0x0abc << 32;
const CONTEXT_DEVICE_OF_DOMAIN: u64 = CONTEXT_DEVICE | 0x1234 << 16;
const CONTEXT_DOMAIN: u64 = 1 | 2 << 4 | 0x1234 << 16;
const PASID_CACHE_GLOBAL: u64 = 7 | 3 << 4;
const PASID_CACHE_ONE: u64 = 7 | 1 << 4 | 0x1234 << 16;
const PASID_CACHE_ONE_0: u64 = 7 | 1 << 4;
const PASID_CACHE_DOMAIN: u64 = 7 | 0x1234 << 16;
const PASID_CACHE_DOMAIN_0: u64 = 7;
const IOTLB_GLOBAL: u64 = 2 | 1 << 4 | DRAIN;
const IOTLB_DOMAIN: u64 = 2 | 2 << 4 | DRAIN | 0x1234 << 16;
const IOTLB_DOMAIN_0: u64 = 2 | 2 << 4 | DRAIN;
const IOTLB_NESTED: u64 = 2 | 2 << 4 | DRAIN | 0x2345 << 16;
const IOTLB_PAGES: u64 = 2 | 3 << 4 | DRAIN | 0x1234 << 16;
const IOTLB_NESTED_PAGES: u64 = 2 | 3 << 4 | DRAIN | 0x2345 << 16;
const PASID_IOTLB_ALL: u64 = 6 | 2 << 4 | 0x1234 << 16;
const PASID_IOTLB_ALL_0: u64 = 6 | 2 << 4;
const PASID_IOTLB_PAGES: u64 = 6 | 3 << 4 | 0x1234 << 16;
const PASID_IOTLB_NESTED_PAGES: u64 = 6 | 3 << 4 | 0x2345 << 16;
/// Type 3: source id in 47:32, MIP 4 in 20:16.
const DEVICE_TLB: u64 = 3 | 4 << 16 | 0x0abc << 32;
/// Type 8: source id in 31:16, MIP 4 in 8:4, PASID 0x54321 in 51:32.
const PASID_DEVICE_TLB: u64 = 8 | 4 << 4 | 0x0abc << 16 | 0x5_4321 << 32;
/// S, and all bits of the address below its top one.
const EVERYWHERE_3: u64 = 0x7fff_ffff_ffff_f001;
const EVERYWHERE_8: u64 = 0x7fff_ffff_ffff_f800;
/// IH.
const LEAVES: u64 = 1 << 6;

fn caps(more: u64) -> Capabilities {
    Capabilities::new(CAP | more, ECAP)
}

/// SMTS, bit 43, is clear.
fn legacy(more: u64) -> Capabilities {
    Capabilities::new(CAP | more, ECAP & !(1 << 43))
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// The first two words of each descriptor of `changes`; the others must be zero. And whether the write buffer is flushed.
fn planned(caps: &Capabilities, changes: &[Change<'_>]) -> (Vec<(u64, u64)>, bool) {
    let mut words = Vec::new();
    let mut submit = |batch: &[Invalidation]| {
        words.extend(batch.iter().map(|invalidation| {
            let descriptor = Descriptor::from(*invalidation).0;
            assert_eq!(descriptor[2..], [0, 0]);
            (descriptor[0], descriptor[1])
        }));
        Ok(())
    };
    let mut batch = Batch::new(&mut submit);
    let buffered = changes.iter().fold(false, |some, change| plan(caps, change, &mut batch) | some);
    let submitted = batch.finish().unwrap();
    (words, buffered && !submitted)
}

fn run_all(more: u64, changes: &[Change<'_>]) -> Vec<(u64, u64)> {
    planned(&caps(more), changes).0
}

fn run(more: u64, change: Change<'_>) -> Vec<(u64, u64)> {
    run_all(more, &[change])
}

fn flushes_write_buffer(more: u64, changes: &[Change<'_>]) -> bool {
    planned(&caps(more), changes).1
}

const SOURCE: RequesterId = RequesterId::new(0xabc);
/// Requests without PASID.
const USER: User = User { source: SOURCE, pasid: None, index: 0, tlb: None };
const TLB: TlbTarget = TlbTarget { source: SOURCE, physical: None, queue_depth: 4 };

/// Requests with a PASID.
fn with_pasid(pasid: u32) -> User {
    User { pasid: Pasid::new(pasid), index: pasid, ..USER }
}

fn with_tlb(user: User) -> User {
    User { tlb: Some(TLB), ..user }
}

fn users(of: &[(Tag, User)]) -> Users {
    let mut users = Users::new();
    of.iter().for_each(|(tag, user)| users.add(*tag, Seat::new(*user).unwrap()));
    users
}

fn gather(leaves: &[(u64, u64)]) -> Gather {
    let mut gather = Gather::new();
    leaves.iter().for_each(|(start, len)| gather.add_leaves(range(*start, *len), 0));
    gather
}

/// What an unmap of a domain with this tag adds.
fn unmap(tag: Tag, of: &[(Tag, User)], gather: &Gather) -> Vec<(u64, u64)> {
    run(0, Change::Unmapped { tag, users: &users(of), gather })
}

const CM: u64 = 1 << 7;
const RWBF: u64 = 1 << 4;
const ESRTPS: u64 = 1 << 63;

mod entries;
mod tables;
